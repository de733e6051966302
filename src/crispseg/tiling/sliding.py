"""Plan, predict, merge: the loop that every method here is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from crispseg.tiling.blend import Merger, Values, tile_weights
from crispseg.types import Box, Size


@dataclass(frozen=True)
class TilePlan:
    """Tiles of an image and how they blend.

    Attributes:
        size: of the image.
        tiles: in the order in which they are merged.
        margin_px: outer pixels of a tile that count nothing.
        ramp_px: pixels over which a tile's weight then rises.
    """

    size: Size
    tiles: Sequence[Box]
    margin_px: int
    ramp_px: int

    def weights(self, box: Box) -> NDArray[np.int64]:
        """(h, w) integer weights of a tile."""
        return tile_weights(box, self.size, margin_px=self.margin_px, ramp_px=self.ramp_px)


def run_tiles(
    plan: TilePlan,
    predict: Callable[[Sequence[Box]], Sequence[Values]],
    merger: Merger,
    *,
    selected: Sequence[bool],
    keep: Callable[[Box], Values] | None = None,
    batch_size: int = 1,
    on_tile: Callable[[Box], None] | None = None,
) -> None:
    """Run ``predict`` on the selected tiles of a plan and merge what comes back.

    What ``tile_steps`` does, to the end.
    """
    steps = tile_steps(
        plan,
        predict,
        merger,
        selected=selected,
        keep=keep,
        batch_size=batch_size,
        on_tile=on_tile,
    )
    for _ in steps:
        pass


def tile_steps(
    plan: TilePlan,
    predict: Callable[[Sequence[Box]], Sequence[Values]],
    merger: Merger,
    *,
    selected: Sequence[bool],
    keep: Callable[[Box], Values] | None = None,
    batch_size: int = 1,
    on_tile: Callable[[Box], None] | None = None,
) -> Iterator[int]:
    """Run the tiles of a plan batch by batch, so that several plans can go on in turn.

    A tile that is not selected contributes ``keep(box)`` with its usual weight, exactly as if the
    network had returned that; with ``keep=None`` it contributes nothing. The result does not
    depend on the order of ``plan.tiles`` nor on ``batch_size`` as long as ``predict`` does not.

    Args:
        plan: the tiles.
        predict: boxes of one size -> one (channels, h, w) float32 array in [0, 1] for each.
        merger: what is added to; it is finished at the end.
        selected: one flag for each tile of the plan.
        keep: values of a tile that is not run.
        batch_size: most tiles in one call of ``predict``.
        on_tile: called after each selected tile.

    Yields:
        After each batch: the first row that a later tile may still touch; at last the height.
    """
    # Rows above the topmost tile still to come are final.
    tops = [tile.y0 for tile in plan.tiles] + [plan.size.height]
    final_row = list(accumulate(reversed(tops), min))[::-1]
    for indices in _batches(plan.tiles, selected, batch_size):
        boxes = [plan.tiles[i] for i in indices]
        if selected[indices[0]]:
            values = predict(boxes)
        elif keep:
            values = [keep(box) for box in boxes]
        else:
            boxes, values = [], []
        for box, value in zip(boxes, values, strict=True):
            merger.add(box, value, plan.weights(box))
            if on_tile and selected[indices[0]]:
                on_tile(box)
        merger.advance(final_row[indices[-1] + 1])
        yield final_row[indices[-1] + 1]
    merger.finish()


def _batches(
    tiles: Sequence[Box], selected: Sequence[bool], batch_size: int
) -> Iterator[Sequence[int]]:
    """Runs of neighbours in the plan with equal size and flag, at most ``batch_size`` long."""
    batch: list[int] = []
    for i, tile in enumerate(tiles):
        if batch:
            first = batch[0]
            fits = tile.size == tiles[first].size and selected[i] == selected[first]
            if len(batch) == batch_size or not fits:
                yield batch
                batch = []
        batch.append(i)
    if batch:
        yield batch
