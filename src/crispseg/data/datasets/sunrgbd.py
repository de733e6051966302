"""SUN-RGBD: indoor scenes, 37 classes; 5,285 images to train, 5,050 to test.

Song et al., CVPR 2015. This reads the photos and label maps that A. Handa's meta data give; numbers
1 to 5050 are the test images.
"""

from __future__ import annotations

from pathlib import Path

from crispseg.data.datasets.base import VOID, Dataset, DatasetSpec, check_split, visible, wrong_tree
from crispseg.data.datasets.folder import default_colour
from crispseg.data.datasets.listed import labelled_in
from crispseg.data.datasets.nyudv2 import CLASSES as NYU_CLASSES

CLASSES = NYU_CLASSES[:37]  # the same but for the three "other"
NUMBERS = {0: VOID, VOID: VOID} | {number + 1: number for number in range(len(CLASSES))}
TREE = """\
ROOT/
  SUNRGBD-train_images/img-005051.jpg ...   SUNRGBD-test_images/img-000001.jpg ...
  sunrgbd_train_test_labels/img-000001.png ...   (0 = void, 1..37)
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "train" or "test"; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or an image without label map.
    """
    check_split(SPEC, split)
    images, labels = root / f"SUNRGBD-{split}_images", root / "sunrgbd_train_test_labels"
    for path in (images, labels):
        if not path.is_dir():
            raise wrong_tree(SPEC, root, path.name)
    names = [path.stem for path in visible(images.glob("img-*.jpg"), images)]
    if not names:
        raise wrong_tree(SPEC, root, f"img-*.jpg in {images.name}")
    items = labelled_in(images, labels, names, NUMBERS)
    colours = tuple(default_colour(number + 1) for number in range(len(CLASSES)))
    return Dataset(SPEC.name, CLASSES, colours, items)


SPEC = DatasetSpec(
    name="sunrgbd",
    title="SUN-RGBD (37 classes)",
    splits=("train", "test"),
    licence="not stated",
    where="https://rgbd.cs.princeton.edu and https://github.com/ankurhanda/sunrgbd-meta-data",
    tree=TREE,
    open=open_split,
)
