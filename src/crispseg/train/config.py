"""A training recipe: one flat TOML file, one frozen dataclass, no inheritance."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from crispseg.types import InputError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that decides a training run: of a segmentation network if ``dataset`` is given.

    Attributes:
        model: a network of ``crispseg.models.build``: of ``BUILDERS``, or with ``dataset`` of
            ``SEGMENTATION_BUILDERS``.
        data: folder made by ``recipes/prepare_lite_data.py``, or the root of ``dataset``.
        output: folder for checkpoints, log and weights.
        imagenet_trunk: start the compact trunk from ImageNet weights (extra ``train``).
        trunk_weights: file of a ResNet trunk in torchvision's layout to start from; "" for none.
        start_from: file of weights of the whole network to start from (fine-tuning); "" for none.
        mean: subtracted from RGB in [0, 1].
        std: what is then divided by.
        crop_size: side of the training crops; a refiner's is a multiple of 16.
        coarse: how coarse masks are made: "paper" as published, "mixed" half so, half with
            errors of networks, "network" a fifth and four fifths.
        real_fraction: share of samples from real pairs; the others are composites.
        source_factors: "source=factor" each: how many times more often than by its size a source
            of real pairs is drawn.
        region_share: share of coarse masks that lack a part of the object, or hold one of what is
            beside it, up to an edge in the image.
        faithful_share: share of coarse masks that are right along most of their edge.
        found_share: share of pictures with masks of real networks in the cache that use one.
        faded_share: share of images with next to no contrast.
        without: groups of the data to leave out, for cross-validation.
        batch_size: samples in a step, of each process.
        iterations: steps in all; 0 for no limit.
        max_minutes: minutes in all, over all resumed runs; 0 for no limit.
        optimiser: "adamw", "adam" with L2 weight decay as CascadePSP has it, or "sgd" with
            momentum 0.9.
        learning_rate: at its height, of everything but the trunk.
        trunk_factor: times ``learning_rate`` for the trunk.
        schedule: "cosine" down to 1 %, "step" (x 0.1 at each milestone) or "poly" (power 0.9).
        milestones: steps at which schedule "step" lowers the rate.
        warmup: steps over which the rate rises to its height.
        weight_decay: of the optimiser.
        gradient_clip: largest norm of the gradient; 0 for no limit.
        ema_decay: of the averaged weights, which are what is saved; 0 for no averaging.
        local_step_share: share of steps trained as the local step (two runs, soft S4 given).
        own_coarse_share: of those, the share that is given what the network itself finds in the
            same image at a half, a third or all of its size; the others are given the coarse mask.
        seed: of samples and steps.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: of the network's layers; losses and weights are float32 always.
        channels_last: memory layout of the network, for speed.
        sync_bn: BatchNorm over all processes of a run on several GPUs.
        threads: of the network; 0 leaves PyTorch's own choice.
        workers: processes that make samples.
        checkpoint_minutes: between checkpoints.
        log_every: steps between lines of the log.
        validate_every: steps between validations; 0 for none.
        validate_count: samples of a validation, always the same ones.
        validate_crop_size: side of their crops; 0 for ``crop_size``.
        keep_best: keep the weights of the best validation (mBA, or mean IoU) as
            ``<model>-best.safetensors``.
        tensorboard: write scalars and pictures for TensorBoard as well (extra ``train``).
        picture_every: steps between pictures.
        dataset: name of a data set of labelled images (``crispseg.data.datasets``); "" trains a
            refiner.
        train_split: the data set's split to train on.
        validate_split: the one to validate on, whole images.
        crop_width: width of the crops, whose height is ``crop_size`` then; 0 for squares.
        scales: images are resized by a factor from this range.
        scale_step: of factors: lowest, lowest + step, ...; 0 for any factor between.
        short_side: range in pixels that the short side of resized images is kept in; [] for any.
        rotation: largest angle in degrees; half of the crops are turned. 0 for none.
        blur: blur half of the crops with a 5x5 Gaussian.
        colour: largest relative change of brightness; 0 leaves colours alone.
        sampling: "uniform": every image once an epoch; "balanced": a class, an image with it, a
            crop around it.
        repeat_classes: images that hold one of these classes come more often.
        repeat_factor: how many times an epoch.
        aux_weight: of the auxiliary head's loss, where the network has one.
        class_weights: of the cross entropy, one for each class; [] for equal ones.
        output_stride: of the trunk, for networks that can change it; 0 for the network's own.
        freeze_bn: BatchNorm stays as it starts, statistics and parameters.
        segmenter: trains MagNet's refinement module (model "magnet") on this frozen segmentation
            network, a name or a weights file; with ``dataset``.
        stage_sides: long side of the image at each of MagNet's stages, rising; 0 is its own. The
            network sees tiles of ``crop_size`` x ``crop_width`` at each.
        point_share: share of a tile's points that each stage of a chain replaces.
        hard_below: only pixels whose true class is less probable than this count in the loss.
        hard_least: but at least so many of a batch; 0 for all of them.
    """

    model: str
    data: str
    output: str
    imagenet_trunk: bool = False
    trunk_weights: str = ""
    start_from: str = ""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop_size: int = 192
    coarse: Literal["mixed", "network", "paper"] = "mixed"
    real_fraction: float = 0.3
    source_factors: tuple[str, ...] = ()
    region_share: float = 0.0
    faithful_share: float = 0.0
    found_share: float = 0.0
    faded_share: float = 0.0
    without: tuple[str, ...] = ()
    batch_size: int = 12
    iterations: int = 0
    max_minutes: float = 0.0
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    trunk_factor: float = 1.0
    schedule: Literal["cosine", "step", "poly"] = "cosine"
    milestones: tuple[int, ...] = ()
    warmup: int = 100
    weight_decay: float = 1e-4
    gradient_clip: float = 5.0
    ema_decay: float = 0.998
    local_step_share: float = 0.35
    own_coarse_share: float = 0.0
    seed: int = 0
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    sync_bn: bool = False
    threads: int = 0
    workers: int = 1
    checkpoint_minutes: float = 5.0
    log_every: int = 20
    validate_every: int = 0
    validate_count: int = 32
    validate_crop_size: int = 0
    keep_best: bool = True
    tensorboard: bool = False
    picture_every: int = 500
    dataset: str = ""
    train_split: str = "train"
    validate_split: str = "val"
    crop_width: int = 0
    scales: tuple[float, ...] = (0.5, 2.0)
    scale_step: float = 0.0
    short_side: tuple[float, ...] = ()
    rotation: float = 0.0
    blur: bool = False
    colour: float = 0.0
    sampling: Literal["uniform", "balanced"] = "uniform"
    repeat_classes: tuple[str, ...] = ()
    repeat_factor: int = 1
    aux_weight: float = 0.4
    class_weights: tuple[float, ...] = ()
    output_stride: int = 0
    freeze_bn: bool = False
    segmenter: str = ""
    stage_sides: tuple[int, ...] = ()
    point_share: float = 0.5
    hard_below: float = 0.7
    hard_least: int = 100_000


# Keys that mean something to one kind of network only.
REFINER_KEYS = frozenset(
    [
        *("coarse", "real_fraction", "source_factors", "without", "local_step_share"),
        *("own_coarse_share", "validate_count", "validate_crop_size"),
        *("region_share", "faithful_share", "found_share", "faded_share"),
    ]
)
SEGMENTER_KEYS = frozenset(
    [
        *("dataset", "train_split", "validate_split", "crop_width", "scales", "scale_step"),
        *("short_side", "rotation", "blur", "colour", "sampling", "repeat_classes"),
        *("repeat_factor", "aux_weight", "class_weights", "output_stride"),
    ]
)

# These of a segmentation network's recipe mean nothing to MagNet's.
CROP_KEYS = frozenset(
    [
        *("scales", "scale_step", "short_side", "rotation", "blur", "colour", "sampling"),
        *("repeat_classes", "repeat_factor", "aux_weight", "output_stride", "mean", "std"),
    ]
)
MAGNET_KEYS = frozenset(["segmenter", "stage_sides", "point_share", "hard_below", "hard_least"])

# What may change when a run is resumed: where and on what it runs, when it ends, what it reports.
# Everything else decides the numbers that come out.
MAY_CHANGE = frozenset(
    [
        *("data", "output", "device", "channels_last", "threads", "workers"),
        *("iterations", "max_minutes", "checkpoint_minutes", "validate_every", "keep_best"),
        *("log_every", "tensorboard", "picture_every"),
    ]
)


def read_config(path: str | Path, changes: Iterable[str] = ()) -> TrainConfig:
    """Read a recipe.

    Args:
        path: a TOML file.
        changes: "key=value" each, in place of what the file says; values as in TOML, but text may
            go without quotes.

    Raises:
        InputError: no such file, bad TOML, unknown or missing key, wrong type or value; the
            message names the line, or the change.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"cannot read recipe {path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is not a valid TOML recipe: {error}") from None
    places = {key: f"{path}, line {_line_of(key, text)}" for key in values}
    for change in changes:
        key, value = _parsed(change)
        values[key], places[key] = value, f"--set {key}"
    _refuse_other_task(values, places)
    kinds = get_type_hints(TrainConfig)
    for key, value in values.items():
        if key not in kinds:
            raise InputError(f"{places[key]}: unknown key {key!r}; known: {', '.join(kinds)}")
        values[key] = _converted(value, kinds[key], f"{places[key]}: {key}")
    missing = [f.name for f in fields(TrainConfig) if f.default is MISSING and f.name not in values]
    if missing:
        raise InputError(f"{path}: missing key {missing[0]!r}")
    config = TrainConfig(**values)
    if wrong := _out_of_range(config):
        place = places.get(wrong, f"{path}, line 1")
        raise InputError(f"{place}: {wrong} = {_shown(getattr(config, wrong))} is out of range")
    if not (config.iterations or config.max_minutes):
        raise InputError(f"{path}: give iterations or max_minutes, or the run never ends")
    return config


def _refuse_other_task(values: Iterable[str], places: Mapping[str, str]) -> None:
    """A key that would be read and do nothing is a mistake."""
    if "segmenter" in values:
        wrong, reason = REFINER_KEYS | CROP_KEYS, "means nothing to MagNet's refinement module"
    elif "dataset" in values:
        wrong, reason = REFINER_KEYS, "is for refiners; a recipe with a dataset trains no refiner"
    else:
        wrong, reason = SEGMENTER_KEYS, "is for segmentation networks; such a recipe has a dataset"
    for key in values:
        if key in MAGNET_KEYS and "segmenter" not in values:
            raise InputError(f"{places[key]}: {key} is for MagNet; such a recipe has a segmenter")
        if key in wrong:
            raise InputError(f"{places[key]}: {key} {reason}")


def _line_of(key: str, text: str) -> int:
    pattern = re.compile(rf"\s*[\"']?{re.escape(key)}\b")
    lines = text.splitlines()
    return next((i for i, line in enumerate(lines, start=1) if pattern.match(line)), 1)


def _parsed(change: str) -> tuple[str, Any]:
    key, equals, text = (part.strip() for part in change.partition("="))
    if not equals or not key.isidentifier():
        raise InputError(f"--set takes key=value, not {change!r}")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text  # text without quotes; a number or list gone wrong fails by its type


def _converted(value: Any, kind: Any, place: str) -> Any:
    """``value`` from TOML as the type of its key."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            known = ", ".join(map(repr, get_args(kind)))
            raise InputError(f"{place} must be one of {known}, not {value!r}")
        return value
    if get_origin(kind) is tuple:
        inner, *rest = get_args(kind)
        wanted = "three numbers" if rest != [...] else f"a list of {inner.__name__}"
        if not isinstance(value, list) or (rest != [...] and len(value) != 3):
            raise InputError(f"{place} must be {wanted}, not {value!r}")
        return tuple(_converted(v, inner, place) for v in value)
    accepted = int | float if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{place} must be of type {kind.__name__}, not {value!r}")
    if kind is float and not math.isfinite(value):
        raise InputError(f"{place} must be finite, not {value!r}")
    return float(value) if kind is float else value


def _out_of_range(config: TrainConfig) -> str | None:
    """The first key whose value makes no sense."""
    steps = config.milestones
    demands = {
        "std": min(config.std) > 0,
        "crop_size": config.crop_size >= 32
        and (bool(config.dataset) or config.crop_size % 16 == 0),
        "real_fraction": config.real_fraction <= 1,
        "region_share": config.region_share <= 1,
        "faithful_share": config.faithful_share <= 1,
        "found_share": config.found_share <= 1,
        "faded_share": config.faded_share <= 1,
        "batch_size": config.batch_size >= 1,
        "learning_rate": config.learning_rate > 0,
        "milestones": bool(steps) == (config.schedule == "step")
        and list(steps) == sorted(set(steps)),
        "ema_decay": config.ema_decay < 1,
        "local_step_share": config.local_step_share <= 1,
        "own_coarse_share": config.own_coarse_share <= 1,
        "seed": config.seed < 2**32,
        "log_every": config.log_every >= 1,
        "validate_count": config.validate_count >= 1,
        "validate_crop_size": config.validate_crop_size % 16 == 0,
        "picture_every": config.picture_every >= 1,
        "scales": _is_range(config.scales) and config.scales[0] > 0,
        "short_side": not config.short_side or _is_range(config.short_side),
        "rotation": config.rotation <= 180,
        "colour": config.colour < 1,
        "repeat_factor": config.repeat_factor >= 1,
        "class_weights": not config.class_weights
        or (min(config.class_weights) >= 0 and max(config.class_weights) > 0),
        "point_share": 0 < config.point_share <= 1,
        "hard_below": config.hard_below <= 1,
        "output_stride": config.output_stride in (0, 4, 8, 16, 32),
    }
    for field in fields(config):
        value = getattr(config, field.name)
        if not demands.get(field.name, True) or (isinstance(value, int | float) and value < 0):
            return field.name
    return None


def _is_range(values: tuple[float, ...]) -> bool:
    return len(values) == 2 and 0 <= values[0] <= values[1]


def recipe_values(config: TrainConfig) -> dict[str, Any]:
    """The whole recipe, what was left out included, but for keys of the other kind of network."""
    others = REFINER_KEYS if config.dataset else SEGMENTER_KEYS
    others |= CROP_KEYS if config.segmenter else MAGNET_KEYS
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name not in others}


def recipe_text(config: TrainConfig) -> str:
    """``recipe_values`` as TOML."""
    return "\n".join(f"{key} = {_shown(value)}" for key, value in recipe_values(config).items())


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
