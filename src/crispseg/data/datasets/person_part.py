"""PASCAL-Person-Part: six parts of people and background.

Chen et al., "Detect what you can", CVPR 2014, merged to six parts by Chen et al., "Attention to
scale", CVPR 2016; about 1,716 images to train and 1,817 to validate.
"""

from __future__ import annotations

from pathlib import Path

from crispseg.data.datasets.base import VOID, Dataset, DatasetSpec, check_split, wrong_tree
from crispseg.data.datasets.folder import default_colour
from crispseg.data.datasets.listed import labelled_in, read_names

CLASSES = (
    *("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs"),
)
NUMBERS = {number: number for number in range(len(CLASSES))} | {VOID: VOID}
TREE = """\
ROOT/
  JPEGImages/*.jpg                                   (of VOC 2010)
  pascal_person_part_gt/*.png                        (0..6, 255 = void)
  pascal_person_part_trainval_list/train.txt  val.txt
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "train" or "val"; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or a listed image without label map.
    """
    check_split(SPEC, split)
    images, labels = root / "JPEGImages", root / "pascal_person_part_gt"
    names = root / f"pascal_person_part_trainval_list/{split}.txt"
    for path in (images, labels, names):
        if not path.exists():
            raise wrong_tree(SPEC, root, str(path.relative_to(root)))
    items = labelled_in(images, labels, read_names(names), NUMBERS)
    colours = tuple(map(default_colour, range(len(CLASSES))))
    return Dataset(SPEC.name, CLASSES, colours, items)


SPEC = DatasetSpec(
    name="person-part",
    title="PASCAL-Person-Part",
    splits=("train", "val"),
    licence="photos of Flickr under its terms, research",
    where="http://liangchiehchen.com/projects/DeepLab.html",
    tree=TREE,
    open=open_split,
)
