"""A training recipe: one flat TOML file, one frozen dataclass, no inheritance."""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from crispseg.types import InputError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that decides a training run.

    Attributes:
        model: key of ``crispseg.models.build.BUILDERS``.
        data: folder made by ``recipes/prepare_lite_data.py``.
        output: folder for checkpoints, log and weights.
        imagenet_trunk: start the compact trunk from ImageNet weights (extra ``train``).
        mean: subtracted from RGB in [0, 1].
        std: what is then divided by.
        crop_size: side of the training crops, a multiple of 16.
        batch_size: samples in a step.
        iterations: steps in all; 0 for no limit.
        max_minutes: minutes in all, over all resumed runs; 0 for no limit.
        learning_rate: at its height, of everything but the trunk.
        trunk_factor: times ``learning_rate`` for the trunk.
        warmup: steps over which the rate rises to its height.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema_decay: of the averaged weights, which are what is saved.
        local_step_share: share of steps trained as the local step (two runs, soft S4 given).
        seed: of samples and steps.
        threads: of the network; 0 leaves PyTorch's own choice.
        workers: processes that make samples.
        checkpoint_minutes: between checkpoints.
    """

    model: str
    data: str
    output: str
    imagenet_trunk: bool = False
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop_size: int = 192
    batch_size: int = 12
    iterations: int = 0
    max_minutes: float = 0.0
    learning_rate: float = 1e-3
    trunk_factor: float = 1.0
    warmup: int = 100
    weight_decay: float = 1e-4
    gradient_clip: float = 5.0
    ema_decay: float = 0.998
    local_step_share: float = 0.35
    seed: int = 0
    threads: int = 0
    workers: int = 1
    checkpoint_minutes: float = 5.0


def read_config(path: str | Path) -> TrainConfig:
    """Read a recipe.

    Raises:
        InputError: no such file, bad TOML, unknown or missing key, wrong type or value; the
            message names the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"cannot read recipe {path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is not a valid TOML recipe: {error}") from None
    wanted = {field.name: field for field in fields(TrainConfig)}
    for key, value in values.items():
        place = f"{path}, line {_line_of(key, text)}"
        if key not in wanted:
            raise InputError(f"{place}: unknown key {key!r}; known: {', '.join(wanted)}")
        values[key] = _converted(value, str(wanted[key].type), f"{place}: {key}")
    missing = [n for n, f in wanted.items() if f.default is MISSING and n not in values]
    if missing:
        raise InputError(f"{path}: missing key {missing[0]!r}")
    return _checked(TrainConfig(**values), path, text)


def _line_of(key: str, text: str) -> int:
    pattern = re.compile(rf"\s*[\"']?{re.escape(key)}\b")
    lines = text.splitlines()
    return next((i for i, line in enumerate(lines, start=1) if pattern.match(line)), 1)


def _converted(value: Any, kind: str, place: str) -> Any:
    if kind.startswith("tuple"):
        numbers = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
        if not numbers or len(value) != 3:
            raise InputError(f"{place} must be three numbers, not {value!r}")
        return tuple(float(v) for v in value)
    types = {"str": str, "bool": bool, "int": int, "float": int | float}
    wrong_bool = isinstance(value, bool) and kind != "bool"
    if wrong_bool or not isinstance(value, types[kind]):
        raise InputError(f"{place} must be of type {kind}, not {value!r}")
    return float(value) if kind == "float" else value


def _checked(config: TrainConfig, path: Path, text: str) -> TrainConfig:
    demands = {
        "crop_size": config.crop_size >= 32 and config.crop_size % 16 == 0,
        "batch_size": config.batch_size >= 1,
        "learning_rate": config.learning_rate > 0,
        "ema_decay": 0 <= config.ema_decay < 1,
        "local_step_share": 0 <= config.local_step_share <= 1,
        "gradient_clip": config.gradient_clip > 0,
        "iterations": config.iterations > 0 or config.max_minutes > 0,
    }
    for key, holds in demands.items():
        if not holds:
            line = _line_of(key, text)
            value = getattr(config, key)
            raise InputError(f"{path}, line {line}: {key} = {value} is out of range")
    return config
