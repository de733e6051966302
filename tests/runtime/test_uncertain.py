"""Where the decoder runs: brute force, and what must hold for any cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from crispseg.runtime.uncertain import CELL_PX, SURE, boxes_around, open_cells
from crispseg.types import Box, Size

LOGIT = float(np.log(1 / SURE - 1))


def expected(logits: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    """Cell by cell: all that is settled in a cell and a pixel around it; then the neighbours."""
    height, width = logits.shape
    is_open = np.zeros((height, width), bool)
    for y, x in np.ndindex(height, width):
        near = [logits[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] / LOGIT]
        rows = slice(max(CELL_PX * y - 1, 0), CELL_PX * (y + 1) + 1)
        columns = slice(max(CELL_PX * x - 1, 0), CELL_PX * (x + 1) + 1)
        near += [mask[rows, columns] / (1 - 2 * SURE) for mask in masks]
        values = np.concatenate([part.ravel() for part in near])
        is_open[y, x] = not ((values >= 1).all() or (values <= -1).all())
    grown = np.zeros_like(is_open)
    for y, x in np.argwhere(is_open):
        grown[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
    return grown


@pytest.mark.parametrize("seed", range(4))
def test_open_cells(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:12, :17]
    logits = np.where(np.hypot(y - 5, x - 6) < 3, 9.0, -9.0)
    logits[rng.integers(12), rng.integers(17)] = 4.0  # one cell that is unsure
    masks = [np.sign(logits).repeat(CELL_PX, 0).repeat(CELL_PX, 1) for _ in range(2)]
    masks[0] = np.roll(masks[0], rng.integers(-8, 9, 2), (0, 1))
    masks[1][rng.integers(96), rng.integers(136)] = 0.97
    tensors = [torch.from_numpy(m.astype(np.float32))[None, None] for m in (logits, *masks)]
    found = open_cells(*tensors)
    np.testing.assert_array_equal(found, expected(logits, masks))
    assert found.any()
    assert not found.all()


def test_nothing_is_open_where_all_agree() -> None:
    logits, mask = torch.full((1, 1, 5, 6), 5.0), torch.ones(1, 1, 40, 48)
    assert not open_cells(logits, mask).any()
    assert not open_cells(-logits, -mask).any()
    assert open_cells(logits, -mask).all()
    assert boxes_around(open_cells(logits, mask)) == []


def test_what_overflowed_is_open() -> None:
    logits, mask = torch.full((1, 1, 5, 6), 9.0), torch.ones(1, 1, 40, 48)
    logits[..., 2, 3] = torch.inf
    found = open_cells(logits, mask)
    assert found[2, 3]
    assert not found.all()
    assert open_cells(torch.full_like(logits, torch.nan), mask).all()


@settings(deadline=None, max_examples=60)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_boxes_hold_all_that_is_set(cells: np.ndarray) -> None:
    boxes = boxes_around(cells)
    covered = np.zeros_like(cells)
    for box in boxes:
        assert cells[box.slices].any()
        assert box.clip(Size(*covered.shape)) == box
        covered[box.slices] = True
    assert not (cells & ~covered).any()
    assert bool(boxes) == bool(cells.any())


def test_an_outline_costs_less_than_the_whole() -> None:
    y, x = np.mgrid[:112, :112]
    ring = abs(np.hypot(y - 56, x - 56) - 45) < 2
    boxes = boxes_around(ring)
    work = sum(min(b.height + 8, 112) * min(b.width + 8, 112) for b in boxes)
    assert work < 0.75 * 112**2
    assert boxes_around(np.ones((112, 112), bool)) == [Box(0, 0, 112, 112)]
