"""PASCAL VOC 2012, also with the additional labels of SBD: 20 classes and background.

Everingham et al., IJCV 2015; 1,464 images to train, 1,449 to validate. Hariharan et al., "Semantic
contours from inverse detectors", ICCV 2011: with their labels 10,582 images train. They come as
MATLAB files (``benchmark_RELEASE/dataset/cls``), and are passed on in the form of VOC's own
(``SegmentationClassAug``); both are read.
"""

from __future__ import annotations

from pathlib import Path

from crispseg.data.datasets.base import (
    VOID,
    Dataset,
    DatasetSpec,
    Labelled,
    check_split,
    wrong_tree,
)
from crispseg.data.datasets.folder import default_colour
from crispseg.data.datasets.listed import labelled_in, read_names
from crispseg.io.labels import Labels
from crispseg.io.matlab import read_matlab_labels

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
NUMBERS = {number: number for number in range(len(CLASSES))} | {VOID: VOID}
SBD = Path("benchmark_RELEASE/dataset")
LISTS = {"trainaug": ("trainaug.txt", "train_aug.txt")}
TREE = """\
ROOT/   (VOCdevkit/VOC2012)
  JPEGImages/*.jpg
  SegmentationClass/*.png               (palette; 0..20, 255 = void)
  ImageSets/Segmentation/train.txt  val.txt  trainval.txt
for trainaug, SBD as distributed:
  benchmark_RELEASE/dataset/cls/*.mat  train.txt  val.txt
or with its labels as images:
  SegmentationClassAug/*.png  ImageSets/Segmentation/trainaug.txt or train_aug.txt
"""


def open_split(root: Path, split: str) -> Dataset:
    """A split: "train", "val", "trainval", or "trainaug" with the labels of SBD; see ``TREE``.

    Raises:
        InputError: no such split, another layout, or a listed image without label map.
    """
    check_split(SPEC, split)
    labels = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
    if split == "trainaug" and not (root / labels).is_dir() and (root / SBD).is_dir():
        return _dataset(_with_sbd(root))
    for folder in ("JPEGImages", labels):
        if not (root / folder).is_dir():
            raise wrong_tree(SPEC, root, folder)
    lists = [root / "ImageSets/Segmentation" / n for n in LISTS.get(split, (f"{split}.txt",))]
    names = next((path for path in lists if path.is_file()), None)
    if names is None:
        raise wrong_tree(SPEC, root, f"ImageSets/Segmentation/{lists[0].name}")
    items = labelled_in(root / "JPEGImages", root / labels, read_names(names), NUMBERS)
    return _dataset(items)


def _with_sbd(root: Path) -> list[Labelled]:
    """VOC's own training images, and those of SBD that VOC does not validate with."""
    lists = root / "ImageSets/Segmentation"
    for path in (root / "JPEGImages", root / "SegmentationClass", lists / "train.txt"):
        if not path.exists():
            raise wrong_tree(SPEC, root, str(path.relative_to(root)))
    own = set(read_names(lists / "train.txt"))
    more = {name for one in ("train", "val") for name in read_names(root / SBD / f"{one}.txt")}
    more -= own | set(read_names(lists / "val.txt"))
    images, cls = root / "JPEGImages", root / SBD / "cls"
    items = labelled_in(images, root / "SegmentationClass", own, NUMBERS)
    items += labelled_in(images, cls, more, NUMBERS, ".mat", read_sbd)
    return sorted(items, key=lambda item: item.name)


def read_sbd(path: Path) -> Labels:
    """(H, W) uint8 classes of a file of SBD.

    Raises:
        InputError: as ``read_matlab_labels``.
    """
    return read_matlab_labels(path, "GTcls", "Segmentation")


def _dataset(items: list[Labelled]) -> Dataset:
    return Dataset(SPEC.name, CLASSES, tuple(map(default_colour, range(len(CLASSES)))), items)


SPEC = DatasetSpec(
    name="voc2012",
    title="PASCAL VOC 2012",
    splits=("train", "val", "trainval", "trainaug"),
    licence="photos of Flickr under its terms, research",
    where="http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (SBD: http://home.bharathh.info)",
    tree=TREE,
    open=open_split,
)
