"""What tests share: data that may be missing, and marks for slow and GPU tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest

# A busy machine is not a failure; the same examples every time, so that a failure is the change's.
hypothesis.settings.register_profile("default", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("default")


# A shell's background job ignores Ctrl-C, and what the tests of it start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests that take minutes as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))
        if "gpu" in item.keywords and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of photographs with accurate masks; not part of the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CRISPSEG_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; set CRISPSEG_DATA")
    return folder
