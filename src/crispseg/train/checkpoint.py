"""Saving a run so that it can go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch

from crispseg.io.atomic import atomic_path
from crispseg.train.config import MAY_CHANGE, TrainConfig
from crispseg.types import InputError

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and text to ``folder``, whole or not at all.

    Raises:
        InputError: it cannot be written, or the disk is full.
    """
    with atomic_path(folder / CHECKPOINT) as temporary:
        try:
            torch.save(state, temporary)
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
            raise InputError(
                f"{folder / CHECKPOINT} cannot be written; is the disk full? ({_line(error)})"
            ) from None


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """What ``save_checkpoint`` wrote, or None if there is nothing yet.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} is damaged ({_line(error)}); remove it, or begin again with --restart"
        ) from None
    return state


def recipe_of(config: TrainConfig, processes: int) -> dict[str, Any]:
    """The recipe as a checkpoint keeps it; its batch_size is that of all processes together."""
    return asdict(config) | {"batch_size": config.batch_size * processes}


def check_same_recipe(kept: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with another recipe than the run began with.

    Keys in ``MAY_CHANGE`` may differ. A key that the checkpoint does not have yet counts as its
    default, which is what the version that wrote it did.

    Args:
        kept: ``recipe_of`` the run that wrote the checkpoint.
        now: ``recipe_of`` this one.
        folder: where the checkpoint is.

    Raises:
        InputError: a key differs; with both values.
    """
    for field in fields(TrainConfig):
        key = field.name
        default = None if field.default is MISSING else field.default
        before, after = kept.get(key, default), now[key]
        if key not in MAY_CHANGE and _listed(before) != _listed(after):
            of_all = " (of all processes together)" if key == "batch_size" else ""
            raise InputError(
                f"{key}{of_all} is {after!r}, but the run in {folder} began with {before!r}; "
                "give it another output folder, or begin again with --restart"
            )


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
