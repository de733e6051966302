"""Masks: files <-> (H, W) float32 probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath
from crispseg.io.decode import DEFAULT_MAX_PIXELS, Palette, open_stored
from crispseg.io.encode import check_suffix, write_array
from crispseg.types import InputError, Mask, Size, check_mask

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".webp", ".bmp", ".jpg", ".jpeg", ".npy")
"""What write_mask can write."""


def read_mask(path: StrPath, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Mask:
    """Read a mask as the probability of the object.

    Reads what read_image reads. Which value counts, the first rule that applies:

    1. An alpha channel that is not constant is the mask (cut-outs).
    2. A palette whose colours are all grey: the grey values.
    3. Any other palette (label colours): 1 where the index is above 0, otherwise 0.
    4. The largest of R, G and B.

    Then, as in types.check_mask: bool, and integers that are only 0 and 1, are taken as they are;
    other integers up to 255 are divided by 255, up to 65535 by 65535; floats must lie in [0, 1].

    The EXIF orientation is NOT applied: programs that draw masks store them upright, and a mask
    that keeps the camera's tag by accident would be turned away from its image. (HEIF has no
    upright alternative: its decoder always turns.)

    Args:
        path: the file; its format is told by its content, not by its name.
        max_pixels: refuse larger masks, told by the header, before anything is decoded.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        InputError: the file is missing, unreadable, not an image, damaged, incomplete or too
            large, or holds NaN or values out of range.
    """
    with open_stored(path, max_pixels=max_pixels) as stored:
        palette = stored.palette()
        values = (
            _values_of_pixels(stored.pixels(), path)
            if palette is None
            else values_of_palette(palette)
        )
    try:
        return check_mask(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def mask_size(path: StrPath) -> Size:
    """Height and width that read_mask would return, from the header alone.

    Raises:
        InputError: the file is missing, unreadable, empty or not an image.
    """
    with open_stored(path, max_pixels=None) as stored:
        return stored.size


def write_mask(path: StrPath, mask: Mask, *, binary: bool = False) -> None:
    """Write a mask as 8-bit grey, or as it is to .npy.

    Args:
        path: ends in one of MASK_SUFFIXES. All but .jpg are lossless; JPEG (quality 95) changes
            values by a few levels around edges, so that a binary mask is no longer binary.
        mask: (H, W) probabilities in [0, 1]; anything types.check_mask accepts.
        binary: write 255 where the probability is above 0.5 and 0 elsewhere, instead of
            round(255 * probability). To .npy: bool instead of float32.

    Raises:
        InputError: not such an array, another suffix, or the file cannot be written.
    """
    check_output(path)
    mask = check_mask(mask)
    write_array(path, _encode(mask, binary=binary, raw=str(path).lower().endswith(".npy")))


def check_output(path: StrPath, suffixes: tuple[str, ...] = MASK_SUFFIXES) -> None:
    """Make sure that write_mask can write ``path``; call it before long work.

    Leaves no file behind and does not touch one that exists. For write_image, pass
    IMAGE_SUFFIXES.

    Raises:
        InputError: another suffix, a folder, a device, a write-protected file, or a folder that
            is missing or not writable.
    """
    check_suffix(path, suffixes)


def _encode(mask: Mask, *, binary: bool, raw: bool) -> NDArray[Any]:
    if binary:
        selected = mask > 0.5
        return selected if raw else selected.astype(np.uint8) * np.uint8(255)
    return mask if raw else np.rint(mask * np.float32(255)).astype(np.uint8)


def _values_of_pixels(pixels: NDArray[Any], path: StrPath) -> NDArray[Any]:
    """(H, W) or (H, W, C) -> (H, W): the alpha channel or the largest of the colours."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        alpha = pixels[:, :, -1]
        if alpha.min() != alpha.max():
            return alpha
    return colour_values(pixels, path)


def colour_values(pixels: NDArray[Any], path: StrPath) -> NDArray[Any]:
    """(H, W) or (H, W, C) -> (H, W): the largest of the colours.

    Raises:
        InputError: neither grey nor RGB, with or without alpha.
    """
    if pixels.ndim == 2:
        return pixels
    channels = pixels.shape[2]
    if channels not in (1, 2, 3, 4):
        shape = "x".join(map(str, pixels.shape))
        raise InputError(f"{path}: is {shape}; a mask is height x width, grey, RGB or RGBA")
    largest: NDArray[Any] = pixels[:, :, 0]
    for channel in (1, 2) if channels >= 3 else ():  # faster than max(axis=2)
        largest = np.maximum(largest, pixels[:, :, channel])
    return largest


def values_of_palette(palette: Palette) -> NDArray[Any]:
    """(H, W) by the rules of ``read_mask``."""
    alpha: NDArray[np.uint8] = palette.alpha[palette.indices]
    if alpha.min() != alpha.max():
        return alpha
    grey: NDArray[np.uint8] = palette.colours[:, 0]
    if (palette.colours == grey[:, np.newaxis]).all():
        return grey[palette.indices]
    return np.greater(palette.indices, 0)
