"""Resizing a window at a time: area averages down, bilinear up, without a second full image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.types import Box, Size


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
    height, width = array.shape[:2]
    y0, y1 = _area_bounds(height, size.height)
    x0, x1 = _area_bounds(width, size.width)
    kind = np.float64 if np.issubdtype(array.dtype, np.floating) else np.int64
    result = np.empty((*size, *array.shape[2:]), np.float32)
    counts = (x1 - x0).reshape(-1, *[1] * (array.ndim - 2))
    running = np.zeros((width + 1, *array.shape[2:]), kind)
    for i in range(size.height):
        np.cumsum(array[y0[i] : y1[i]].sum(axis=0, dtype=kind), axis=0, out=running[1:])
        result[i] = (running[x1] - running[x0]) / (counts * (y1[i] - y0[i]))
    return result


def _area_bounds(length: int, out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    index = np.arange(out, dtype=np.int64)
    return index * length // out, -(-(index + 1) * length // out)


def bilinear_window(
    array: NDArray[Any], size: Size, box: Box, *, top: int = 0, height: int | None = None
) -> NDArray[np.float32]:
    """The part ``box`` of ``array`` resized to ``size``, without making the rest.

    Pixel centres map as with ``align_corners=False``; equal to the same window of PyTorch's
    bilinear interpolation to about 1e-6 of the range. Nothing is averaged when sizes shrink.

    Args:
        array: (..., h, w), any numbers; the last two axes are resized.
        size: of the resized array.
        box: inside ``size``.
        top: where ``array`` is only some rows of a taller one: the first of them.
        height: of that taller one.

    Returns:
        (..., box.height, box.width) float32.
    """
    height = array.shape[-2] if height is None else height
    if (height, array.shape[-1]) == tuple(size):
        rows = slice(box.y0 - top, box.y1 - top)
        return array[..., rows, box.x0 : box.x1].astype(np.float32)
    y, y_next, fy = _bilinear_taps(height, size.height, box.y0, box.y1)
    x, x_next, fx = _bilinear_taps(array.shape[-1], size.width, box.x0, box.x1)
    rows = slice(y[0] - top, y_next[-1] + 1 - top)
    near = array[..., rows, x].astype(np.float32)
    near += (array[..., rows, x_next] - near) * fx
    result: NDArray[np.float32] = near[..., y - y[0], :]
    result += (near[..., y_next - y[0], :] - result) * fy[:, None]
    return result


def bilinear_rows(length: int, out: int, start: int, stop: int) -> tuple[int, int]:
    """Which rows of ``length``, half-open, ``bilinear_window`` reads for ``start``..``stop``."""
    if length == out:
        return start, stop
    y, y_next, _ = _bilinear_taps(length, out, start, stop)
    return int(y[0]), int(y_next[-1]) + 1


def _bilinear_taps(
    length: int, out: int, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    source = (np.arange(start, stop) + 0.5) * (length / out) - 0.5
    source = np.clip(source, 0, length - 1)
    low = np.floor(source).astype(np.int64)
    return low, np.minimum(low + 1, length - 1), (source - low).astype(np.float32)
