"""Area averages, a window at a time: images and masks made smaller without a second full image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.windows import windows_of
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
    full = Size(*array.shape[:2])
    if full == (2 * size.height, 2 * size.width):
        return _halved(array)
    y0, y1 = _area_bounds(full.height, size.height)
    x0, x1 = _area_bounds(full.width, size.width)
    result = np.empty((*size, *array.shape[2:]), np.float32)
    counts = (x1 - x0).reshape(-1, *[1] * (array.ndim - 2))
    kind = np.float64 if np.issubdtype(array.dtype, np.floating) else np.int64
    running = np.zeros((full.width + 1, *array.shape[2:]), kind)
    for i in range(size.height):
        line = array[y0[i] : y1[i]].sum(axis=0, dtype=running.dtype)
        np.cumsum(line, axis=0, out=running[1:])
        result[i] = (running[x1] - running[x0]) / (counts * (y1[i] - y0[i]))
    return result


def resize_area_window(
    read: Callable[[Box], NDArray[Any]],
    full: Size,
    size: Size,
    box: Box,
    block: Size | None = None,
) -> NDArray[np.float32]:
    """The part ``box`` of ``resize_area(whole, size)`` without holding the whole.

    Bit for bit the same for integers and for floats that are whole numbers.

    Args:
        read: gives the pixels of a box of the whole, (h, w) or (h, w, C).
        full: size of the whole.
        size: of the resized whole, not larger.
        box: inside ``size``.
        block: in what pieces the whole is decoded; None: rows.

    Returns:
        (box.height, box.width) or (box.height, box.width, C) float32.
    """
    mean = AreaMean(full, size, box)
    for window in windows_of(mean.source, block or Size(1, full.width), BAND_PX):
        mean.add(window, read(window))
    return mean.result()


class AreaMean:
    """A window of ``resize_area`` from windows of the whole, each seen once, in any order.

    Args:
        full: size of the whole.
        size: of the resized whole, not larger.
        box: inside ``size``.
    """

    def __init__(self, full: Size, size: Size, box: Box) -> None:
        self._y0, self._y1 = (
            bound[box.y0 : box.y1] for bound in _area_bounds(full.height, size.height)
        )
        self._x0, self._x1 = (
            bound[box.x0 : box.x1] for bound in _area_bounds(full.width, size.width)
        )
        self._sums: NDArray[Any] | None = None
        self.source = Box(int(self._y0[0]), int(self._x0[0]), int(self._y1[-1]), int(self._x1[-1]))
        """The pixels of the whole that are averaged."""

    def add(self, window: Box, pixels: NDArray[Any]) -> None:
        """Take a window of the whole: its (h, w) or (h, w, C) pixels, all of one dtype."""
        if self._sums is None:
            shape = (len(self._y0), len(self._x0), *pixels.shape[2:])
            self._sums = np.zeros(shape, self._kind_of_sums(pixels.dtype))
        rows = slice(*_touched(self._y0, self._y1, window.y0, window.y1))
        columns = slice(*_touched(self._x0, self._x1, window.x0, window.x1))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        bounds = (self._y0[rows], self._y1[rows], self._x0[columns], self._x1[columns])
        _add_sums(self._sums[rows, columns], pixels, window, bounds)

    def result(self, first: int = 0, last: int | None = None) -> NDArray[np.float32]:
        """(rows, box.width) or (rows, box.width, C) means of the rows ``first`` to ``last`` - 1."""
        assert self._sums is not None
        rows = slice(first, last)
        sums = self._sums[rows]
        means = np.empty(sums.shape, np.float32)
        widths = (self._x1 - self._x0).reshape(-1, *[1] * (means.ndim - 2))
        for i, height in enumerate(self._y1[rows] - self._y0[rows]):
            means[i] = sums[i] / (widths * height)
        return means

    def _kind_of_sums(self, kind: np.dtype[Any]) -> type[np.float64 | np.int64 | np.uint32]:
        if np.issubdtype(kind, np.floating):
            return np.float64
        pixels = int((self._y1 - self._y0).max()) * int((self._x1 - self._x0).max())
        largest = 1 if kind == np.bool_ else int(np.iinfo(kind).max)
        return np.uint32 if pixels * largest < 1 << 32 else np.int64


BAND_PX = 1 << 21
"""About how many pixels of the whole ``resize_area_window`` reads at once."""


def _touched(
    first: NDArray[np.int64], last: NDArray[np.int64], start: int, stop: int
) -> tuple[int, int]:
    """Which of the spans ``first``..``last`` meet ``start``..``stop``."""
    return int(np.searchsorted(last, start, "right")), int(np.searchsorted(first, stop))


def _add_sums(
    sums: NDArray[Any],
    pixels: NDArray[Any],
    window: Box,
    bounds: tuple[NDArray[np.int64], ...],
) -> None:
    """Add a window's pixels to the cells that it meets."""
    y0, y1, x0, x1 = bounds
    pad = int((x1 - x0).max())  # zeros around the lines, so that no span need be cut
    most_rows = int((y1 - y0).max())
    y0, y1 = (np.clip(bound, window.y0, window.y1) - window.y0 for bound in (y0, y1))
    # short whole numbers add faster, and 256 rows of 8 bits fit 16
    is_short = pixels.dtype in (np.uint8, np.bool_) and most_rows <= 256
    kind = np.dtype(np.uint16) if is_short else sums.dtype
    fits = is_short and most_rows * pad <= 256
    flat = pixels.reshape(len(pixels), -1)
    each = min(max(LINES_PX // (window.width + 2 * pad), 1), len(sums))
    lines = np.zeros((each, window.width + 2 * pad, *pixels.shape[2:]), kind)
    inner = lines[:, pad : pad + window.width]
    for top in range(0, len(sums), each):
        part = inner[: len(sums) - top]
        for line, first, last in zip(part, y0[top:], y1[top:], strict=False):
            np.add.reduce(flat[first:last], axis=0, dtype=kind, out=line.reshape(-1))
        whole = lines[: len(part)].astype(kind if fits else sums.dtype, copy=False)
        sums[top : top + each] += _sums_of_spans(whole, x0 - window.x0 + pad, x1 - x0)


LINES_PX = 1 << 15
"""How many sums of columns are made at once: what fits a CPU's cache."""


def _sums_of_spans(
    lines: NDArray[Any], start: NDArray[np.int64], width: NDArray[np.int64]
) -> NDArray[Any]:
    """Sums of the columns ``start``..``start + width`` of (n, W) or (n, W, C) lines.

    Widths differ by little: the sums of as many columns as the narrowest has are made at every
    column, by doubling, and looked up; what wider spans have more is added.
    """
    narrowest = int(width.min())
    sums, reach = lines, 0  # of ``reach`` columns from each on
    power, columns = lines, 1
    while reach < narrowest:
        if narrowest & columns:
            sums = power if not reach else sums[:, : _room(power, reach)] + power[:, reach:]
            reach += columns
        if reach < narrowest:
            power = power[:, : _room(power, columns)] + power[:, columns:]
            columns *= 2
    found = sums.take(start, axis=1)
    for more in range(narrowest, int(width.max())):
        wider = np.flatnonzero(width > more)
        found[:, wider] += lines.take(start[wider] + more, axis=1)
    return found


def _room(sums: NDArray[Any], columns: int) -> int:
    return int(sums.shape[1]) - columns


def _halved(array: NDArray[Any]) -> NDArray[np.float32]:
    """Means of 2x2 pixels: sums in float64 as in the loop over rows, without it."""
    rows = np.add(array[::2], array[1::2], dtype=np.float64)
    total: NDArray[np.float64] = rows[:, ::2] + rows[:, 1::2]
    total /= 4
    return total.astype(np.float32)


def _area_bounds(length: int, out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    index = np.arange(out, dtype=np.int64)
    return index * length // out, -(-(index + 1) * length // out)
