"""NYUDv2: indoor scenes, 40 classes; 795 images to train, 654 to test.

Silberman et al., ECCV 2012; classes of Gupta et al., CVPR 2013. The original is one MATLAB file;
this reads the photos and label maps that are written from it.
"""

from __future__ import annotations

from pathlib import Path

from crispseg.data.datasets.base import VOID, Dataset, DatasetSpec, check_split, wrong_tree
from crispseg.data.datasets.folder import default_colour
from crispseg.data.datasets.listed import labelled_in, read_names

CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window"),
    *("bookshelf", "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser"),
    *("pillow", "mirror", "floor mat", "clothes", "ceiling", "books", "refrigerator"),
    *("television", "paper", "towel", "shower curtain", "box", "whiteboard", "person"),
    *("night stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure"),
    *("otherfurniture", "otherprop"),
)
NUMBERS = {0: VOID, VOID: VOID} | {number + 1: number for number in range(len(CLASSES))}
TREE = """\
ROOT/
  RGB/*.jpg or *.png   Label/*.png   (0 = void, 1..40)
  train.txt  test.txt                (a name a line, folders and suffixes do not matter)
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "train" or "test"; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or a listed image without label map.
    """
    check_split(SPEC, split)
    for path in (root / "RGB", root / "Label", root / f"{split}.txt"):
        if not path.exists():
            raise wrong_tree(SPEC, root, path.name)
    names = read_names(root / f"{split}.txt")
    items = labelled_in(root / "RGB", root / "Label", names, NUMBERS)
    colours = tuple(default_colour(number + 1) for number in range(len(CLASSES)))
    return Dataset(SPEC.name, CLASSES, colours, items)


SPEC = DatasetSpec(
    name="nyudv2",
    title="NYUDv2 (40 classes)",
    splits=("train", "test"),
    licence="not stated",
    where="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    tree=TREE,
    open=open_split,
)
