"""PASCAL-Person-Part: six parts of people and background.

Chen et al., "Detect what you can", CVPR 2014, merged to six parts by Chen et al., "Attention to
scale", CVPR 2016; about 1,716 images to train and 1,817 to validate. The original, PASCAL-Part, is
a MATLAB file of objects and their parts for every image of VOC 2010; that of the six is made of it
and passed on as images, with void; both are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crispseg.data.datasets.base import (
    VOID,
    Dataset,
    DatasetSpec,
    Labelled,
    check_split,
    wrong_tree,
)
from crispseg.data.datasets.folder import default_colour
from crispseg.data.datasets.listed import labelled_in, read_names
from crispseg.io.labels import Labels
from crispseg.io.matlab import read_matlab
from crispseg.types import InputError

CLASSES = (
    *("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs"),
)
NUMBERS = {number: number for number in range(len(CLASSES))} | {VOID: VOID}
PARTS = {  # of a person in PASCAL-Part -> class; l and r are left and right, or lower (llarm)
    **dict.fromkeys(("head", "hair", "nose", "mouth", "leye", "reye", "lear", "rear"), 1),
    **dict.fromkeys(("lebrow", "rebrow"), 1),
    **dict.fromkeys(("torso", "neck"), 2),
    **dict.fromkeys(("luarm", "ruarm"), 3),
    **dict.fromkeys(("llarm", "rlarm", "lhand", "rhand"), 4),
    **dict.fromkeys(("luleg", "ruleg"), 5),
    **dict.fromkeys(("llleg", "rlleg", "lfoot", "rfoot"), 6),
}
GIVEN, ORIGINAL = "pascal_person_part_gt", "Annotations_Part"
LISTS = "pascal_person_part_trainval_list"
TREE = """\
ROOT/   (VOCdevkit/VOC2010)
  JPEGImages/*.jpg
  pascal_person_part_gt/*.png                        (0..6, 255 = void)
  pascal_person_part_trainval_list/train.txt  val.txt
or PASCAL-Part as distributed:
  JPEGImages/*.jpg
  Annotations_Part/*.mat
  ImageSets/Main/train.txt  val.txt  (of these the images of people with parts; or the lists above)
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "train" or "val"; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or a listed image without label map.
    """
    check_split(SPEC, split)
    images, names = root / "JPEGImages", root / LISTS / f"{split}.txt"
    original = not (root / GIVEN).exists() and (root / ORIGINAL).is_dir()
    if original and not names.is_file() and (root / f"ImageSets/Main/{split}.txt").is_file():
        names = root / f"ImageSets/Main/{split}.txt"
    for path in (images, root / (ORIGINAL if original else GIVEN), names):
        if not path.exists():
            raise wrong_tree(SPEC, root, str(path.relative_to(root)))
    items = _original(root, names) if original else _given(root, names)
    colours = tuple(map(default_colour, range(len(CLASSES))))
    return Dataset(SPEC.name, CLASSES, colours, items)


def _given(root: Path, names: Path) -> list[Labelled]:
    return labelled_in(root / "JPEGImages", root / GIVEN, read_names(names), NUMBERS)


def _original(root: Path, names: Path) -> list[Labelled]:
    """Of VOC's lists those images on which somebody has parts; that reads every file once."""
    wanted, folder = read_names(names), root / ORIGINAL
    if names.parent.name != LISTS:
        wanted = [name for name in wanted if _shows_parts(folder / f"{name}.mat")]
        if not wanted:
            raise InputError(f"{folder} has no people with parts among the images of {names}")
    return labelled_in(root / "JPEGImages", folder, wanted, NUMBERS, ".mat", read_parts)


def _shows_parts(path: Path) -> bool:
    objects = _objects(path)
    return any(_is_person(one) and one.get("parts") for one in objects)


def read_parts(path: Path) -> Labels:
    """(H, W) uint8 classes of a file of PASCAL-Part.

    What no part of a person covers is background, as it has no void; where parts overlap, the later
    one of the file counts.

    Raises:
        InputError: as ``read_matlab``; no objects with masks of one size, or a part of a person
            that is none of ``PARTS``.
    """
    objects = _objects(path)
    shapes = {_shape(one.get("mask")) for one in objects}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2:
        raise InputError(f"{path}: anno.objects have no masks, or of several sizes")
    labels = np.zeros(shape, np.uint8)
    for part in [part for one in objects if _is_person(one) for part in one.get("parts") or []]:
        name, mask = part.get("part_name"), part.get("mask")
        if name not in PARTS or _shape(mask) != shape:
            raise InputError(f"{path}: {name!r} is no part of a person with a mask")
        labels[mask > 0] = PARTS[name]
    return labels


def _shape(mask: Any) -> tuple[int, ...]:
    return mask.shape if isinstance(mask, np.ndarray) else ()


def _objects(path: Path) -> list[dict[str, Any]]:
    """Of a file of PASCAL-Part; parts are a list, or None where nobody marked any."""
    found = read_matlab(path, "anno")
    objects = found[0].get("objects") if isinstance(found, list) and found else None
    if not isinstance(objects, list):
        raise InputError(f"{path} holds no anno.objects")
    for one in objects:
        if not isinstance(one.get("parts"), list):  # [] in MATLAB is an array of numbers
            one["parts"] = None
    return objects


def _is_person(one: dict[str, Any]) -> bool:
    return one.get("class") == "person"


SPEC = DatasetSpec(
    name="person-part",
    title="PASCAL-Person-Part",
    splits=("train", "val"),
    licence="photos of Flickr under its terms, research",
    where="http://liangchiehchen.com/projects/DeepLab.html, or "
    "http://roozbehm.info/pascal-parts/pascal-parts.html",
    tree=TREE,
    open=open_split,
)
