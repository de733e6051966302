"""Saving a run so that it can go on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from crispseg.io.atomic import atomic_path
from crispseg.types import InputError

FILENAME = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and text to ``folder``, whole or not at all."""
    with atomic_path(folder / FILENAME) as temporary:
        torch.save(state, temporary)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """What ``save_checkpoint`` wrote, or None if there is nothing yet.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / FILENAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged ({reason}); remove it to begin again") from None
    return state
