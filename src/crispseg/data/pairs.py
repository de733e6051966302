"""Images and their true masks in the folder layouts of the public data sets; the fixed split."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from crispseg.types import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
TEST_BYTES = 26
"""Of the 256 values of the first byte of a name's hash, how many mean "test" (about a tenth)."""

_FOLDER_PAIRS = (
    ("images", "masks"),
    ("DUTS-TR-Image", "DUTS-TR-Mask"),
    ("DUTS-TE-Image", "DUTS-TE-Mask"),
    ("im", "gt"),  # DIS5K, HRSOD and others repacked for matting tools
)


class Pair(NamedTuple):
    """One image with its true mask."""

    image: Path
    mask: Path


def is_test(name: str) -> bool:
    """Whether an item of this name is kept for testing: first byte of SHA-256(name) below 26.

    Args:
        name: the original file name with its suffix, without folders. For frames of a video
            the name of the sequence, so that one sequence never lies on both sides.
    """
    return hashlib.sha256(name.encode()).digest()[0] < TEST_BYTES


def sequence_of(path: Path) -> str:
    """The video sequence of a frame named ``SEQUENCE_FRAME.suffix`` (``car-shadow_00010.jpg``).

    A name without a numeric last part is its own sequence (the file name is returned).
    """
    sequence, _, frame = path.stem.rpartition("_")
    return sequence if sequence and frame.isdigit() else path.name


def find_pairs(folder: Path) -> list[Pair]:
    """Find (image, mask) pairs below ``folder``, sorted by image path.

    Layouts: ``images/`` with ``masks/``, DUTS (``DUTS-TR-Image/``, ``DUTS-TR-Mask/``) and
    ``im/`` with ``gt/``, same stems; BIG (``name_im.jpg``, ``name_gt.png``); and ``name.jpg``
    beside ``name.png`` (MSRA-10K, ECSSD, FSS-1000; in any depth of subfolders).

    Raises:
        InputError: no such folder, or no pair in it.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder of images and masks: {folder}")
    pairs = _pairs_in_two_folders(folder) + _pairs_side_by_side(folder)
    if not pairs:
        raise InputError(
            f"no image has a mask in {folder}; expected images/ with masks/, DUTS-TR-Image/ with "
            "DUTS-TR-Mask/, im/ with gt/, name_im.jpg with name_gt.png, or name.jpg with name.png"
        )
    return sorted(pairs)


def _pairs_in_two_folders(folder: Path) -> list[Pair]:
    pairs: list[Pair] = []
    for images, masks in _FOLDER_PAIRS:
        if (folder / images).is_dir() and (folder / masks).is_dir():
            by_stem = {p.stem: p for p in _files(folder / masks)}
            pairs += [
                Pair(p, by_stem[p.stem]) for p in _files(folder / images) if p.stem in by_stem
            ]
    return pairs


def _pairs_side_by_side(folder: Path) -> list[Pair]:
    pairs: list[Pair] = []
    for image in folder.rglob("*.jp*g"):
        if image.stem.endswith("_im"):
            mask = image.with_name(image.stem.removesuffix("_im") + "_gt.png")
        else:
            mask = image.with_suffix(".png")
        if mask.is_file():
            pairs.append(Pair(image, mask))
    return pairs


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
