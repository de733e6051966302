"""Your own images: a folder of images, a folder of label maps, and a file of class names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crispseg.data.datasets.base import (
    VOID,
    Colour,
    Dataset,
    DatasetSpec,
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
or without splits:
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


def read_classes(root: Path) -> tuple[list[str], list[Colour]]:
    """Names and colours of ``classes.txt``.

    Raises:
        InputError: no such file, empty, or a name twice.
    """
    try:
        lines = (root / NAMES).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise wrong_tree(SPEC, root, NAMES) from None
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
        raise InputError(f"{root / NAMES} must name every class once, a line each")
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
