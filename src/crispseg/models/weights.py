"""Weights as data: where they come from, what preprocessing goes with them, strict loading.

Importing this module does not import torch; listing models must answer at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crispseg.io.atomic import atomic_path
from crispseg.types import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

Triple = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BUNDLED_FOLDER = Path(__file__).parent.parent / "weights"


@dataclass(frozen=True)
class WeightSpec:
    """A file of weights that crispseg knows by name.

    Attributes:
        name: what ``load_refiner`` and ``--model`` take.
        architecture: key of ``crispseg.models.build.BUILDERS``.
        filename: in the package (``url`` None) or in the cache folder.
        licence: of the weights.
        size_bytes: about.
        task: what it does, in a few words.
        url: where the authors host it; None if it is part of this package.
        md5: checksum that its authors publish; None if it is part of this package.
        mean: subtracted from RGB in [0, 1].
        std: what is then divided by.
    """

    name: str
    architecture: str
    filename: str
    licence: str
    size_bytes: int
    task: str
    url: str | None = None
    md5: str | None = None
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD


KNOWN: dict[str, WeightSpec] = {
    spec.name: spec
    for spec in (
        WeightSpec(
            name="cascadepsp-lite",
            architecture="cascadepsp-lite",
            filename="cascadepsp-lite.safetensors",
            licence="MIT",
            size_bytes=1_700_000,
            task="refine any mask; small, for CPUs",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        WeightSpec(
            name="cascadepsp-resnet50",
            architecture="cascadepsp-resnet50",
            filename="cascadepsp-resnet50.pth",
            licence="MIT",
            size_bytes=271_000_000,
            task="refine any mask; the authors' network",
            url="https://github.com/hkchengrex/CascadePSP/releases/download/v1.0/model",
            md5="7478d4a9c42ab52beb6d7e9683402fe0",
        ),
    )
}


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


def cache_folder() -> Path:
    """Where downloaded weights are kept: $CRISPSEG_HOME, or the system's cache folder."""
    if home := os.environ.get("CRISPSEG_HOME"):
        return Path(home).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "crispseg"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "crispseg"


def known(name: str) -> WeightSpec:
    """The record of a name.

    Raises:
        InputError: unknown; with the nearest known name.
    """
    if name in KNOWN:
        return KNOWN[name]
    near = get_close_matches(name, KNOWN, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(KNOWN)}"
    raise InputError(f"no model or weights file is called {name!r}; {hint}")


def local_file(spec: WeightSpec) -> Path | None:
    """The file of a known model on this machine, or None.

    Beside the cache folder, the folder of the authors' own package is looked into; a file there
    counts only if its checksum is right.
    """
    if spec.url is None:
        path = BUNDLED_FOLDER / spec.filename
        return path if path.is_file() else None
    cached = cache_folder() / spec.filename
    if cached.is_file():
        return cached
    theirs = Path.home() / ".segmentation-refinement" / "model"
    if spec.name == "cascadepsp-resnet50" and theirs.is_file() and file_md5(theirs) == spec.md5:
        return theirs
    return None


def file_md5(path: Path) -> str:
    """MD5 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def load_model(name_or_file: str | Path) -> LoadedModel:
    """A network with weights, from a known name or a file.

    Files: safetensors written by ``save_weights``; a PyTorch state dict, plain, under "state_dict"
    or "model", with or without the "module." prefix of DataParallel; the published CascadePSP
    file. Loading is strict, and runs no code that a file might carry.

    Raises:
        InputError: unknown name, model not downloaded yet, or a file that does not fit.
    """
    if isinstance(name_or_file, str) and name_or_file in KNOWN:
        spec = KNOWN[name_or_file]
        path = local_file(spec)
        if path is None:
            raise InputError(
                f"{spec.name} is not on this machine; get it with "
                f"`crispseg models download {spec.name}`"
            )
        return _from_state(_read_state(path)[0], spec.architecture, spec.mean, spec.std, path)
    path = Path(name_or_file)
    if not path.exists():
        known(str(name_or_file))
    state, metadata = _read_state(path)
    if "architecture" in metadata:
        mean, std = (_triple(metadata, key, path) for key in ("mean", "std"))
        return _from_state(state, metadata["architecture"], mean, std, path, metadata)
    spec = KNOWN["cascadepsp-resnet50"]
    return _from_state(state, spec.architecture, spec.mean, spec.std, path)


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
    """
    from safetensors.torch import save  # noqa: PLC0415

    text = dict(metadata or {})
    text |= {"architecture": architecture, "mean": json.dumps(mean), "std": json.dumps(std)}
    tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=text))


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
        first, second, third = (float(value) for value in json.loads(metadata[key]))
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: its metadata has no usable {key!r}") from None
    return first, second, third


def _read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a weights file")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"cannot read weights file {path}: {error.strerror}") from None
    if len(head) < 16:
        raise InputError(f"{path} is not a weights file: it has {len(head)} bytes")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    return _unwrap(_read_pickle(path), path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a usable safetensors file: {reason}") from None


def _read_pickle(path: Path) -> Any:
    import pickle  # noqa: PLC0415
    from zipfile import BadZipFile  # noqa: PLC0415

    import torch  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles; what matters is the outcome
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is not a file of weights alone; files that could run code are not loaded"
        ) from None
    except (RuntimeError, EOFError, BadZipFile, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged or not a weights file: {reason}") from None


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    import torch  # noqa: PLC0415

    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded:
        raise InputError(f"{path} holds no state dict")
    if not all(isinstance(key, str) and isinstance(v, torch.Tensor) for key, v in loaded.items()):
        raise InputError(f"{path} holds more than named tensors; save its state dict alone")
    if all(key.startswith("module.") for key in loaded):
        return {key.removeprefix("module."): value for key, value in loaded.items()}
    return loaded


def _from_state(
    state: dict[str, Tensor],
    architecture: str,
    mean: Triple,
    std: Triple,
    path: Path,
    metadata: Mapping[str, str] | None = None,
) -> LoadedModel:
    from crispseg.models.build import build  # noqa: PLC0415

    module = build(architecture)
    state = from_published_names(state)
    _check_fit(module.state_dict(), state, architecture, path)
    module.load_state_dict(state, strict=False)  # strictness is _check_fit's; it says more
    return LoadedModel(module.eval(), mean, std, architecture, str(path), metadata or {})


def _check_fit(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], architecture: str, path: Path
) -> None:
    """Every tensor, of the right shape and finite; only BatchNorm's step counter may be missing."""
    missing = [key for key in wanted if key not in given and "num_batches_tracked" not in key]
    unexpected = [key for key in given if key not in wanted]
    if missing or unexpected:
        problems = [
            f"{len(keys)} {what} (first: {keys[0]})"
            for what, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise InputError(f"{path} does not fit {architecture}: tensors {', '.join(problems)}")
    for key, value in given.items():
        if value.shape != wanted[key].shape:
            raise InputError(
                f"{path} does not fit {architecture}: {key} has shape {tuple(value.shape)}, "
                f"not {tuple(wanted[key].shape)}"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{path} is damaged: {key} holds NaN or infinite values")
