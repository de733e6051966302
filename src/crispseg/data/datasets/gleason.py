"""Gleason 2019: tissue cores of about 5000x5000, four classes, by the majority of six experts.

Challenge of MICCAI 2019; Nir et al., Medical Image Analysis 2018. Not every expert labelled every
core. In the files 0, 1 and 6 are benign, 3, 4 and 5 the grades. Where experts are divided
evenly, the lower class is taken. MagNet's split of 195 and 49 images was not published.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from crispseg.data.datasets.base import (
    Dataset,
    DatasetSpec,
    Labelled,
    check_split,
    recode,
    visible,
    wrong_tree,
)
from crispseg.data.datasets.listed import read_names
from crispseg.io.image import read_image
from crispseg.io.labels import Labels, read_labels
from crispseg.types import InputError

CLASSES = ("benign", "grade 3", "grade 4", "grade 5")
COLOURS = ((0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 0))
NUMBERS = {0: 0, 1: 0, 6: 0, 3: 1, 4: 2, 5: 3}
EXPERTS = 6
ENDING = "_classimg_nonconvex.png"
TREE = """\
ROOT/
  Train Imgs/slide001_core003.jpg ...
  Maps1_T/slide001_core003_classimg_nonconvex.png ...   Maps2_T/ ... Maps6_T/
  train.txt  test.txt   (names, for these splits; "all" needs none)
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "all", or "train" and "test" by lists of your own; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or an image that no expert labelled.
    """
    check_split(SPEC, split)
    folder = root / "Train Imgs"
    found = [path.stem for path in visible(folder.glob("*.jpg"), folder)]
    if not found:
        raise wrong_tree(SPEC, root, "Train Imgs/*.jpg")
    if split != "all":
        if not (root / f"{split}.txt").is_file():
            raise wrong_tree(SPEC, root, f"{split}.txt")
        found = read_names(root / f"{split}.txt")
    items = []
    for name in found:
        maps = [root / f"Maps{expert + 1}_T" / f"{name}{ENDING}" for expert in range(EXPERTS)]
        there = tuple(path for path in maps if path.is_file())
        if not there:
            raise InputError(f"{folder / name}.jpg has no label map in any of Maps1_T to Maps6_T")
        image = folder / f"{name}.jpg"
        reader = partial(read_majority, there)
        items.append(Labelled(name, partial(read_image, image), reader, image=image))
    return Dataset(SPEC.name, CLASSES, COLOURS, items)


def read_majority(paths: tuple[Path, ...]) -> Labels:
    """(H, W) uint8: the class that most experts gave; of several, the lowest.

    Raises:
        InputError: a file that cannot be read, holds another number, or is of another size.
    """
    votes = np.zeros((0,), np.uint8)
    for path in paths:
        try:
            labels = recode(read_labels(path), NUMBERS)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if not votes.size:
            votes = np.zeros((len(CLASSES), *labels.shape), np.uint8)
        if labels.shape != votes.shape[1:]:
            raise InputError(f"{path} and {paths[0]} differ in size")
        for number in range(len(CLASSES)):
            votes[number] += labels == number
    return np.asarray(votes.argmax(axis=0), np.uint8)


SPEC = DatasetSpec(
    name="gleason",
    title="Gleason 2019",
    splits=("all", "train", "test"),
    licence="the challenge's terms, non-commercial",
    where="https://gleason2019.grand-challenge.org (registration)",
    tree=TREE,
    open=open_split,
)
