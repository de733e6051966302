"""PASCAL-Context: whole scenes of VOC 2010, 59 classes and background.

Mottaghi et al., CVPR 2014; 4,998 images to train, 5,105 to validate. The original 459 labels come
as MATLAB files; this reads the label maps of the 59 most frequent that are made from them.
"""

from __future__ import annotations

from pathlib import Path

from crispseg.data.datasets.base import VOID, Dataset, DatasetSpec, check_split, wrong_tree
from crispseg.data.datasets.folder import default_colour
from crispseg.data.datasets.listed import labelled_in, read_names

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "table", "dog", "horse", "motorbike", "person", "pottedplant", "sheep"),
    *("sofa", "train", "tvmonitor", "bag", "bed", "bench", "book", "building", "cabinet"),
    *("ceiling", "cloth", "computer", "cup", "door", "fence", "floor", "flower", "food"),
    *("grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain", "platform"),
    *("sign", "plate", "road", "rock", "shelves", "sidewalk", "sky", "snow", "bedclothes"),
    *("track", "tree", "truck", "wall", "water", "window", "wood"),
)
NUMBERS = {number: number for number in range(len(CLASSES))} | {VOID: VOID}
TREE = """\
ROOT/   (VOCdevkit/VOC2010)
  JPEGImages/*.jpg
  SegmentationClassContext/*.png          (0 = background, 1..59, 255 = void)
  ImageSets/SegmentationContext/train.txt  val.txt
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "train" or "val"; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or a listed image without label map.
    """
    check_split(SPEC, split)
    images, labels = root / "JPEGImages", root / "SegmentationClassContext"
    names = root / f"ImageSets/SegmentationContext/{split}.txt"
    for path in (images, labels, names):
        if not path.exists():
            raise wrong_tree(SPEC, root, str(path.relative_to(root)))
    items = labelled_in(images, labels, read_names(names), NUMBERS)
    colours = tuple(map(default_colour, range(len(CLASSES))))
    return Dataset(SPEC.name, CLASSES, colours, items)


SPEC = DatasetSpec(
    name="pascal-context",
    title="PASCAL-Context",
    splits=("train", "val"),
    licence="photos of Flickr under its terms, research",
    where="https://cs.stanford.edu/~roozbeh/pascal-context",
    tree=TREE,
    open=open_split,
)
