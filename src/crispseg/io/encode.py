"""Arrays -> files, complete or not at all; the format goes by the suffix."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL.Image
import pyvips
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath, atomic_path, check_target
from crispseg.types import InputError

_VIPS_SAVERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("pngsave_target", {}),
    ".tif": ("tiffsave_target", {"compression": "deflate"}),
    ".tiff": ("tiffsave_target", {"compression": "deflate"}),
    ".webp": ("webpsave_target", {"lossless": True}),
    ".jpg": ("jpegsave_target", {"Q": 95}),
    ".jpeg": ("jpegsave_target", {"Q": 95}),
}

_INTERPRETATIONS = {
    (2, "uint8"): "b-w",
    (2, "uint16"): "grey16",
    (3, "uint8"): "srgb",
    (3, "uint16"): "rgb16",
}


def check_suffix(path: StrPath, suffixes: tuple[str, ...]) -> None:
    """Make sure that ``path`` ends in one of ``suffixes`` and can be written.

    Raises:
        InputError: another suffix, or what atomic.check_target finds.
    """
    if Path(path).suffix.lower() not in suffixes:
        # a folder's name has no suffix: let that be said first
        if Path(path).is_dir():
            check_target(path)
        raise InputError(f"{path}: the name must end in one of {', '.join(suffixes)}")
    check_target(path)


LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".npy")
"""What write_labels can write."""


def write_labels(
    path: StrPath, labels: NDArray[Any], colours: Sequence[tuple[int, int, int]] = ()
) -> None:
    """Write a label map; the numbers in the file are those of the classes.

    Args:
        path: ends in one of LABEL_SUFFIXES.
        labels: (H, W) uint8 or uint16.
        colours: RGB of class 0, 1, ...: the palette of an 8-bit PNG. Without, it is grey.

    Raises:
        InputError: not such an array, another suffix, or the file cannot be written.
    """
    check_suffix(path, LABEL_SUFFIXES)
    if labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"labels must be (H, W) uint8 or uint16, not {labels.shape} {labels.dtype}"
        )
    if not colours or labels.dtype != np.uint8 or Path(path).suffix.lower() != ".png":
        write_array(path, labels)
        return
    picture = PIL.Image.fromarray(labels).convert("L")
    picture.putpalette([value for colour in colours[:256] for value in colour])
    try:
        with atomic_path(path) as temporary:
            picture.save(temporary, format="PNG")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextmanager
def array_file(
    path: StrPath, shape: tuple[int, ...], dtype: type[np.generic]
) -> Iterator[NDArray[Any]]:
    """An array to fill that lies in a .npy file, not in memory; there when the block ends well.

    Raises:
        InputError: another suffix, not writable, or no room on the disk.
    """
    check_suffix(path, (".npy",))
    with atomic_path(path) as temporary:
        try:
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                with temporary.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        yield array
        array.flush()


def write_array(path: StrPath, array: NDArray[Any]) -> None:
    """Write ``array`` to ``path`` in the format its suffix names.

    Args:
        path: .png, .tif, .tiff, .webp (lossless), .bmp, .jpg, .jpeg (quality 95) or .npy.
        array: (H, W) or (H, W, 3) uint8 or uint16; anything for .npy.

    Raises:
        InputError: the file cannot be written, or the format cannot hold such an image.
    """
    suffix = Path(path).suffix.lower()
    try:
        with atomic_path(path) as temporary, open(temporary, "w+b") as file:
            if suffix == ".npy":
                np.save(file, array, allow_pickle=False)
            elif suffix == ".bmp":
                PIL.Image.fromarray(array).save(file, format="BMP")
            else:
                _save_with_vips(file, array, suffix)
    except (OSError, pyvips.Error) as error:
        text = getattr(error, "detail", None) or getattr(error, "strerror", None) or str(error)
        reason = next((line.strip() for line in text.splitlines() if line.strip()), "no reason")
        raise InputError(f"{path}: cannot be written: {reason}") from None


def _save_with_vips(file: IO[bytes], array: NDArray[Any], suffix: str) -> None:
    saver, options = _VIPS_SAVERS[suffix]
    image = pyvips.Image.new_from_array(
        np.ascontiguousarray(array), interpretation=_INTERPRETATIONS[array.ndim, array.dtype.name]
    )
    if suffix in (".tif", ".tiff"):
        options = options | {"bigtiff": array.nbytes > 2**31}  # offsets have 32 bits otherwise
    target = pyvips.Target.new_to_descriptor(file.fileno())
    pyvips.Operation.call(saver, image, target, **options)
