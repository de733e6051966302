"""DeepGlobe land cover: satellite images of 2448x2448, six classes; "unknown" is void.

Demir et al., CVPR workshops 2018. Of the 803 images with labels GLNet and MagNet take 454 to train,
207 to validate and 142 to test; their lists are not part of the data.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from crispseg.data.datasets.base import (
    VOID,
    Dataset,
    DatasetSpec,
    Labelled,
    check_split,
    visible,
    wrong_tree,
)
from crispseg.data.datasets.listed import read_names
from crispseg.io.image import read_image
from crispseg.io.labels import Labels
from crispseg.types import InputError

CLASSES = {
    "urban": (0, 255, 255),
    "agriculture": (255, 255, 0),
    "rangeland": (255, 0, 255),
    "forest": (0, 255, 0),
    "water": (0, 0, 255),
    "barren": (255, 255, 255),
}
RED = 4  # its place in the table below; black, at 0, is unknown
TREE = """\
ROOT/
  train/*_sat.jpg  train/*_mask.png   (RGB colours; black = unknown)
  train.txt  val.txt  test.txt        (numbers of images, for these splits; "all" needs none)
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "all", or "train", "val", "test" by lists beside ``train/``; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or an image without label map.
    """
    check_split(SPEC, split)
    folder, names = root / "train", root / f"{split}.txt"
    found = [p.stem.removesuffix("_sat") for p in visible(folder.glob("*_sat.jpg"), folder)]
    if not found:
        raise wrong_tree(SPEC, root, "train/*_sat.jpg")
    if split != "all":
        if not names.is_file():
            raise wrong_tree(SPEC, root, names.name)
        listed = [name.removesuffix("_sat") for name in read_names(names)]
        if missing := sorted(set(listed) - set(found)):
            raise InputError(f"{names} lists {missing[0]}, but there is no {missing[0]}_sat.jpg")
        found = listed
    items = []
    for name in found:
        image, labels = folder / f"{name}_sat.jpg", folder / f"{name}_mask.png"
        if not labels.is_file():
            raise InputError(f"{image} has no label map {labels.name} beside it")
        reader = partial(read_colours, labels)
        items.append(Labelled(name, partial(read_image, image), reader, image=image))
    return Dataset(SPEC.name, tuple(CLASSES), tuple(CLASSES.values()), items)


def read_colours(path: Path) -> Labels:
    """(H, W) uint8 classes of a map of colours; channels are cut at 128, as its authors advise.

    Raises:
        InputError: it cannot be read, or holds a colour that means nothing.
    """
    high = read_image(path) >= 128
    code = high[:, :, 0] * 4 + high[:, :, 1] * 2 + high[:, :, 2]
    table = np.full(8, VOID, np.uint8)
    for number, colour in enumerate(CLASSES.values()):
        table[(colour[0] > 0) * 4 + (colour[1] > 0) * 2 + (colour[2] > 0)] = number
    if (code == RED).any():
        raise InputError(f"{path} holds red, which is no class of DeepGlobe")
    return np.asarray(table[code])


SPEC = DatasetSpec(
    name="deepglobe",
    title="DeepGlobe land cover",
    splits=("all", "train", "val", "test"),
    licence="non-commercial, its own terms",
    where="http://deepglobe.org (registration)",
    tree=TREE,
    open=open_split,
)
