"""Label maps: files -> (H, W) class numbers, exactly as they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath
from crispseg.io.decode import DEFAULT_MAX_PIXELS, Palette, open_stored
from crispseg.types import InputError

Labels = NDArray[Any]
"""(H, W) uint8 or uint16."""


def read_labels(path: StrPath, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Labels:
    """Read a label map; of a palette file the indices, not the colours.

    The EXIF orientation is not applied, as in ``read_mask``.

    Args:
        path: grey or palette image, or .npy.
        max_pixels: refuse larger files, told by the header, before anything is decoded.

    Returns:
        (H, W) uint8 or uint16, the numbers that are stored.

    Raises:
        InputError: missing, not an image, damaged, too large, or colours instead of numbers.
    """
    return _read(path, max_pixels)[0]


def read_coloured_labels(
    path: StrPath, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[Labels, list[tuple[int, int, int]]]:
    """Like ``read_labels``, and RGB of class 0, 1, ... 255 of a palette file; empty without one."""
    labels, palette = _read(path, max_pixels)
    if palette is None:
        return labels, []
    return labels, [(int(r), int(g), int(b)) for r, g, b in palette.colours]


def _read(path: StrPath, max_pixels: int) -> tuple[Labels, Palette | None]:
    with open_stored(path, max_pixels=max_pixels) as stored:
        palette = stored.palette()
        pixels = stored.pixels() if palette is None else palette.indices
    return _as_labels(pixels, path), palette


def _as_labels(pixels: NDArray[Any], path: StrPath) -> Labels:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim != 2:
        raise InputError(
            f"{path} is not a label map: it has {pixels.shape[2]} channels; "
            "save class numbers as grey or palette, not colours"
        )
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    if not np.issubdtype(pixels.dtype, np.integer):
        raise InputError(f"{path} is not a label map: its values are {pixels.dtype}")
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise InputError(f"{path} is not a label map: its values span {low}..{high}")
    return pixels.astype(np.uint8 if high <= 255 else np.uint16)
