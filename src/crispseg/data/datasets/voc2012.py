"""PASCAL VOC 2012, also with the additional labels of SBD: 20 classes and background.

Everingham et al., IJCV 2015; 1,464 images to train, 1,449 to validate. Hariharan et al., "Semantic
contours from inverse detectors", ICCV 2011: with their labels, in the form of VOC's own that is
usually passed on (``SegmentationClassAug``), 10,582 images train.
"""

from __future__ import annotations

from pathlib import Path

from crispseg.data.datasets.base import VOID, Dataset, DatasetSpec, check_split, wrong_tree
from crispseg.data.datasets.folder import default_colour
from crispseg.data.datasets.listed import labelled_in, read_names

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
NUMBERS = {number: number for number in range(len(CLASSES))} | {VOID: VOID}
LISTS = {"trainaug": ("trainaug.txt", "train_aug.txt")}
TREE = """\
ROOT/   (VOCdevkit/VOC2012)
  JPEGImages/*.jpg
  SegmentationClass/*.png               (palette; 0..20, 255 = void)
  SegmentationClassAug/*.png            (of SBD, for trainaug)
  ImageSets/Segmentation/train.txt  val.txt  trainval.txt  trainaug.txt or train_aug.txt
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "train", "val", "trainval", or "trainaug" with the labels of SBD; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or a listed image without label map.
    """
    check_split(SPEC, split)
    labels = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
    for folder in ("JPEGImages", labels):
        if not (root / folder).is_dir():
            raise wrong_tree(SPEC, root, folder)
    lists = [root / "ImageSets/Segmentation" / n for n in LISTS.get(split, (f"{split}.txt",))]
    names = next((path for path in lists if path.is_file()), None)
    if names is None:
        raise wrong_tree(SPEC, root, f"ImageSets/Segmentation/{lists[0].name}")
    items = labelled_in(root / "JPEGImages", root / labels, read_names(names), NUMBERS)
    colours = tuple(map(default_colour, range(len(CLASSES))))
    return Dataset(SPEC.name, CLASSES, colours, items)


SPEC = DatasetSpec(
    name="voc2012",
    title="PASCAL VOC 2012",
    splits=("train", "val", "trainval", "trainaug"),
    licence="photos of Flickr under its terms, research",
    where="http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (SBD: http://home.bharathh.info)",
    tree=TREE,
    open=open_split,
)
