"""Arrays -> files, complete or not at all; the format goes by the suffix."""

from __future__ import annotations

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
