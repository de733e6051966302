"""What the tests of several commands need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crispseg.models.build import build
from crispseg.models.weights import save_weights


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of cascadepsp-lite that need no training for what is tested here."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    module = build("cascadepsp-lite")
    save_weights(path, module, architecture="cascadepsp-lite", mean=(0.5,) * 3, std=(0.5,) * 3)
    return path
