"""Weights that crispseg knows by name: where they come from, and where they lie on this machine.

Importing this module does not import torch; listing models must answer at once.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from crispseg.io.journal import checksum
from crispseg.types import InputError

Triple = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEFAULT_SEGMENTER = "lwrefinenet-camvid"
BUNDLED_FOLDER = Path(__file__).parent.parent / "weights"
REFINEMENTS = {DEFAULT_SEGMENTER: "magnet-camvid.safetensors"}
"""Segmentation network -> MagNet's refinement module that was trained on it and ships with it."""


@dataclass(frozen=True)
class WeightSpec:
    """A file of weights that crispseg knows by name.

    Attributes:
        name: what ``load_refiner`` and ``--model`` take.
        architecture: key of ``BUILDERS`` or ``SEGMENTATION_BUILDERS`` in ``models/build.py``.
        filename: in the package (``url`` None) or in the cache folder.
        licence: of the weights.
        size_bytes: about.
        task: what it does, in a few words.
        url: where the authors host it; None if it is part of this package.
        md5: checksum that its authors publish, if they do.
        sha256: the beginning of it, as torchvision has it in the names of its files.
        class_names: of a segmentation network whose file does not say them.
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
    sha256: str | None = None
    class_names: tuple[str, ...] = ()
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD


VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


def _torchvision(network: str, architecture: str, sha256: str, size_bytes: int) -> WeightSpec:
    """Trained on the images of COCO that hold classes of PASCAL VOC (torchvision's references)."""
    filename = f"{network}_coco-{sha256}.pth"
    return WeightSpec(
        name=f"{network.replace('_', '-')}-voc",
        architecture=architecture,
        filename=filename,
        licence="BSD-3",
        size_bytes=size_bytes,
        task="name the classes of PASCAL VOC; torchvision's",
        url=f"https://download.pytorch.org/models/{filename}",
        sha256=sha256,
        class_names=VOC_CLASSES,
    )


KNOWN: dict[str, WeightSpec] = {
    spec.name: spec
    for spec in (
        WeightSpec(
            name="cascadepsp-lite",
            architecture="cascadepsp-lite",
            filename="cascadepsp-lite.safetensors",
            licence="research",
            size_bytes=12_000_000,
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
        WeightSpec(
            name=DEFAULT_SEGMENTER,
            architecture="lwrefinenet-lite",
            filename="lwrefinenet-camvid.safetensors",
            licence="research",
            size_bytes=14_000_000,
            task="name 11 classes of street scenes; small, for CPUs",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        _torchvision(
            "deeplabv3_resnet50", "deeplabv3-torchvision-resnet50", "cd0a2569", 168_312_152
        ),
        _torchvision(
            "deeplabv3_resnet101", "deeplabv3-torchvision-resnet101", "586e9e4e", 244_545_539
        ),
        _torchvision("fcn_resnet50", "fcn-resnet50", "1167a1af", 141_567_418),
        _torchvision("fcn_resnet101", "fcn-resnet101", "7ecb50ca", 217_800_805),
    )
}


def cache_folder() -> Path:
    """Where downloaded weights are kept: $CRISPSEG_HOME, or the system's cache folder.

    Raises:
        InputError: the user has no home folder, as in some containers.
    """
    try:
        if home := os.environ.get("CRISPSEG_HOME"):
            return Path(home).expanduser()
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "crispseg"
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "crispseg"
    except RuntimeError:
        raise InputError("there is no home folder; set CRISPSEG_HOME to a folder") from None


def known(name: str) -> WeightSpec:
    """The record of a name.

    Raises:
        InputError: unknown; with the nearest known name.
    """
    if name in KNOWN:
        return KNOWN[name]
    near = get_close_matches(name, KNOWN, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(KNOWN)}"
    raise InputError(f"no model or weights file is called {name[:200]!r}; {hint}")


def bundled_refinement(segmenter: str | Path) -> Path:
    """MagNet's refinement module for a segmentation network that is known by name.

    Raises:
        InputError: none was trained on it.
    """
    if str(segmenter) not in REFINEMENTS:
        raise InputError(
            f"method magnet wants a refinement module (--refinement) trained on {segmenter}; one "
            f"is here for {', '.join(REFINEMENTS)}"
        )
    return BUNDLED_FOLDER / REFINEMENTS[str(segmenter)]


def local_file(spec: WeightSpec) -> Path | None:
    """The file of a known model on this machine, or None.

    Beside the cache folder, the folder of the authors' own package is looked into; a file there
    counts only if its checksum is right.
    """
    if spec.url is None:
        path = BUNDLED_FOLDER / spec.filename
        return path if path.is_file() else None
    cached = cache_folder() / spec.filename
    if os.path.isfile(cached):
        return cached
    with suppress(OSError, RuntimeError):  # not readable, no home: as good as not there
        theirs = Path.home() / ".segmentation-refinement" / "model"
        known_there = spec.name == "cascadepsp-resnet50" and theirs.is_file()
        if known_there and not wrong_checksum(theirs, spec):
            return theirs
    return None


def wrong_checksum(path: Path, spec: WeightSpec) -> str:
    """What a file's checksum is and should be; empty if it is right or nobody published one."""
    for kind, wanted in (("md5", spec.md5), ("sha256", spec.sha256)):
        if wanted:
            digest = checksum(path, kind)
            if not digest.startswith(wanted):
                return f"{kind.upper()} {digest}, wanted {wanted}"
    return ""
