"""SUN-RGBD: indoor scenes, 37 classes; 5,285 images to train, 5,050 to test.

Song et al., CVPR 2015. The original is a folder of photos and a toolbox of MATLAB files: one tells
which photos there are, one which of them train, one has the label maps; the ``datasets`` extra
reads it. A. Handa's meta data give photos and label maps in files; numbers 1 to 5050 are the test
images. Both are read.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from crispseg.data.datasets.base import (
    VOID,
    Dataset,
    DatasetSpec,
    Labelled,
    check_split,
    labelled_files,
    visible,
    wrong_tree,
)
from crispseg.data.datasets.folder import default_colour
from crispseg.data.datasets.listed import labelled_in
from crispseg.data.datasets.nyudv2 import CLASSES as NYU_CLASSES
from crispseg.io.hdf5 import read_cell, stored_shape
from crispseg.io.labels import Labels
from crispseg.io.matlab import class_numbers, read_matlab
from crispseg.types import InputError

CLASSES = NYU_CLASSES[:37]  # the same but for the three "other"
NUMBERS = {0: VOID, VOID: VOID} | {number + 1: number for number in range(len(CLASSES))}
META, LABELS = "SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat", "SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat"
SPLITS = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
CELLS = "SUNRGBD2Dseg/seglabel"
TREE = """\
ROOT/
  SUNRGBD/{kv1,kv2,realsense,xtion}/...              (as distributed; needs the extra `datasets`)
  SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat  SUNRGBD2Dseg.mat
  SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat
or A. Handa's files:
  SUNRGBD-train_images/img-005051.jpg ...   SUNRGBD-test_images/img-000001.jpg ...
  sunrgbd_train_test_labels/img-000001.png ...   (0 = void, 1..37)
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "train" or "test"; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or an image without label map.
    """
    check_split(SPEC, split)
    images = root / f"SUNRGBD-{split}_images"
    original = not images.exists() and (root / "SUNRGBDtoolbox").is_dir()
    items = _original(root, split) if original else _given(root, images)
    colours = tuple(default_colour(number + 1) for number in range(len(CLASSES)))
    return Dataset(SPEC.name, CLASSES, colours, items, numbers=NUMBERS)


def _given(root: Path, images: Path) -> list[Labelled]:
    labels = root / "sunrgbd_train_test_labels"
    for path in (images, labels):
        if not path.is_dir():
            raise wrong_tree(SPEC, root, path.name)
    names = [path.stem for path in visible(images.glob("img-*.jpg"), images)]
    if not names:
        raise wrong_tree(SPEC, root, f"img-*.jpg in {images.name}")
    return labelled_in(images, labels, names, NUMBERS)


def _original(root: Path, split: str) -> list[Labelled]:
    """Images are called by their folder below ``SUNRGBD``; in the toolbox's order."""
    for name in ("SUNRGBD", META, LABELS, SPLITS):
        if not (root / name).exists():
            raise wrong_tree(SPEC, root, name)
    wanted = {_below(root / SPLITS, one) for one in _list(root / SPLITS, f"all{split}")}
    records = _list(root / META, "SUNRGBDMeta")
    cells = max(stored_shape(root / LABELS, CELLS), default=0)
    if cells != len(records):
        raise InputError(f"{root / LABELS} has {cells} label maps, {META} {len(records)} photos")
    items = []
    for cell, record in enumerate(records):
        photo = _below(root / META, record.get("rgbpath") if isinstance(record, dict) else None)
        if (place := photo.parent.parent) in wanted:
            wanted.remove(place)
            if not (root / photo).is_file():
                raise InputError(f"there is no image {root / photo}, which is listed")
            name = place.relative_to("SUNRGBD").as_posix()
            read = partial(read_original, cell=cell)
            items.append(labelled_files(name, root / photo, root / LABELS, NUMBERS, read))
    if wanted or not items:
        raise InputError(f"{root / META} lacks {len(wanted)} photos of {SPLITS}, all{split}")
    return items


def read_original(path: Path, cell: int) -> Labels:
    """(H, W) uint8 or uint16: numbers of label map ``cell``, from 0, of ``SUNRGBD2Dseg.mat``.

    Raises:
        InputError: as ``read_cell``, or it is no label map.
    """
    return class_numbers(read_cell(path, CELLS, cell), f"{path}: label map {cell + 1}")


def _list(path: Path, name: str) -> list[Any]:
    found = read_matlab(path, name)
    if not isinstance(found, list) or not found:
        raise InputError(f"{path} holds no list {name}")
    return found


def _below(file: Path, path: object) -> PurePosixPath:
    """What is behind the authors' own folder: SUNRGBD/..., each slash once."""
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    if "SUNRGBD" not in parts:
        raise InputError(f"{file} holds {path!r}, which is no path below SUNRGBD")
    return PurePosixPath(*parts[parts.index("SUNRGBD") :])


SPEC = DatasetSpec(
    name="sunrgbd",
    title="SUN-RGBD (37 classes)",
    splits=("train", "test"),
    licence="not stated",
    where="https://rgbd.cs.princeton.edu and https://github.com/ankurhanda/sunrgbd-meta-data",
    tree=TREE,
    open=open_split,
)
