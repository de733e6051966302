"""ADE20K, the scene parsing challenge (150 classes) and the full data set (3,688 objects).

Zhou et al., "Scene parsing through ADE20K", CVPR 2017; 20,210 images to train, 2,000 to validate.
"""

from __future__ import annotations

from functools import partial
from itertools import zip_longest
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
    visible,
    wrong_tree,
)
from crispseg.data.datasets.folder import default_colour
from crispseg.io.image import read_image
from crispseg.io.labels import Labels
from crispseg.io.matlab import read_matlab
from crispseg.types import InputError

CLASSES = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane"),
    *("grass", "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain"),
    *("plant", "curtain", "chair", "car", "water", "painting", "sofa", "shelf", "house"),
    *("sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock"),
    *("wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column"),
    *("signboard", "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace"),
    *("refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table"),
    *("pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind"),
    *("coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove"),
    *("palm", "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine"),
    *("hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning"),
    *("streetlight", "booth", "television receiver", "airplane", "dirt track", "apparel"),
    *("pole", "land", "bannister", "escalator", "ottoman", "bottle", "buffet", "poster"),
    *("stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything"),
    *("swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike"),
    *("cradle", "oven", "ball", "food", "step", "tank", "trade name", "microwave", "pot"),
    *("animal", "bicycle", "lake", "dishwasher", "screen", "blanket", "sculpture", "hood"),
    *("sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier", "crt screen"),
    *("plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag"),
)
NUMBERS = {0: VOID, VOID: VOID} | {number + 1: number for number in range(len(CLASSES))}
FOLDERS = {"train": "training", "val": "validation"}
OBJECTS, FULL_VOID = 3688, 65535
INDEX = "index_ade20k.mat"
TREE = """\
ROOT/   (ADEChallengeData2016)
  images/training/*.jpg    annotations/training/*.png     (0 = other, 1..150)
  images/validation/*.jpg  annotations/validation/*.png
"""
FULL_TREE = """\
ROOT/   (ADE20K_2016_07_26, or ADE20K_2021_17_01)
  images/training/a/abbey/*.jpg    images/training/a/abbey/*_seg.png
  images/validation/...            (2021: images/ADE/training/..., images/ADE/validation/...)
  index_ade20k.mat                 (names of the objects; else objects.txt of your own, a name a
                                    line; without, objects have numbers)
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split of the challenge: "train" or "val"; see ``TREE``. "Other" (0) is void.

    Raises:
        InputError: no such split, another layout, or an image without label map.
    """
    check_split(SPEC, split)
    images, labels = (root / kind / FOLDERS[split] for kind in ("images", "annotations"))
    for path in (images, labels):
        if not path.is_dir():
            raise wrong_tree(SPEC, root, str(path.relative_to(root)))
    items = [labelled_files(*pair, NUMBERS) for pair in pairs_of(images, labels)]
    colours = tuple(default_colour(number + 1) for number in range(len(CLASSES)))
    return Dataset(SPEC.name, CLASSES, colours, items, numbers=NUMBERS)


def open_full(root: Path, split: str) -> Dataset:
    """A split of the full data set: "train" or "val"; see ``FULL_TREE``.

    Void (65535) is what no object covers; of objects, not of their parts.

    Raises:
        InputError: no such split, another layout, or an image without label map.
    """
    check_split(FULL, split)
    places = [root / "images" / FOLDERS[split], root / "images/ADE" / FOLDERS[split]]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise wrong_tree(FULL, root, f"images/{FOLDERS[split]}")
    items = []
    for image in visible(folder.rglob("*.jpg"), folder):
        labels = image.with_name(f"{image.stem}_seg.png")
        if not labels.is_file():
            raise InputError(f"{image} has no label map {labels.name} beside it")
        reader = partial(read_objects, labels)
        items.append(Labelled(image.stem, partial(read_image, image), reader, image=image))
    if not items:
        raise wrong_tree(FULL, root, f"*.jpg in {folder}")
    names = _object_names(root)
    colours = tuple(default_colour(number % 255 + 1) for number in range(len(names)))
    return Dataset(FULL.name, names, colours, items, ignore_index=FULL_VOID)


def read_objects(path: Path) -> Labels:
    """(H, W) uint16: the object's number less one; 256 (R // 10) + G in the file, 0 is void.

    Raises:
        InputError: it cannot be read, or holds a number that is no object.
    """
    colours = read_image(path)
    numbers = colours[:, :, 0].astype(np.int32) // 10 * 256 + colours[:, :, 1]
    if numbers.max(initial=0) > OBJECTS:
        raise InputError(f"{path} holds object {numbers.max()}; ADE20K has {OBJECTS}")
    return np.where(numbers == 0, FULL_VOID, numbers - 1).astype(np.uint16)


def _object_names(root: Path) -> tuple[str, ...]:
    """By number; the release of 2021 has a table in ``objects.txt``, in an order of its own."""
    lines: list[str] = []
    if (root / INDEX).is_file():
        index = read_matlab(root / INDEX, "index")
        found = index[0].get("objectnames") if isinstance(index, list) and index else None
        if not isinstance(found, list):
            raise InputError(f"{root / INDEX} holds no index.objectnames")
        lines = [name.strip() if isinstance(name, str) else "" for name in found]
    elif (root / "objects.txt").is_file():
        text = (root / "objects.txt").read_text(encoding="utf-8", errors="replace")
        lines = [] if "\t" in text else text.splitlines()
    numbers = (f"object {number + 1}" for number in range(OBJECTS))
    return tuple(line or number for line, number in zip_longest(lines[:OBJECTS], numbers))


SPEC = DatasetSpec(
    name="ade20k",
    title="ADE20K (scene parsing challenge)",
    splits=("train", "val"),
    licence="BSD-3 for the labels, photos for non-commercial research",
    where="http://sceneparsing.csail.mit.edu",
    tree=TREE,
    open=open_split,
)
FULL = DatasetSpec(
    name="ade20k-full",
    title="ADE20K (full)",
    splits=("train", "val"),
    licence="BSD-3 for the labels, photos for non-commercial research",
    where="https://ade20k.csail.mit.edu (registration)",
    tree=FULL_TREE,
    open=open_full,
)
