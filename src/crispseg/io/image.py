"""Photos: files <-> (H, W, 3) RGB arrays, upright."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath
from crispseg.io.decode import DEFAULT_MAX_PIXELS, open_stored, upright
from crispseg.io.encode import check_suffix, write_array
from crispseg.types import Image, InputError, Size, check_image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""What write_image can write."""


def read_image(path: StrPath, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image:
    """Read a photo as RGB, the way an image viewer shows it.

    JPEG, PNG, WebP, TIFF and GIF (the first page), BMP, HEIF/AVIF, PNM and .npy. The EXIF
    orientation is applied. Grey becomes RGB, palettes are expanded, CMYK and Lab are converted to
    sRGB; RGB profiles are not applied, the stored numbers are returned. An alpha channel is
    dropped and the colours beneath it are kept. Floats (TIFF, .npy) must lie in [0, 1] and become
    uint16.

    Args:
        path: the file; its format is told by its content, not by its name.
        max_pixels: refuse larger images, told by the header, before anything is decoded.

    Returns:
        (H, W, 3) RGB, C-contiguous; uint16 for files of 16 bits or floats, otherwise uint8.

    Raises:
        InputError: the file is missing, unreadable, not an image, damaged, incomplete or too
            large, or holds something other than grey or RGB.
    """
    with open_stored(path, max_pixels=max_pixels) as stored:
        pixels = upright(to_rgb(stored.pixels(), path), stored.orientation)
    try:
        return check_image(np.ascontiguousarray(pixels))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def image_size(path: StrPath) -> Size:
    """Height and width that read_image would return, from the header alone.

    Raises:
        InputError: the file is missing, unreadable, empty or not an image.
    """
    with open_stored(path, max_pixels=None) as stored:
        height, width = stored.size
        return Size(width, height) if stored.orientation >= 5 else stored.size


def write_image(path: StrPath, image: Image) -> None:
    """Write an RGB image; JPEG and WebP keep the upper 8 of 16 bits.

    Args:
        path: ends in one of IMAGE_SUFFIXES. JPEG is written at quality 95, the others losslessly.
        image: (H, W, 3) RGB, uint8 or uint16.

    Raises:
        InputError: not such an array, another suffix, or the file cannot be written.
    """
    image = check_image(image)
    check_suffix(path, IMAGE_SUFFIXES)
    if image.dtype == np.uint16 and str(path).lower().endswith((".jpg", ".jpeg", ".webp")):
        image = (image >> 8).astype(np.uint8)
    write_array(path, image)


def to_rgb(pixels: NDArray[Any], path: StrPath) -> NDArray[Any]:
    """(H, W) or (H, W, C) of the file -> (H, W, 3), often a view."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels not in (1, 2, 3, 4):
        raise InputError(f"{path}: has {channels} channels; grey or RGB is needed")
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = _floats_to_uint16(pixels, path)
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    if channels <= 2:
        grey = pixels[:, :, :1]
        return np.broadcast_to(grey, (*grey.shape[:2], 3))
    return pixels[:, :, :3]


def _floats_to_uint16(pixels: NDArray[Any], path: StrPath) -> NDArray[np.uint16]:
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{path}: holds NaN or infinity; replace them first")
    if low < 0 or high > 1:
        raise InputError(
            f"{path}: holds floats that span {low:g}..{high:g}; scale them to [0, 1] first"
        )
    return np.rint(pixels * np.float32(65535)).astype(np.uint16)
