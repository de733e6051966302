"""Your own images: a folder of images, a folder of label maps, and a file of class names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crispseg.data.datasets.base import (
    VOID,
    Colour,
    Dataset,
    DatasetSpec,
    find_by_name,
    labelled_files,
    pairs_of,
    wrong_tree,
)
from crispseg.types import InputError

MOST_CLASSES = 255
NAMES = "classes.txt"
TREE = """\
ROOT/
  classes.txt                  (a class a line: name, or name and its colour: road 128 64 128)
  SPLIT/images/*.jpg or *.png  SPLIT/labels/*.png   (same stems; 0, 1, ... and 255 = void)
or without splits ("all"):
ROOT/
  classes.txt  images/  labels/
"""


def open_split(
    root: Path, split: str, class_names: Sequence[str] = (), colours: Sequence[Colour] = ()
) -> Dataset:
    """A split of a folder of images and label maps.

    Args:
        root: see ``TREE``.
        split: name of the split's folder; "" or "all" where there are no splits.
        class_names: instead of ``classes.txt``.
        colours: of those classes; ``default_colour`` without.

    Raises:
        InputError: another layout, no class names, or an image without label map.
    """
    place = root if split in ("", "all") else root / split
    for folder in ("images", "labels"):
        if not (place / folder).is_dir():
            missing = str((place / folder).relative_to(root))
            raise wrong_tree(SPEC, root, missing)
    if not class_names:
        class_names, colours = read_classes(root)
    if not 1 <= len(class_names) <= MOST_CLASSES:
        raise InputError(f"1 to {MOST_CLASSES} classes, not {len(class_names)}")
    colours = colours or [default_colour(i) for i in range(len(class_names))]
    numbers = {i: i for i in range(len(class_names))} | {VOID: VOID}
    pairs = pairs_of(place / "images", place / "labels")
    items = [labelled_files(*pair, numbers) for pair in pairs]
    return Dataset(SPEC.name, tuple(class_names), tuple(colours), items)


def open_label_maps(labels: Path, classes: str, images: Path | None = None) -> Dataset:
    """A folder of true label maps, to measure others against, with or without images.

    Args:
        labels: folder of label maps: 0, 1, ... and 255 = void.
        classes: how many, or a file like ``classes.txt``.
        images: folder of images with the same stems.

    Raises:
        InputError: no such folder, no label maps, no sensible classes, or an image is missing.
    """
    if classes.isdecimal():
        names = [f"class {number}" for number in range(int(classes))]
        colours = [default_colour(number) for number in range(len(names))]
    else:
        names, colours = read_class_file(Path(classes))
    if not 1 <= len(names) <= MOST_CLASSES:
        raise InputError(f"1 to {MOST_CLASSES} classes, not {len(names)}")
    numbers = {i: i for i in range(len(names))} | {VOID: VOID}
    found = find_by_name(labels)
    photos = find_by_name(images) if images else found
    if missing := sorted(found.keys() - photos.keys()):
        raise InputError(f"{images} has no image named {missing[0]}, as {labels} has")
    items = [labelled_files(name, photos[name], found[name], numbers) for name in sorted(found)]
    if not items:
        raise InputError(f"{labels} holds no label maps")
    return Dataset(
        str(labels.name), tuple(names), tuple(colours), items, has_images=images is not None
    )


def read_classes(root: Path) -> tuple[list[str], list[Colour]]:
    """Names and colours of ``classes.txt``.

    Raises:
        InputError: no such file, empty, or a name twice.
    """
    if not (root / NAMES).is_file():
        raise wrong_tree(SPEC, root, NAMES)
    return read_class_file(root / NAMES)


def read_class_file(path: Path) -> tuple[list[str], list[Colour]]:
    """Names and colours of a file with a class a line.

    Raises:
        InputError: it cannot be read, is empty, or has a name twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"cannot read {path}, a text file with a class a line") from None
    names: list[str] = []
    colours: list[Colour] = []
    for line in filter(None, map(str.strip, lines)):
        *words, red, green, blue = ["", "", "", *line.split()]
        is_colour = all(w.isdigit() and int(w) <= 255 for w in (red, green, blue)) and any(words)
        names.append(" ".join(filter(None, words)) if is_colour else line)
        number = len(colours)
        colour = (int(red), int(green), int(blue)) if is_colour else default_colour(number)
        colours.append(colour)
    if len(set(names)) < len(names) or not names:
        raise InputError(f"{path} must name every class once, a line each")
    return names, colours


def default_colour(number: int) -> Colour:
    """The colour that PASCAL VOC gives a class: bits of its number, dealt to R, G and B in turn."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


SPEC = DatasetSpec(
    name="folder",
    title="a folder of images and label maps",
    splits=(),
    licence="yours",
    where="your own files",
    tree=TREE,
    open=open_split,
)
