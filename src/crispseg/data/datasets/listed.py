"""Images and label maps by lists of names: what most data sets are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from crispseg.data.datasets.base import Labelled, labelled_files
from crispseg.io.labels import Labels, read_labels
from crispseg.types import InputError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG")


def read_names(path: Path) -> list[str]:
    """Names in a text file: of each line the first word, without folders and suffix.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"cannot read {path}, a list of names") from None
    words = [line.split()[0] for line in lines if line.strip()]
    if not words:
        raise InputError(f"{path} lists no names")
    return [_stem(word.rpartition("/")[2]) for word in words]


def _stem(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in (".jpg", ".jpeg", ".png") else name


def labelled_in(
    images: Path,
    labels: Path,
    names: Iterable[str],
    numbers: Mapping[int, int] | None = None,
    suffix: str = ".png",
    read: Callable[[Path], Labels] = read_labels,
) -> list[Labelled]:
    """Named images and label maps of two folders.

    Args:
        images: folder of NAME.jpg or NAME.png.
        labels: folder of NAME.png, or of NAME and ``suffix``.
        names: which.
        numbers: number in the file -> class or void; without, numbers are classes already.
        suffix: of the label maps.
        read: gives the numbers of such a file.

    Raises:
        InputError: an image or label map that is not there, by name.
    """
    items = []
    for name in names:
        photo = next((p for s in PHOTO_SUFFIXES if (p := images / f"{name}{s}").is_file()), None)
        if photo is None:
            raise InputError(f"there is no image {images / name}.jpg, which is listed")
        file = labels / f"{name}{suffix}"
        if not file.is_file():
            raise InputError(f"{photo} has no label map {file}")
        items.append(labelled_files(name, photo, file, numbers, read))
    return items
