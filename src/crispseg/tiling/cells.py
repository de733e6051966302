"""Merging the many classes of a segmentation, with next to nothing kept.

The edges of all tiles cut the image into cells. A cell is final as soon as the last tile that
covers it has come; until then its sums are kept, and nothing else is. With tiles in rows that is
the overlap of two rows of tiles, not a strip of a tile's height, and never the image.

Sums are float32, in the order of the plan (StripMerger's integers take twice the memory): the
result does not depend on the size of batches, as long as ``predict`` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from crispseg.tiling.blend import Values, check_finite
from crispseg.types import Box

FloatWeights = NDArray[np.float32]


class CellMerger:
    """A Merger that hands on each cell once, the moment it is final, and forgets it.

    Every tile must be added exactly once, in the same order for the same bits.

    Args:
        tiles: all that will be added.
        write: receives (cell, (channels, h, w) float32), the weighted mean; the array may be a
            view of the values of a tile.
    """

    def __init__(self, tiles: Sequence[Box], write: Callable[[Box, Values], None]) -> None:
        self._write = write
        self._rows = sorted({edge for tile in tiles for edge in (tile.y0, tile.y1)})
        self._columns = sorted({edge for tile in tiles for edge in (tile.x0, tile.x1)})
        self._row_index = {edge: i for i, edge in enumerate(self._rows)}
        self._column_index = {edge: i for i, edge in enumerate(self._columns)}
        self._missing = np.zeros((len(self._rows), len(self._columns)), np.int32)
        for tile in tiles:
            self._missing[self._cells(tile)] += 1
        self._sums: dict[tuple[int, int], tuple[Values, FloatWeights]] = {}

    def add(self, box: Box, values: Values, weights: NDArray[np.int64]) -> None:
        """Add a tile.

        Args:
            box: one of the tiles.
            values: (channels, h, w) float32.
            weights: (h, w) integers, 0 or more.

        Raises:
            CrispsegError: NaN or infinite values.
            ValueError: the tile is none of those announced, or came before.
        """
        check_finite(box, values)
        rows, columns = self._cells(box)
        for i in range(rows.start, rows.stop):
            for j in range(columns.start, columns.stop):
                cell = Box(self._rows[i], self._columns[j], self._rows[i + 1], self._columns[j + 1])
                inside = cell.shift(-box.y0, -box.x0).slices
                self._add_part((i, j), cell, values[:, *inside], weights[inside])

    def advance(self, row: int) -> None:
        """Nothing: cells know by themselves when they are final."""

    def finish(self) -> None:
        """Make sure that all is written.

        Raises:
            ValueError: tiles have not come.
        """
        if self._sums or self._missing.any():
            raise ValueError(f"{int((self._missing > 0).sum())} cells still wait for tiles")

    def _add_part(
        self, key: tuple[int, int], cell: Box, values: Values, weights: NDArray[np.int64]
    ) -> None:
        self._missing[key] -= 1
        missing = self._missing[key]
        if missing < 0:
            raise ValueError(f"more tiles than planned at row {cell.y0}, column {cell.x0}")
        share = weights.astype(np.float32)  # exact: at most 65536, and sums below 2^24
        if key in self._sums:
            sums, total = self._sums[key]
            sums += values * share
            total += share
        elif missing:
            self._sums[key] = values * share, share
            return
        else:
            sums, total = values, np.ones_like(share) * (share > 0)
        if missing:
            return
        self._sums.pop(key, None)
        if not total.all():
            raise ValueError(f"no tile counts for some pixels of {cell}")
        self._write(cell, sums if sums is values else sums / total)

    def _cells(self, tile: Box) -> tuple[slice, slice]:
        try:
            return (
                slice(self._row_index[tile.y0], self._row_index[tile.y1]),
                slice(self._column_index[tile.x0], self._column_index[tile.x1]),
            )
        except KeyError:
            raise ValueError(f"{tile} is not one of the planned tiles") from None
