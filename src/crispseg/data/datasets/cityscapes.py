"""Cityscapes: street scenes of 2048x1024, 19 classes in 7 categories, fine and coarse labels.

Cordts et al., CVPR 2016; fine: 2,975 images to train and 500 to validate; coarse: 20,000 more. The
files hold numbers of 34 kinds of things (``labelIds``); ids that the benchmark does not count
are void.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crispseg.data.datasets.base import (
    VOID,
    Colour,
    Dataset,
    DatasetSpec,
    Labelled,
    check_split,
    labelled_files,
    visible,
    wrong_tree,
)
from crispseg.io.labels import Labels, read_labels
from crispseg.types import InputError


class Kind(NamedTuple):
    """A class: its number in the files, its category, its colour."""

    name: str
    file_id: int
    category: str
    colour: Colour


CLASSES = (
    Kind("road", 7, "flat", (128, 64, 128)),
    Kind("sidewalk", 8, "flat", (244, 35, 232)),
    Kind("building", 11, "construction", (70, 70, 70)),
    Kind("wall", 12, "construction", (102, 102, 156)),
    Kind("fence", 13, "construction", (190, 153, 153)),
    Kind("pole", 17, "object", (153, 153, 153)),
    Kind("traffic light", 19, "object", (250, 170, 30)),
    Kind("traffic sign", 20, "object", (220, 220, 0)),
    Kind("vegetation", 21, "nature", (107, 142, 35)),
    Kind("terrain", 22, "nature", (152, 251, 152)),
    Kind("sky", 23, "sky", (70, 130, 180)),
    Kind("person", 24, "human", (220, 20, 60)),
    Kind("rider", 25, "human", (255, 0, 0)),
    Kind("car", 26, "vehicle", (0, 0, 142)),
    Kind("truck", 27, "vehicle", (0, 0, 70)),
    Kind("bus", 28, "vehicle", (0, 60, 100)),
    Kind("train", 31, "vehicle", (0, 80, 100)),
    Kind("motorcycle", 32, "vehicle", (0, 0, 230)),
    Kind("bicycle", 33, "vehicle", (119, 11, 32)),
)
NUMBERS = {number: VOID for number in range(256)} | {
    kind.file_id: number for number, kind in enumerate(CLASSES)
}
# Mean pixels of an instance: constants of the benchmark's own evaluation, for iIoU.
AVERAGE_SIZES = {
    11: 3462.4756337644,
    12: 3930.4788056518,
    13: 12794.0202738185,
    14: 27855.1264367816,
    15: 35732.1511111111,
    16: 67583.7075812274,
    17: 6298.7200839748,
    18: 4672.3249222261,
}
FIRST_INSTANCE = 1000  # id * 1000 + number; below: things that are not told apart
TREE = """\
ROOT/
  leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
  gtFine/{train,val}/CITY/*_gtFine_labelIds.png  *_gtFine_instanceIds.png
"""
COARSE_TREE = """\
ROOT/
  leftImg8bit/{train,train_extra,val}/CITY/*_leftImg8bit.png
  gtCoarse/{train,train_extra,val}/CITY/*_gtCoarse_labelIds.png
"""


def open_fine(root: Path, split: str) -> Dataset:
    """A split with fine labels: "train" or "val"; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or an image without label map.
    """
    return _open(FINE, "gtFine", root, split)


def open_coarse(root: Path, split: str) -> Dataset:
    """A split with coarse labels: "train", "train_extra" or "val"; see ``COARSE_TREE``.

    Raises:
        InputError: no such split, another layout, or an image without label map.
    """
    return _open(COARSE, "gtCoarse", root, split)


def read_instances(path: Path) -> Labels:
    """(H, W): a number for each object, 0 where none is told apart."""
    numbers = read_labels(path)
    return np.where(numbers >= FIRST_INSTANCE, numbers, 0).astype(np.uint16)


def _open(spec: DatasetSpec, kind: str, root: Path, split: str) -> Dataset:
    check_split(spec, split)
    images, labels = root / "leftImg8bit" / split, root / kind / split
    for path in (images, labels):
        if not path.is_dir():
            raise wrong_tree(spec, root, str(path.relative_to(root)))
    items: list[Labelled] = []
    for image in visible(images.glob("*/*_leftImg8bit.png"), images):
        name = image.stem.removesuffix("_leftImg8bit")
        start = labels / image.parent.name / f"{name}_{kind}"
        if not Path(f"{start}_labelIds.png").is_file():
            raise InputError(f"{image} has no label map {start}_labelIds.png")
        item = labelled_files(name, image, Path(f"{start}_labelIds.png"), NUMBERS)
        instances = Path(f"{start}_instanceIds.png")
        if instances.is_file():
            item = replace(item, read_instances=partial(read_instances, instances))
        items.append(item)
    if not items:
        raise wrong_tree(spec, root, f"CITY/*_leftImg8bit.png in {images}")
    return Dataset(
        spec.name,
        tuple(one.name for one in CLASSES),
        tuple(one.colour for one in CLASSES),
        items,
        categories=tuple(one.category for one in CLASSES),
        average_sizes=AVERAGE_SIZES,
        numbers=NUMBERS,
    )


FINE = DatasetSpec(
    name="cityscapes",
    title="Cityscapes",
    splits=("train", "val"),
    licence="non-commercial, its own terms",
    where="https://www.cityscapes-dataset.com (registration)",
    tree=TREE,
    open=open_fine,
)
COARSE = DatasetSpec(
    name="cityscapes-coarse",
    title="Cityscapes with coarse labels",
    splits=("train", "train_extra", "val"),
    licence="non-commercial, its own terms",
    where="https://www.cityscapes-dataset.com (registration)",
    tree=COARSE_TREE,
    open=open_coarse,
)
