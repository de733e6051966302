"""NYUDv2: indoor scenes, 40 classes; 795 images to train, 654 to test.

Silberman et al., ECCV 2012; classes of Gupta et al., CVPR 2013. The original is one MATLAB file of
1,449 photos with about 900 classes, beside it a list of which train, and a table of which of the 40
each of its classes is, or label maps of the 40. That is read with the ``datasets`` extra; so are
photos and label maps that are written from it, without.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.data.datasets.base import (
    VOID,
    Dataset,
    DatasetSpec,
    Labelled,
    check_split,
    read_recoded,
    wrong_tree,
)
from crispseg.data.datasets.folder import default_colour
from crispseg.data.datasets.listed import labelled_in, read_names
from crispseg.io.hdf5 import read_page, stored_shape
from crispseg.io.labels import Labels
from crispseg.io.matlab import class_numbers, read_matlab
from crispseg.types import Image, InputError

CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window"),
    *("bookshelf", "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser"),
    *("pillow", "mirror", "floor mat", "clothes", "ceiling", "books", "refrigerator"),
    *("television", "paper", "towel", "shower curtain", "box", "whiteboard", "person"),
    *("night stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure"),
    *("otherfurniture", "otherprop"),
)
NUMBERS = {0: VOID, VOID: VOID} | {number + 1: number for number in range(len(CLASSES))}
ORIGINAL, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
TABLE, MAPPED = "classMapping40.mat", "labels40.mat"
TREE = """\
ROOT/
  nyu_depth_v2_labeled.mat           (as distributed; needs the extra `datasets`)
  splits.mat                         (trainNdxs, testNdxs)
  classMapping40.mat                 (mapClass; or labels40.mat: labels40)
or as files, with names of your own:
  RGB/*.jpg or *.png   Label/*.png   (0 = void, 1..40)
  train.txt  test.txt                (a name a line, folders and suffixes do not matter)
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "train" or "test"; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or a listed image without label map.
    """
    check_split(SPEC, split)
    if (root / ORIGINAL).is_file() and not (root / "RGB").exists():
        items = _original(root, split)
    else:
        for path in (root / "RGB", root / "Label", root / f"{split}.txt"):
            if not path.exists():
                raise wrong_tree(SPEC, root, path.name)
        names = read_names(root / f"{split}.txt")
        items = labelled_in(root / "RGB", root / "Label", names, NUMBERS)
    colours = tuple(default_colour(number + 1) for number in range(len(CLASSES)))
    return Dataset(SPEC.name, CLASSES, colours, items, numbers=NUMBERS)


def _original(root: Path, split: str) -> list[Labelled]:
    """Images are called by their number in the file, 0001 to 1449."""
    mapped = not (root / TABLE).is_file() and (root / MAPPED).is_file()
    for name in (SPLITS, MAPPED if mapped else TABLE):
        if not (root / name).is_file():
            raise wrong_tree(SPEC, root, name)
    file = root / ORIGINAL
    count = stored_shape(file, "labels")[-1]
    pages = [number - 1 for number in _whole_numbers(root / SPLITS, f"{split}Ndxs", 1, count)]
    labels, read, numbers = root / MAPPED, read_mapped, NUMBERS
    if not mapped:
        table = _whole_numbers(root / TABLE, "mapClass", 0, len(CLASSES))
        labels, read = file, read_labels_of_page
        numbers = {old: NUMBERS[new] for old, new in enumerate((0, *table))}
    return [
        Labelled(
            f"{page + 1:04}",
            partial(read_photo, file, page),
            partial(read_recoded, labels, numbers, partial(read, page=page)),
            image=file,
        )
        for page in pages
    ]


def read_photo(path: Path, page: int) -> Image:
    """(H, W, 3) uint8 RGB: image ``page``, from 0, of the original.

    Raises:
        InputError: as ``read_page``, or it is no image.
    """
    pixels = read_page(path, "images", page)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise InputError(f"{path}: images are no (H, W, 3, N) uint8 numbers")
    return pixels


def read_labels_of_page(path: Path, page: int) -> Labels:
    """(H, W) uint8 or uint16: numbers of image ``page``, from 0, of the original.

    Raises:
        InputError: as ``read_page``, or it is no label map.
    """
    return class_numbers(read_page(path, "labels", page), f"{path}: labels")


def read_mapped(path: Path, page: int) -> Labels:
    """(H, W) uint8 or uint16: numbers of image ``page``, from 0, of ``labels40.mat``.

    Raises:
        InputError: as ``read_matlab``; no such image, or it is no label map.
    """
    pages = _pages(path)
    if pages.ndim != 3 or not 0 <= page < pages.shape[2]:
        raise InputError(f"{path}: labels40 has no image {page + 1}")
    return class_numbers(pages[:, :, page], f"{path}: labels40")


@lru_cache(maxsize=1)
def _pages(path: Path) -> NDArray[Any]:
    """(H, W, N); the file is packed as a whole, so that all of it is read, once."""
    found = read_matlab(path, "labels40")
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path} holds no labels40")
    return found


def _whole_numbers(path: Path, name: str, low: int, high: int) -> list[int]:
    found = read_matlab(path, name)
    if not isinstance(found, np.ndarray) or not found.size:
        raise InputError(f"{path} holds no {name}")
    if found.min() < low or found.max() > high or (found % 1).any():
        raise InputError(f"{path}: {name} must be whole numbers from {low} to {high}")
    return [int(number) for number in found.ravel()]


SPEC = DatasetSpec(
    name="nyudv2",
    title="NYUDv2 (40 classes)",
    splits=("train", "test"),
    licence="not stated",
    where="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html, and "
    "https://github.com/ankurhanda/nyuv2-meta-data for the 40 classes",
    tree=TREE,
    open=open_split,
)
