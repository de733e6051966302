"""Resizing a window at a time: area averages down, bilinear up, without a second full image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.windows import MaskSource
from crispseg.types import Box, InputError, Mask, Size


def resize_area(array: NDArray[Any], size: Size) -> NDArray[np.float32]:
    """Average of the pixels under each pixel of a smaller (or equal) grid.

    Row i averages rows floor(i * H / h) to ceil((i + 1) * H / h), the same pixels as PyTorch's
    ``mode="area"``. Sums are exact for integers; floats are summed in float64.

    Args:
        array: (H, W) or (H, W, C), bool, integer or float.
        size: of the result, not larger than the array.

    Returns:
        (h, w) or (h, w, C) float32 in the array's own range.
    """
    return _area_means(array, Size(*array.shape[:2]), size, Box(0, 0, *size), (0, 0))


def resize_area_window(
    read: Callable[[Box], NDArray[Any]], full: Size, size: Size, box: Box
) -> NDArray[np.float32]:
    """The part ``box`` of ``resize_area(whole, size)``, bit for bit, without holding the whole.

    Args:
        read: gives the pixels of a box of the whole, (h, w) or (h, w, C).
        full: size of the whole.
        size: of the resized whole, not larger.
        box: inside ``size``.

    Returns:
        (box.height, box.width) or (box.height, box.width, C) float32.
    """
    y0, y1 = _area_bounds(full.height, size.height)
    x0, x1 = _area_bounds(full.width, size.width)
    left, right = int(x0[box.x0]), int(x1[box.x1 - 1])
    rows_each = BAND_PX * size.height // (full.height * (right - left))
    bands = []
    for top in range(box.y0, box.y1, max(rows_each, 1)):
        band = Box(top, box.x0, min(top + max(rows_each, 1), box.y1), box.x1)
        source = Box(int(y0[band.y0]), left, int(y1[band.y1 - 1]), right)
        bands.append(_area_means(read(source), full, size, band, (source.y0, left)))
    return np.concatenate(bands)


BAND_PX = 1 << 22
"""Most pixels of the whole that ``resize_area_window`` reads at once, unless one row has more."""


def _area_means(
    array: NDArray[Any], full: Size, size: Size, box: Box, corner: tuple[int, int]
) -> NDArray[np.float32]:
    """Means for ``box`` of the resized grid; ``array`` starts at ``corner`` of the whole."""
    y0, y1 = (b[box.y0 : box.y1] - corner[0] for b in _area_bounds(full.height, size.height))
    x0, x1 = (b[box.x0 : box.x1] - corner[1] for b in _area_bounds(full.width, size.width))
    kind = np.float64 if np.issubdtype(array.dtype, np.floating) else np.int64
    result = np.empty((*box.size, *array.shape[2:]), np.float32)
    counts = (x1 - x0).reshape(-1, *[1] * (array.ndim - 2))
    running = np.zeros((array.shape[1] + 1, *array.shape[2:]), kind)
    for i in range(box.height):
        np.cumsum(array[y0[i] : y1[i]].sum(axis=0, dtype=kind), axis=0, out=running[1:])
        result[i] = (running[x1] - running[x0]) / (counts * (y1[i] - y0[i]))
    return result


def _area_bounds(length: int, out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    index = np.arange(out, dtype=np.int64)
    return index * length // out, -(-(index + 1) * length // out)


@dataclass(frozen=True, slots=True)
class Part:
    """That an array is only a part of a larger one.

    Attributes:
        whole: size of the larger one.
        box: which part.
    """

    whole: Size
    box: Box


def bilinear_source(whole: Size, size: Size, box: Box) -> Box:
    """The part of an array of size ``whole`` that ``bilinear_window`` reads for ``box``."""
    if whole == size:
        return box
    y, y_next, _ = _bilinear_taps(whole.height, size.height, box.y0, box.y1)
    x, x_next, _ = _bilinear_taps(whole.width, size.width, box.x0, box.x1)
    return Box(int(y[0]), int(x[0]), int(y_next[-1]) + 1, int(x_next[-1]) + 1)


def bilinear_window(
    array: NDArray[Any], size: Size, box: Box, part: Part | None = None
) -> NDArray[np.float32]:
    """The part ``box`` of ``array`` resized to ``size``, without making the rest.

    Pixel centres map as with ``align_corners=False``; equal to the same window of PyTorch's
    bilinear interpolation to about 1e-6 of the range. Nothing is averaged when sizes shrink.

    Args:
        array: (..., h, w), any numbers; the last two axes are resized.
        size: of the resized array.
        box: inside ``size``.
        part: ``array`` is only this part of what is resized; it holds ``bilinear_source``.

    Returns:
        (..., box.height, box.width) float32; the same bits whether a part or the whole is given.
    """
    shape = Size(*array.shape[-2:])
    whole, held = (part.whole, part.box) if part else (shape, Box(0, 0, *shape))
    if whole == size:
        at = box.shift(-held.y0, -held.x0).slices
        return array[..., at[0], at[1]].astype(np.float32)
    y, y_next, fy = _bilinear_taps(whole.height, size.height, box.y0, box.y1)
    x, x_next, fx = _bilinear_taps(whole.width, size.width, box.x0, box.x1)
    rows = slice(y[0] - held.y0, y_next[-1] + 1 - held.y0)
    near = array[..., rows, x - held.x0].astype(np.float32)
    near += (array[..., rows, x_next - held.x0] - near) * fx
    result: NDArray[np.float32] = near[..., y - y[0], :]
    result += (near[..., y_next - y[0], :] - result) * fy[:, None]
    return result


def _bilinear_taps(
    length: int, out: int, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    source = (np.arange(start, stop) + 0.5) * (length / out) - 0.5
    source = np.clip(source, 0, length - 1)
    low = np.floor(source).astype(np.int64)
    return low, np.minimum(low + 1, length - 1), (source - low).astype(np.float32)


class EnlargedMask:
    """A mask of lower resolution as a MaskSource of a higher one; nothing enlarged is kept.

    Args:
        mask: of lower resolution.
        size: what it is enlarged to, bilinearly.
    """

    def __init__(self, mask: MaskSource, size: Size) -> None:
        self._mask = mask
        self.size = size

    def read(self, box: Box) -> Mask:
        """See MaskSource."""
        source = bilinear_source(self._mask.size, self.size, box)
        part = Part(self._mask.size, source)
        return bilinear_window(self._mask.read(source), self.size, box, part)


def fitting_mask(mask: MaskSource, size: Size, names: tuple[object, object]) -> MaskSource:
    """A mask at the image's size; one of lower resolution is enlarged window by window.

    Args:
        mask: to fit.
        size: of the image.
        names: of mask and image, for the message.

    Raises:
        InputError: other proportions, or a larger mask.
    """
    if mask.size == size:
        return mask
    height, width = mask.size
    # one of the two was rounded to whole pixels
    fits = abs(height * size.width - width * size.height) <= max(size)
    if not fits or height > size.height or width > size.width:
        raise InputError(
            f"{names[0]} is {width}x{height} but {names[1]} is {size.width}x{size.height} "
            "(width x height); a smaller mask must have the image's proportions"
        )
    return EnlargedMask(mask, size)
