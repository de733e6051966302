"""Weights as data: where they come from, what preprocessing goes with them, strict loading.

Importing this module does not import torch; listing models must answer at once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from crispseg.io.atomic import atomic_path
from crispseg.models.statefile import one_line, read_state
from crispseg.models.zoo import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    KNOWN,
    Triple,
    WeightSpec,
    known,
    local_file,
)
from crispseg.types import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_CLASSES = 65535


@dataclass(frozen=True)
class LoadedModel:
    """A network with the preprocessing that belongs to its weights.

    Attributes:
        module: in eval mode, float32, on the CPU.
        mean: subtracted from RGB in [0, 1].
        std: what is then divided by.
        architecture: key of ``crispseg.models.build.BUILDERS``.
        source: name or file that it came from.
        metadata: what the file says of itself.
    """

    module: nn.Module
    mean: Triple
    std: Triple
    architecture: str
    source: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def load_model(name_or_file: str | Path) -> LoadedModel:
    """A network with weights, from a known name or a file.

    Files: safetensors written by ``save_weights``; a PyTorch state dict, plain, under "state_dict"
    or "model", with or without the "module." prefix of DataParallel; the published CascadePSP
    file; published segmentation networks (``crispseg.models.published``). A file that does not say
    its network is recognised by the names of its tensors and gets the preprocessing of the known
    model of that network. Loading is strict, and runs no code that a file might carry.

    Raises:
        InputError: unknown name, model not downloaded yet, or a file that does not fit.
    """
    spec = KNOWN.get(name_or_file) if isinstance(name_or_file, str) else None
    path = Path(name_or_file) if spec is None else _here(spec)
    if not os.path.exists(path):
        known(str(name_or_file))
    state, metadata = read_state(path)
    if "architecture" not in metadata:
        state, found = _published(state)
        metadata = found | metadata
        if spec and spec.class_names:
            metadata = {"class_names": json.dumps(spec.class_names)} | metadata
        if spec is None and not found:
            spec = _nearest(state, path)
    # What the file says of itself goes before what is known of it.
    about = metadata
    if spec:
        texts = spec.architecture, json.dumps(spec.mean), json.dumps(spec.std)
        about = dict(zip(("architecture", "mean", "std"), texts, strict=True)) | metadata
    mean, std = (_triple(about, key, path) for key in ("mean", "std"))
    module = _fill(about, state, path)
    return LoadedModel(module, mean, std, about["architecture"], str(path), metadata)


def _published(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under our names and what a published segmentation file is of; else no word of it."""
    from crispseg.models.published import recognise  # noqa: PLC0415

    found = recognise(state)
    if found is None:
        return state, {}
    return found.state, {
        "architecture": found.architecture,
        "num_classes": str(found.num_classes),
        "mean": json.dumps(IMAGENET_MEAN),
        "std": json.dumps(IMAGENET_STD),
    }


def _here(spec: WeightSpec) -> Path:
    path = local_file(spec)
    if path is None:
        fix = f"get it with `crispseg models download {spec.name}`" if spec.url else "reinstall it"
        raise InputError(f"{spec.name} is not on this machine; {fix}")
    return path


def save_weights(
    path: str | Path,
    module: nn.Module,
    *,
    architecture: str,
    mean: Triple,
    std: Triple,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network's weights as safetensors, with all that is needed to use them.

    Args:
        path: of the file; it appears whole or not at all.
        module: the network.
        architecture: key of ``crispseg.models.build.BUILDERS``.
        mean: subtracted from RGB in [0, 1].
        std: what is then divided by.
        metadata: more to say, text only.

    Raises:
        InputError: ``path`` cannot be written, or the disk is full.
    """
    from safetensors.torch import save  # noqa: PLC0415

    text = dict(metadata or {})
    text |= {"architecture": architecture, "mean": json.dumps(mean), "std": json.dumps(std)}
    tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            temporary.write_bytes(save(tensors, metadata=text))
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None


# Parameter names of the released code -> ours.
PUBLISHED_NAMES = {
    "feats.": "trunk.",
    "psp.stages.": "pyramid.branches.",
    "psp.bottleneck.": "bottleneck.",
    "final_28.": "head_s8.",
    "final_56.": "head_s4.",
    "final_11.": "head_s1.0.",
    "final_21.": "head_s1.2.",
}


def from_published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CascadePSP state dict with our parameter names; ours pass through unchanged."""
    renamed = {}
    for key, value in state.items():
        old = next((old for old in PUBLISHED_NAMES if key.startswith(old)), "")
        renamed[PUBLISHED_NAMES.get(old, "") + key[len(old) :]] = value
    return renamed


def _triple(metadata: Mapping[str, str], key: str, path: Path) -> Triple:
    try:
        first, second, third = (float(v) for v in json.loads(metadata[key]) if type(v) is not str)
        usable = all(math.isfinite(v) and (v > 0 or key != "std") for v in (first, second, third))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        usable = False
    if not usable:
        raise InputError(f"{path}: its metadata has no usable {key!r}")
    return first, second, third


def _few(names: list[str]) -> str:
    return one_line(", ".join(names[:3]))


def _nearest(state: Mapping[str, Tensor], path: Path) -> WeightSpec:
    """The known model whose network shares most names with this state dict."""
    import torch  # noqa: PLC0415

    from crispseg.models.build import BUILDERS, build  # noqa: PLC0415

    names = from_published_names(state).keys()
    with torch.device("meta"):  # names only: nothing is allocated or initialised
        shared = {
            spec.name: len(names & build(spec.architecture).state_dict().keys())
            for spec in KNOWN.values()
            if spec.architecture in BUILDERS
        }
    name = max(shared, key=lambda name: shared[name])
    if not shared[name]:
        raise InputError(
            f"{path} does not say which network it is for, and no network of crispseg has its "
            f"{len(state)} tensors (first: {_few(list(state))})"
        )
    return KNOWN[name]


def _fill(about: Mapping[str, str], state: dict[str, Tensor], path: Path) -> nn.Module:
    """A network with these weights, in eval mode."""
    from crispseg.models.build import BUILDERS, SEGMENTATION_BUILDERS  # noqa: PLC0415

    architecture = about["architecture"]
    if architecture in SEGMENTATION_BUILDERS:
        module: nn.Module = SEGMENTATION_BUILDERS[architecture](len(read_classes(about, path)[0]))
    elif architecture in BUILDERS:
        module = BUILDERS[architecture]()
    else:
        raise InputError(
            f"{path} is for a network crispseg does not have: {one_line(architecture)}"
        )
    ours = from_published_names(state)
    if len(ours) < len(state):
        raise InputError(f"{path} holds the same tensors under the published names and under ours")
    _check_fit(module.state_dict(), ours, architecture, path)
    module.load_state_dict(ours, strict=False)  # strictness is _check_fit's; it says more
    return module.eval()


def read_classes(
    metadata: Mapping[str, str], path: str | Path
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and colours of the classes that a segmentation network's file says it has.

    Args:
        metadata: num_classes, class_names, colours as JSON; either of the first two may be
            missing, and the colours.
        path: of the file, for messages.

    Raises:
        InputError: neither number nor names, or values that do not fit together.
    """
    try:
        names = [str(name) for name in json.loads(metadata.get("class_names", "[]"))]
        number = int(metadata.get("num_classes", len(names)))
        names = names or [f"class {i}" for i in range(min(number, MAX_CLASSES))]
        colours = [tuple(map(int, c)) for c in json.loads(metadata.get("colours", "[]"))]
        usable = 2 <= number == len(names) <= MAX_CLASSES and len(colours) in (0, number)
        usable &= all(len(c) == 3 and min(c) >= 0 and max(c) <= 255 for c in colours)
    except (TypeError, ValueError, OverflowError, RecursionError):
        usable = False
    if not usable:
        raise InputError(f"{path}: its metadata has no usable num_classes, class_names and colours")
    return tuple(names), tuple((c[0], c[1], c[2]) for c in colours)


def _check_fit(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], architecture: str, path: Path
) -> None:
    """Every tensor, of the right shape and finite; only BatchNorm's step counter may be missing."""
    both = [key for key in wanted if key in given]
    problems = {
        "missing": [k for k in wanted if k not in given and "num_batches_tracked" not in k],
        "unexpected": [key for key in given if key not in wanted],
        "mis-shaped": [
            f"{key} has shape {tuple(given[key].shape)}, not {tuple(wanted[key].shape)}"
            for key in both
            if given[key].shape != wanted[key].shape
        ],
        "of another kind": [key for key in both if _kind(given[key]) != _kind(wanted[key])],
    }
    found = [f"{len(k)} {what} (first: {_few(k)})" for what, k in problems.items() if k]
    if found:
        raise InputError(f"{path} does not fit {architecture}: tensors {', '.join(found)}")
    # As float32, what they become: a large float64 would turn infinite.
    if bad := [key for key in both if not bool(given[key].float().isfinite().all())]:
        raise InputError(f"{path} is damaged: {len(bad)} tensors not finite (first: {_few(bad)})")


def _kind(tensor: Tensor) -> tuple[object, ...]:
    # Sparse tensors and those without data have other layouts and devices.
    return tensor.is_floating_point(), tensor.is_complex(), tensor.layout, tensor.device
