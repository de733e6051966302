"""What every data set of labelled images is: names of classes, and images with label maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from crispseg.data.pairs import is_hidden
from crispseg.io.image import IMAGE_SUFFIXES, read_image
from crispseg.io.labels import Labels, read_labels
from crispseg.io.mask import MASK_SUFFIXES
from crispseg.types import Image, InputError, TreeError

VOID = 255
SUFFIXES = frozenset((*IMAGE_SUFFIXES, *MASK_SUFFIXES))
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Labelled:
    """One image and its label map, read when called.

    Attributes:
        name: unique in its data set; usually the file's stem.
        read_image: gives (H, W, 3) RGB, uint8 or uint16.
        read_labels: gives (H, W) uint8 or uint16: class numbers and ``Dataset.ignore_index``.
        read_instances: gives (H, W) integers, a number for every object and 0 elsewhere; None if
            the data set tells no objects apart.
        image: file of the image, by which a run that goes on sees that it is still the same; None
            where there is none.
    """

    name: str
    read_image: Callable[[], Image]
    read_labels: Callable[[], Labels]
    read_instances: Callable[[], Labels] | None = None
    image: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """A split of a data set: ``len`` of it, and ``[i]`` for the i-th image.

    Attributes:
        name: of the data set.
        class_names: of classes 0, 1, ...
        colours: RGB of each class, as its authors paint it.
        items: the images.
        ignore_index: label of void pixels.
        categories: a name for each class, of the category it belongs to; empty if there are none.
        average_sizes: class -> mean pixels of its objects, by which iIoU weights them.
        has_images: whether images can be read; label maps alone may be measured.
        numbers: number in its own files -> class or void, of every number that may be there; empty
            if numbers there are classes.
    """

    name: str
    class_names: tuple[str, ...]
    colours: tuple[Colour, ...]
    items: Sequence[Labelled] = field(repr=False)
    ignore_index: int = VOID
    categories: tuple[str, ...] = ()
    average_sizes: Mapping[int, float] = field(default_factory=dict)
    has_images: bool = True
    numbers: Mapping[int, int] = field(default_factory=dict, repr=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.class_names)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def __getitem__(self, index: int) -> Labelled:
        """Image ``index``."""
        return self.items[index]

    def __iter__(self) -> Iterator[Labelled]:
        """Every image in order."""
        return iter(self.items)


@dataclass(frozen=True)
class DatasetSpec:
    """A data set that crispseg can read.

    Attributes:
        name: what ``open_dataset`` takes.
        title: for people.
        splits: names of its splits.
        licence: of the images and labels, in a few words.
        where: where to get it.
        tree: its folders and files, as they must lie under the root; several lines.
        open: root and split to the split.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    licence: str
    where: str
    tree: str
    open: Callable[[Path, str], Dataset]


def labelled_files(
    name: str,
    image: Path,
    labels: Path,
    numbers: Mapping[int, int] | None = None,
    read: Callable[[Path], Labels] = read_labels,
) -> Labelled:
    """An image and its label map in two files.

    Args:
        name: of the image.
        image: any format of ``read_image``.
        labels: grey or palette image of class numbers, or what ``read`` reads.
        numbers: number in the file -> class or void, of every number that may be there; without,
            numbers are classes already.
        read: gives the numbers of such a file.
    """
    reader = read if numbers is None else partial(read_recoded, numbers=numbers, read=read)
    return Labelled(name, partial(read_image, image), partial(reader, labels), image=image)


def read_recoded(path: Path, numbers: Mapping[int, int], read: Callable[[Path], Labels]) -> Labels:
    """A label map with other numbers for the classes, as ``recode`` makes it; errors name the file.

    Args:
        path: of the label map.
        numbers: number in the file -> class or void, of every number that may be there.
        read: gives the numbers of such a file.

    Raises:
        InputError: as ``read`` and ``recode``.
    """
    labels = read(path)
    try:
        return recode(labels, numbers)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def recode(labels: Labels, numbers: Mapping[int, int]) -> Labels:
    """Other numbers for the classes.

    Args:
        labels: (H, W) uint8 or uint16.
        numbers: number in ``labels`` -> class or void, of every number that may be there.

    Returns:
        (H, W) uint8, or uint16 where a new number is above 255.

    Raises:
        InputError: a number without a class.
    """
    table = np.full(int(np.iinfo(labels.dtype).max) + 1, -1, np.int32)
    for number, new in numbers.items():
        if 0 <= number < len(table):
            table[number] = new
    out = table[labels]
    if out.size and int(out.min()) < 0:
        wrong = int(labels[out < 0][0])
        raise InputError(f"label {wrong} is none of this data set's ({_span(numbers)})")
    return out.astype(np.uint8 if max(numbers.values()) <= 255 else np.uint16)


def pairs_of(images: Path, labels: Path, suffix: str = "") -> list[tuple[str, Path, Path]]:
    """Name, image and label map of every image in a folder, in order of names.

    Args:
        images: folder of images.
        labels: folder of label maps: the image's stem, then ``suffix``, .png or another format.
        suffix: what the label maps' stems have more.

    Raises:
        InputError: an image without label map; none at all; two label maps for one image.
    """
    found = find_by_name(labels)
    pairs = []
    for path in visible(images.iterdir(), images):
        if path.suffix.lower() in SUFFIXES:
            if path.stem + suffix not in found:
                raise InputError(f"{path} has no label map {labels / (path.stem + suffix)}.png")
            pairs.append((path.stem, path, found[path.stem + suffix]))
    if not pairs:
        raise InputError(f"{images} holds no images")
    return pairs


def find_by_name(folder: Path) -> dict[str, Path]:
    """Name -> label map of a folder and those below it; names as ``Labelled`` has them.

    Raises:
        InputError: no such folder, or two label maps for one image.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder of label maps: {folder}")
    found: dict[str, Path] = {}
    for path in visible(folder.rglob("*"), folder):
        if path.suffix.lower() in SUFFIXES:
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise InputError(f"{folder} holds two label maps of {name!r}; keep one")
            found[name] = path
    return found


def visible(paths: Iterable[Path], folder: Path) -> list[Path]:
    """The paths below ``folder`` in order, without what archives of macOS leave beside files.

    Those are ``._NAME`` and the folder ``__MACOSX``; other hidden files are passed over as well.
    """
    return sorted(path for path in paths if not is_hidden(path.relative_to(folder)))


def wrong_tree(spec: DatasetSpec, root: Path, missing: str) -> TreeError:
    """The error for a root that does not look as it must; shows how it must look."""
    return TreeError(
        f"{root} is not {spec.title}: there is no {missing}; expected:\n{spec.tree.rstrip()}\n"
        f"get it from {spec.where}"
    )


def check_split(spec: DatasetSpec, split: str) -> None:
    """Make sure there is such a split.

    Raises:
        InputError: there is none; with those that there are.
    """
    if split not in spec.splits:
        raise InputError(f"{spec.title} has no split {split!r}; it has {', '.join(spec.splits)}")


def _span(numbers: Mapping[int, int]) -> str:
    known = sorted(numbers)
    if known == list(range(known[0], known[-1] + 1)):
        return f"{known[0]}..{known[-1]}"
    return ", ".join(map(str, known[:20]))
