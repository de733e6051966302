"""Every test here may build the tiny networks, and leaves PyTorch's threads as they were."""

from __future__ import annotations

import pytest
import tiny
import torch

from crispseg.models.build import BUILDERS


@pytest.fixture(autouse=True)
def _tiny_networks(monkeypatch):
    for name, builder in tiny.NETWORKS.items():
        monkeypatch.setitem(BUILDERS, name, builder)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
