"""Where a decoder has to be run at all: around what the results so far leave open.

The published network predicts at stride 8 before it decodes to strides 4 and 1, and most of a tile
is settled by then: given mask, coarse mask (of the last level) and what was found at stride 8 are
all sure, and so are their neighbours. There the result is 0 or 1, whichever stride 8 says. The
decoder runs in a few boxes around the rest, each with as many cells around it as its convolutions
see, so that inside a box it finds what it finds in the whole tile.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from crispseg.tiling.pieces import bounding_box
from crispseg.types import Box, Size

Flags = NDArray[np.bool_]

CELL_PX = 8
"""Side of a cell: a pixel of the features at stride 8."""
SURE = 0.01
"""Probabilities this near to 0 or 1 are settled."""
BLOCK_CELLS = 12
"""Side of the blocks that boxes are put together from, at least."""
MOST_BLOCKS = 12
"""How many there are in a row or column: joining them takes the cube of their number."""
HALO_CELLS = 4
"""What a box costs on every side beyond itself, about: three convolved strides see 6, 3 and 1."""


def open_cells(logits: Tensor, *masks: Tensor) -> Flags:
    """Cells that are not settled, with their neighbours.

    Args:
        logits: (1, 1, h, w) at stride 8.
        masks: (1, 1, 8 h, 8 w) in [-1, 1], given and coarse ones.

    Returns:
        (h, w) bool. False: every logit and every mask is within ``SURE`` of the same end as far as
        ``CELL_PX`` around the cell.
    """
    ones, zeros = _sure(logits, 3, 1, math.log(1 / SURE - 1))
    for mask in masks:
        one, zero = _sure(mask, CELL_PX + 2, CELL_PX, 1 - 2 * SURE)
        ones, zeros = ones & one, zeros & zero
    grown = F.max_pool2d((~(ones | zeros)).float(), 3, 1, 1) > 0
    return np.asarray(grown[0, 0].cpu().numpy(), np.bool_)


def _sure(values: Tensor, window: int, stride: int, least: float) -> tuple[Tensor, Tensor]:
    """Whether windows around cells, a pixel larger on each side, are surely 1, or surely 0."""
    values = values.float()
    highest = F.max_pool2d(values, window, stride, 1)
    lowest = -F.max_pool2d(-values, window, stride, 1)
    finite = lowest.isfinite() & highest.isfinite()  # what overflowed is not settled
    return (lowest >= least) & finite, (highest <= -least) & finite


def boxes_around(cells: Flags) -> list[Box]:
    """Boxes that hold all cells that are set; together with what they cost beside, about the least.

    Blocks of ``BLOCK_CELLS`` or more are cut down to what is set in them, then joined two by two as
    long as that makes less work.

    Args:
        cells: (h, w).

    Returns:
        Boxes of cells, which may overlap; one of all cells where that is no more work.
    """
    size = Size(*cells.shape)
    found = np.array(_blocks(cells), np.int64).reshape(-1, 4)
    while len(found) > 1:
        first, second, saved = _best_pair(found, size)
        if saved < 0:
            break
        found[first] = _joined(found[first], found[second])
        found = np.delete(found, second, axis=0)
    if len(found) and _work(found, size).sum() >= size.height * size.width:
        return [Box(0, 0, *size)]
    return [Box(*box) for box in found.tolist()]


def _blocks(cells: Flags) -> list[tuple[int, int, int, int]]:
    found = []
    side = max(BLOCK_CELLS, -(-max(cells.shape) // MOST_BLOCKS))
    for y in range(0, cells.shape[0], side):
        for x in range(0, cells.shape[1], side):
            box = bounding_box(cells[y : y + side, x : x + side]).shift(y, x)
            if box.height:
                found.append((box.y0, box.x0, box.y1, box.x1))
    return found


def _best_pair(boxes: NDArray[np.int64], size: Size) -> tuple[int, int, int]:
    """Which two boxes save the most work as one, the first being the earlier, and how much."""
    work = _work(boxes, size)
    together = _work(_joined(boxes[:, None], boxes[None]), size)
    saved = work[:, None] + work[None] - together
    saved[np.tril_indices(len(boxes))] = np.iinfo(np.int64).min
    first, second = divmod(int(saved.argmax()), len(boxes))
    return first, second, int(saved[first, second])


def _joined(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """(..., 4) boxes around two each."""
    start = np.minimum(first[..., :2], second[..., :2])
    return np.concatenate([start, np.maximum(first[..., 2:], second[..., 2:])], axis=-1)


def _work(boxes: NDArray[np.int64], size: Size) -> NDArray[np.int64]:
    """(...) cells that are computed for (..., 4) boxes."""
    top_left = np.maximum(boxes[..., :2] - HALO_CELLS, 0)
    bottom_right = np.minimum(boxes[..., 2:] + HALO_CELLS, size)
    sides = bottom_right - top_left
    return np.asarray(sides[..., 0] * sides[..., 1], np.int64)
