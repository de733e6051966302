"""Tiles merged block by block into a store on disk: memory follows the tile, not the image.

The plan's tiles cut the image into blocks: from one tile's top left corner to the next one's. A
block is the weighted mean of the few tiles that reach into it. Tiles that the network ran are kept
until no block needs them any more; the others are computed for the block alone. Sums are those of
``tiling.blend``, integers, so the result is that of ``RamMerger`` to the bit.

A strip is one row of blocks. With it, on disk, goes what its tiles have below it: the next strip
reads that back tile by tile, so memory does not follow the width of the image either, and a run
that was killed goes on with what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from crispseg.io.store import StripStore, StripWriter
from crispseg.tiling.blend import VALUE_SCALE, Values, axis_weights, check_finite
from crispseg.tiling.grid import axis_starts
from crispseg.types import Box, Size

Place = tuple[int, int]
"""A tile's row and column in the grid."""

Planes = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Grid:
    """The plan of ``plan_tiles``, by rows and columns, and the blocks that it makes.

    Attributes:
        size: of the image.
        tile_size: of a tile.
        overlap_px: what neighbours share at least.
        margin_px: outer pixels of a tile that count nothing.
        ramp_px: pixels over which its weight then rises; None: the rest of the overlap,
            up to the neighbour's margin.
    """

    size: Size
    tile_size: Size
    overlap_px: int
    margin_px: int
    ramp_px: int | None = None
    tops: Sequence[int] = field(init=False)
    lefts: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        names = ("tops", "lefts")
        for name, length, side in zip(names, self.size, self.tile_size, strict=True):
            object.__setattr__(self, name, axis_starts(length, side, side - self.overlap_px))

    def tile(self, place: Place) -> Box:
        """Where a tile lies."""
        y, x = self.tops[place[0]], self.lefts[place[1]]
        height, width = self.tile_size
        return Box(y, x, min(y + height, self.size.height), min(x + width, self.size.width))

    def block(self, place: Place) -> Box:
        """The pixels from a tile's corner to the next tiles' corners."""
        row, column = place
        bottoms, rights = (*self.tops[1:], self.size.height), (*self.lefts[1:], self.size.width)
        return Box(self.tops[row], self.lefts[column], bottoms[row], rights[column])

    def covering(self, place: Place) -> list[Place]:
        """Tiles that reach into a block, in the plan's order."""
        row, column = place
        block = self.block(place)
        height, width = self.tile_size
        rows = [i for i in range(row + 1) if self.tops[i] + height > block.y0]
        columns = [j for j in range(column + 1) if self.lefts[j] + width > block.x0]
        return [(i, j) for i in rows for j in columns]

    def weights(self, place: Place, box: Box) -> NDArray[np.int64]:
        """(h, w) integer weights of a tile in ``box``, which lies inside it."""
        tile = self.tile(place)
        ramp_px = self.overlap_px - 2 * self.margin_px if self.ramp_px is None else self.ramp_px
        rows = axis_weights(
            tile.y0, tile.y1, self.size.height, margin_px=self.margin_px, ramp_px=ramp_px
        )
        columns = axis_weights(
            tile.x0, tile.x1, self.size.width, margin_px=self.margin_px, ramp_px=ramp_px
        )
        inside = box.shift(-tile.y0, -tile.x0)
        weights: NDArray[np.int64] = (
            rows[inside.y0 : inside.y1, None] * columns[None, inside.x0 : inside.x1]
        )
        return weights


@dataclass
class TileStream:
    """One magnification on its way to disk.

    Attributes:
        grid: tiles and blocks.
        selected: (rows, columns) which tiles the network runs.
        predict: boxes of one size -> (channels, h, w) float32 in [0, 1] for each.
        keep: values of a box where the network did not run.
        finish: a block and its merged values -> planes of the store.
        batch_size: most tiles in one call of ``predict``.
        flat: the one value of each plane in a block that no selected tile reaches into, where they
            are known without computing them; None: compute.
        after_tile: called with the box of each tile that was run.
    """

    grid: Grid
    selected: NDArray[np.bool_]
    predict: Callable[[Sequence[Box]], Sequence[Values]]
    keep: Callable[[Box], Values]
    finish: Callable[[Box, Values], Planes]
    batch_size: int = 1
    flat: Callable[[Box], dict[str, float] | None] = lambda _: None
    after_tile: Callable[[Box], None] = lambda _: None
    _ran: dict[Place, tuple[Box, Values]] = field(default_factory=dict)

    def run(self, store: StripStore) -> Iterator[int]:
        """Write all strips that ``store`` lacks; yields the rows done after each."""
        for row in range(len(store.strips), len(self.grid.tops)):
            first = self.grid.block((row, 0))
            above = {_place_in(name): name for name in store.extras()}
            with store.begin(first.y0, first.y1) as strip:
                self._strip(row, strip, partial(_carried, store, above))
            yield first.y1

    def _strip(
        self, row: int, strip: StripWriter, carried: Callable[[Place], tuple[Box, Values] | None]
    ) -> None:
        grid = self.grid
        for column in range(len(grid.lefts)):
            block = grid.block((row, column))
            tiles = grid.covering((row, column))
            reaching = [place for place in tiles if self.selected[place]]
            for place in reaching:
                if place not in self._ran:
                    if held := carried(place):
                        self._ran[place] = held
                    else:
                        self._run_from(place)
            known = self.flat(block) if not reaching else None
            if known is not None:
                for name, value in known.items():
                    strip.fill(name, block.x0, block.x1, value)
            else:
                for name, values in self.finish(block, self._merge(block, tiles)).items():
                    strip.add(name, block.x0, values)
            self._let_go(Box(block.y1, block.x1, *grid.size), strip)

    def _run_from(self, place: Place) -> None:
        """Run a tile and the next ones of its row, as many as go into a batch."""
        row, column = place
        columns = np.flatnonzero(self.selected[row, column:])[: self.batch_size] + column
        places = [(row, int(j)) for j in columns]
        boxes = [self.grid.tile(p) for p in places]
        for p, box, values in zip(places, boxes, self.predict(boxes), strict=True):
            check_finite(box, values)
            self._ran[p] = (box, values)
            self.after_tile(box)

    def _merge(self, block: Box, tiles: Sequence[Place]) -> Values:
        kept = None
        if not all(self.selected[place] for place in tiles):
            kept = fixed(self.keep(block))
        if kept is not None and not any(self.selected[place] for place in tiles):
            return (kept / VALUE_SCALE).astype(np.float32)  # the mean of equals
        sums: NDArray[np.int64] | None = None
        total = np.zeros(block.size, np.int64)
        for place in tiles:
            tile = self.grid.tile(place)
            part = Box(block.y0, block.x0, min(block.y1, tile.y1), min(block.x1, tile.x1))
            weights = self.grid.weights(place, part)
            inside = part.shift(-block.y0, -block.x0).slices
            if self.selected[place]:
                box, held = self._ran[place]
                values = fixed(held[:, *part.shift(-box.y0, -box.x0).slices])
            else:
                assert kept is not None
                values = kept[:, *inside]
            if sums is None:
                sums = np.zeros((len(values), *block.size), np.int64)
            sums[:, *inside] += values * weights
            total[inside] += weights
        assert sums is not None
        mean = sums / np.maximum(total, 1)
        return (mean / VALUE_SCALE).astype(np.float32)

    def _let_go(self, rest: Box, strip: StripWriter) -> None:
        """Put what lies left of the next block on disk, as far as the next strip needs it."""
        for place, (box, values) in list(self._ran.items()):
            if box.x1 <= rest.x0 or rest.x0 == self.grid.size.width:
                del self._ran[place]
                top = max(box.y0, rest.y0)
                if top < box.y1:
                    below = np.ascontiguousarray(values[:, top - box.y0 :])
                    strip.keep(_name(place, Box(top, box.x0, box.y1, box.x1)), below.tobytes())


def fixed(values: Values) -> NDArray[np.int64]:
    """Values in [0, 1] as whole numbers of ``VALUE_SCALE``."""
    return np.asarray(np.rint(values * VALUE_SCALE), np.int64)


def _name(place: Place, box: Box) -> str:
    return ",".join(str(n) for n in (*place, box.y0, box.x0, box.y1, box.x1))


def _place_in(name: str) -> Place:
    row, column = name.split(",")[:2]
    return int(row), int(column)


def _carried(
    store: StripStore, above: Mapping[Place, str], place: Place
) -> tuple[Box, Values] | None:
    """What the last strip keeps of a tile for the next one."""
    name = above.get(place)
    if name is None:
        return None
    box = Box(*(int(n) for n in name.split(",")[2:]))
    values = np.frombuffer(store.extra(name), np.float32)
    return box, values.reshape(-1, *box.size)
