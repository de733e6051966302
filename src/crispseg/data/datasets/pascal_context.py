"""PASCAL-Context: whole scenes of VOC 2010, 59 classes and background.

Mottaghi et al., CVPR 2014; 4,998 images to train, 5,105 to validate, the main lists of VOC 2010.
The original 459 labels come as MATLAB files; what is none of the 59 most frequent is background.
Label maps that are usually made from them number the 59 in the order of the 459, which is that of
the alphabet, and not in that of the authors' list of 59, which begins with VOC's twenty.
"""

from __future__ import annotations

from pathlib import Path

from crispseg.data.datasets.base import VOID, Dataset, DatasetSpec, check_split, wrong_tree
from crispseg.data.datasets.folder import default_colour
from crispseg.data.datasets.listed import labelled_in, read_names
from crispseg.io.labels import Labels
from crispseg.io.matlab import read_matlab_labels

ORIGINAL = {  # name -> number among the 459
    **{"aeroplane": 2, "bag": 9, "bed": 18, "bedclothes": 19, "bench": 22, "bicycle": 23},
    **{"bird": 25, "boat": 31, "book": 33, "bottle": 34, "building": 44, "bus": 45},
    **{"cabinet": 46, "car": 59, "cat": 65, "ceiling": 68, "chair": 72, "cloth": 80},
    **{"computer": 85, "cow": 98, "cup": 104, "curtain": 105, "dog": 113, "door": 115},
    **{"fence": 144, "floor": 158, "flower": 159, "food": 162, "grass": 187, "ground": 189},
    **{"horse": 207, "keyboard": 220, "light": 232, "motorbike": 258, "mountain": 259},
    **{"mouse": 260, "person": 284, "plate": 295, "platform": 296, "pottedplant": 308},
    **{"road": 324, "rock": 326, "sheep": 347, "shelves": 349, "sidewalk": 354, "sign": 355},
    **{"sky": 360, "snow": 366, "sofa": 368, "table": 397, "track": 415, "train": 416},
    **{"tree": 420, "truck": 424, "tvmonitor": 427, "wall": 440, "water": 445},
    **{"window": 454, "wood": 458},
}
CLASSES = ("background", *ORIGINAL)
NUMBERS = {number: number for number in range(len(CLASSES))} | {VOID: VOID}
ORIGINAL_NUMBERS = dict.fromkeys(range(460), 0) | {
    number: place for place, number in enumerate(ORIGINAL.values(), start=1)
}
TREE = """\
ROOT/   (VOCdevkit/VOC2010)
  JPEGImages/*.jpg
  SegmentationClassContext/*.png          (0 = background, 1..59 by the alphabet, 255 = void)
  or trainval/*.mat                       (as distributed: LabelMap of 459 labels)
  ImageSets/SegmentationContext/train.txt  val.txt    (else ImageSets/Main/train.txt  val.txt)
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "train" or "val"; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or a listed image without label map.
    """
    check_split(SPEC, split)
    images, labels = root / "JPEGImages", root / "SegmentationClassContext"
    original = root / "trainval"
    names = root / f"ImageSets/SegmentationContext/{split}.txt"
    if not names.is_file() and (root / f"ImageSets/Main/{split}.txt").is_file():
        names = root / f"ImageSets/Main/{split}.txt"
    for path in (images, original if original.is_dir() else labels, names):
        if not path.exists():
            raise wrong_tree(SPEC, root, str(path.relative_to(root)))
    if labels.is_dir():
        items = labelled_in(images, labels, read_names(names), NUMBERS)
    else:
        way = (ORIGINAL_NUMBERS, ".mat", read_original)
        items = labelled_in(images, original, read_names(names), *way)
    colours = tuple(map(default_colour, range(len(CLASSES))))
    return Dataset(SPEC.name, CLASSES, colours, items)


def read_original(path: Path) -> Labels:
    """(H, W) uint8 or uint16: numbers of the 459 labels.

    Raises:
        InputError: as ``read_matlab_labels``.
    """
    return read_matlab_labels(path, "LabelMap")


SPEC = DatasetSpec(
    name="pascal-context",
    title="PASCAL-Context",
    splits=("train", "val"),
    licence="photos of Flickr under its terms, research",
    where="https://cs.stanford.edu/~roozbeh/pascal-context",
    tree=TREE,
    open=open_split,
)
