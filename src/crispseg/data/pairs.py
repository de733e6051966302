"""Images and their true masks in the folder layouts of the public data sets; the fixed split."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from crispseg.types import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
TEST_BYTES = 26
"""Of the 256 values of the first byte of a name's hash, how many mean "test" (about a tenth)."""

MASK_FOLDERS = {
    "images": ("masks", "ground_truth_mask"),  # ECSSD has the second
    "image": ("mask",),  # UHRSD
    "DUTS-TR-Image": ("DUTS-TR-Mask",),
    "DUTS-TE-Image": ("DUTS-TE-Mask",),
    "DUT-OMRON-image": ("pixelwiseGT-new-PNG",),
    "im": ("gt",),  # DIS5K
    "HRSOD_train": ("HRSOD_train_mask",),
    "HRSOD_test": ("HRSOD_test_mask",),
}
"""Folder of images -> the folders beside it that may hold its masks."""

LAYOUTS = (
    "images/ + masks/",
    "DUTS-TR-Image/ + DUTS-TR-Mask/ (or TE)",
    "images/ + ground_truth_mask/ (ECSSD)",
    "DUT-OMRON-image/ + pixelwiseGT-new-PNG/",
    "im/ + gt/ (DIS5K: in DIS-TR/)",
    "image/ + mask/ (UHRSD)",
    "HRSOD_train/ + HRSOD_train_mask/ (or test)",
    "name_im.jpg or .png + name_gt.png (BIG)",
    "name.jpg + name.png (MSRA-10K: in Imgs/, FSS-1000: in a folder for each class)",
)
LABEL_LAYOUTS = (
    "images/ + labels/",
    "images/ + annotations/ (ADE20K: with training/ and validation/ in both)",
    "leftImg8bit/.../x_leftImg8bit.png + gtFine/.../x_gtFine_labelIds.png (Cityscapes)",
)


class Pair(NamedTuple):
    """One image with its true mask."""

    image: Path
    mask: Path


class Labelled(NamedTuple):
    """One image with its label map: a file whose pixel values are class numbers."""

    image: Path
    labels: Path


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


def names_of(pairs: list[Pair]) -> list[str]:
    """The name of every pair, which decides its split: its image's file name.

    Where images of several folders share a file name (FSS-1000 has a ``1.jpg`` for every class),
    the folder goes before it: ``abacus/1.jpg``.
    """
    count = Counter(pair.image.name for pair in pairs)
    return [
        pair.image.name
        if count[pair.image.name] == 1
        else f"{pair.image.parent.name}/{pair.image.name}"
        for pair in pairs
    ]


def find_pairs(source: Path) -> list[Pair]:
    """Find (image, mask) pairs in a folder and all below it, sorted by image path.

    The layouts are those of ``LAYOUTS``. Image and mask have the same stem; suffixes may be in
    upper case; an image without a mask, and a mask without an image, are left out.

    Args:
        source: the folder; or a text file beside the folders of images, which names one image a
            line, with or without its suffix (``train.txt``): only these are returned.

    Raises:
        InputError: no such folder, no pair in it, or a listed image without a pair.
    """
    if source.is_file() and source.suffix.lower() == ".txt":
        return _listed(find_pairs(source.parent), source)
    if not source.is_dir():
        raise InputError(f"no such folder of images and masks: {source}")
    files = _files_below(source)
    pairs: list[Pair] = []
    used: set[Path] = set()
    for folder in files:
        for name in MASK_FOLDERS.get(folder.name, ()):
            masks = folder.with_name(name)
            if masks in files:
                pairs += _pairs_in_two_folders(files[folder], files[masks])
                used |= {folder, masks}
    for folder in files.keys() - used:
        pairs += _pairs_side_by_side(files[folder])
    if not pairs:
        raise InputError(f"no image has a mask in {source}; expected {'; '.join(LAYOUTS)}")
    return sorted(pairs)


def find_labelled(folder: Path) -> list[Labelled]:
    """Find (image, label map) pairs in one of the ``LABEL_LAYOUTS``, sorted by image path.

    Raises:
        InputError: no such folder, or no image with a label map in it.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder of images and label maps: {folder}")
    found: list[Labelled] = []
    for images, labels, image_end, label_end in (
        ("images", "labels", "", ""),
        ("images", "annotations", "", ""),
        ("leftImg8bit", "gtFine", "_leftImg8bit", "_gtFine_labelIds"),
    ):
        if not (folder / images).is_dir() or not (folder / labels).is_dir():
            continue
        for image in (path for files in _files_below(folder / images).values() for path in files):
            within = image.parent.relative_to(folder / images)
            name = f"{image.stem.removesuffix(image_end)}{label_end}.png"
            if (folder / labels / within / name).is_file():
                found.append(Labelled(image, folder / labels / within / name))
    if not found:
        expected = "; ".join(LABEL_LAYOUTS)
        raise InputError(f"no image has a label map in {folder}; expected {expected}")
    return sorted(found)


def _listed(pairs: list[Pair], names: Path) -> list[Pair]:
    text = names.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    stems = {_without_suffix(line.rpartition("/")[2]) for line in lines if line}
    kept = [pair for pair in pairs if pair.image.stem in stems]
    missing = sorted(stems - {pair.image.stem for pair in kept})
    if missing:
        raise InputError(f"{names} names {missing[0]}, which is no image with a mask beside it")
    return kept


def _without_suffix(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else name


def is_hidden(path: Path) -> bool:
    """Whether any part of a path is hidden, or the folder that archives of macOS leave."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _files_below(folder: Path) -> dict[Path, list[Path]]:
    """Folder -> its image files, sorted, for ``folder`` and all below it, links included."""
    found: dict[Path, list[Path]] = {}
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if not is_hidden(Path(name))]
        found[Path(parent)] = sorted(
            Path(parent) / name
            for name in names
            if name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(Path(name))
        )
    return found


def _pairs_in_two_folders(images: list[Path], masks: list[Path]) -> list[Pair]:
    # of two masks with the same stem a PNG is meant, the other may be a preview
    by_stem = {p.stem: p for p in sorted(masks, key=lambda p: p.suffix.lower() == ".png")}
    return [Pair(image, by_stem[image.stem]) for image in images if image.stem in by_stem]


def _pairs_side_by_side(files: list[Path]) -> list[Pair]:
    by_stem = {p.stem: p for p in files if p.suffix.lower() == ".png"}
    pairs: list[Pair] = []
    for image in files:
        stem = image.stem
        if stem.endswith("_im"):
            wanted = f"{stem.removesuffix('_im')}_gt"
        elif image.suffix.lower() in (".jpg", ".jpeg"):
            wanted = stem
        else:  # a PNG without an ending is a mask itself
            continue
        if wanted in by_stem:
            pairs.append(Pair(image, by_stem[wanted]))
    return pairs
