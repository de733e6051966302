"""Weights of tiles, and merging them in fixed point, so that no order of tiles matters.

Sums of floats depend on their order; sums of integers do not. Values are rounded to 2^-24 (the
spacing of float32 just below 1) and weights to 1/65536, and added as int64. The result is
bit-identical for any order of tiles, batch size or number of workers, and a constant comes out as
itself, rounded, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crispseg.types import Box, CrispsegError, Size

Values = NDArray[np.float32]
"""(channels, h, w) float32 in [0, 1]."""

AXIS_WEIGHT = 256
VALUE_SCALE = float(1 << 24)


@lru_cache(maxsize=256)
def axis_weights(
    start: int, stop: int, length: int, *, margin_px: int, ramp_px: int
) -> NDArray[np.int64]:
    """Weights 0..256 along one side of a tile that spans ``start``..``stop`` of ``length``.

    Towards a neighbour the outer ``margin_px`` count nothing (zero padding has spoilt them), then
    the weight rises linearly over ``ramp_px``. At the border of the image it is full. What is
    returned may not be written to.
    """
    position = np.arange(start, stop)
    reach = np.full(stop - start, AXIS_WEIGHT, np.int64)
    for distance, at_border in (
        (position - start, start == 0),
        (stop - 1 - position, stop == length),
    ):
        if not at_border:
            rise = (distance - margin_px + 1) * AXIS_WEIGHT // (ramp_px + 1)
            reach = np.minimum(reach, np.clip(rise, 0, AXIS_WEIGHT))
    reach.flags.writeable = False
    return reach


def tile_weights(box: Box, size: Size, *, margin_px: int, ramp_px: int) -> NDArray[np.int64]:
    """(h, w) weights 0..65536 of one tile in an image of ``size``; see ``axis_weights``."""
    rows = axis_weights(box.y0, box.y1, size.height, margin_px=margin_px, ramp_px=ramp_px)
    columns = axis_weights(box.x0, box.x1, size.width, margin_px=margin_px, ramp_px=ramp_px)
    return rows[:, None] * columns[None, :]


def check_finite(box: Box, values: Values) -> None:
    """Make sure that a tile can be merged.

    Raises:
        CrispsegError: NaN or infinite values.
    """
    if not np.isfinite(values).all():
        raise CrispsegError(f"the tile at row {box.y0}, column {box.x0} holds NaN or infinity")


class Merger(Protocol):
    """What tiles are added to. Memory policy changes by another merger, never by a flag."""

    def add(self, box: Box, values: Values, weights: NDArray[np.int64]) -> None:
        """Add a tile's (channels, h, w) values with its (h, w) weights."""

    def advance(self, row: int) -> None:
        """No later tile reaches above ``row``: what lies above is final and may be let go."""

    def finish(self) -> None:
        """No tile follows."""


class StripMerger:
    """Keeps sums only of rows that tiles can still reach, and hands on the finished ones.

    Args:
        size: of the whole result.
        channels: of the values.
        write: receives (first row, (channels, n, W) float32) once for each strip, top to bottom.
        fill: gives (channels, h, w) values of a box where no tile had any weight.
    """

    def __init__(
        self,
        size: Size,
        channels: int,
        write: Callable[[int, Values], None],
        fill: Callable[[Box], Values] | None = None,
    ) -> None:
        self.size = size
        self._write = write
        self._fill = fill
        self._top = 0
        self._sums = np.zeros((channels, 0, size.width), np.int64)
        self._weights = np.zeros((0, size.width), np.int64)

    def add(self, box: Box, values: Values, weights: NDArray[np.int64]) -> None:
        """Add a tile; rows already handed on may not be touched again.

        Args:
            box: where the tile lies.
            values: (channels, h, w) float32 in [0, 1].
            weights: (h, w) integers, 0 or more.

        Raises:
            CrispsegError: NaN or infinite values, which integers cannot show.
            ValueError: a row that is already handed on.
        """
        if box.y0 < self._top:
            raise ValueError(f"rows above {self._top} are finished, but a tile starts at {box.y0}")
        check_finite(box, values)
        self._reach(box.y1)
        rows = slice(box.y0 - self._top, box.y1 - self._top)
        columns = slice(box.x0, box.x1)
        fixed = np.rint(values * VALUE_SCALE).astype(np.int64)
        fixed *= weights
        self._sums[:, rows, columns] += fixed
        self._weights[rows, columns] += weights

    def advance(self, row: int) -> None:
        """Finish the rows above ``row``: divide by their weights, write and drop them."""
        count = min(row, self.size.height) - self._top
        if count <= 0:
            return
        self._reach(self._top + count)
        weights = self._weights[:count]
        mean = self._sums[:, :count] / np.maximum(weights, 1)
        strip = (mean / VALUE_SCALE).astype(np.float32)
        self._fill_gaps(strip, weights)
        self._write(self._top, strip)
        self._sums = self._sums[:, count:].copy()
        self._weights = self._weights[count:].copy()
        self._top += count

    def finish(self) -> None:
        """Finish all rows."""
        self.advance(self.size.height)

    def _reach(self, bottom: int) -> None:
        missing = bottom - self._top - len(self._weights)
        if missing > 0:
            self._sums = np.pad(self._sums, ((0, 0), (0, missing), (0, 0)))
            self._weights = np.pad(self._weights, ((0, missing), (0, 0)))

    def _fill_gaps(self, strip: Values, weights: NDArray[np.int64]) -> None:
        gaps = weights == 0
        if not gaps.any():
            return
        if self._fill is None:
            raise ValueError(f"no tile covers {int(gaps.sum())} pixels below row {self._top}")
        box = Box(self._top, 0, self._top + len(weights), self.size.width)
        strip[:, gaps] = self._fill(box)[:, gaps]


def merged_alone(box: Box, values: Values) -> Values:
    """What merging gives of a tile that is the whole image, to the bit, without the sums.

    Args:
        box: where the tile lies.
        values: (channels, h, w) float32 in [0, 1]; changed in place.

    Raises:
        CrispsegError: NaN or infinite values.
    """
    check_finite(box, values)
    values *= np.float32(VALUE_SCALE)
    np.rint(values, out=values)
    values /= np.float32(VALUE_SCALE)
    return values


class RamMerger(StripMerger):
    """A StripMerger whose finished rows stay in memory, in ``result`` (channels, H, W) float32."""

    def __init__(
        self, size: Size, channels: int, fill: Callable[[Box], Values] | None = None
    ) -> None:
        super().__init__(size, channels, self._keep, fill)
        self.result = np.zeros((channels, *size), np.float32)

    def _keep(self, y0: int, rows: Values) -> None:
        self.result[:, y0 : y0 + rows.shape[1]] = rows
