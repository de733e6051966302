"""Cells: identity, what is kept, what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from crispseg.tiling.blend import RamMerger
from crispseg.tiling.cells import CellMerger
from crispseg.tiling.grid import plan_tiles
from crispseg.tiling.sliding import TilePlan, run_tiles, tile_steps
from crispseg.types import Box, CrispsegError, Size


def plan(size: Size, tile: int = 40, overlap: int = 16, margin: int = 3) -> TilePlan:
    return TilePlan(size, plan_tiles(size, tile, overlap), margin, overlap - 2 * margin)


def merged(plan: TilePlan, source: np.ndarray, batch_size: int = 1) -> np.ndarray:
    result = np.full(source.shape, np.nan, np.float32)

    def write(box: Box, values: np.ndarray) -> None:
        assert np.isnan(result[:, *box.slices]).all()  # once only
        result[:, *box.slices] = values

    run_tiles(
        plan,
        lambda boxes: [source[:, *box.slices] for box in boxes],
        CellMerger(plan.tiles, write),
        selected=[True] * len(plan.tiles),
        batch_size=batch_size,
    )
    return result


@pytest.mark.parametrize("size", [Size(1, 1), Size(40, 31), Size(64, 200), Size(129, 65)])
@pytest.mark.parametrize(("tile", "overlap", "margin"), [(40, 16, 3), (40, 0, 0), (33, 22, 0)])
def test_what_went_in_comes_out(size, tile, overlap, margin) -> None:
    source = np.random.default_rng(0).random((3, *size), dtype=np.float32)
    result = merged(plan(size, tile, overlap, margin), source)
    np.testing.assert_allclose(result, source, atol=1e-6)


def test_the_weighted_mean_is_that_of_the_other_merger() -> None:
    """RamMerger adds integers of 2^-24; float32 is as exact for a few tiles."""
    p = plan(Size(100, 130))
    rng = np.random.default_rng(1)
    answers = {box: rng.random((2, *box.size), dtype=np.float32) for box in p.tiles}
    ram = RamMerger(p.size, 2)
    result = np.zeros((2, *p.size), np.float32)

    def write(box: Box, values: np.ndarray) -> None:
        result[:, *box.slices] = values

    for merger in (ram, CellMerger(p.tiles, write)):
        run_tiles(p, lambda b: [answers[box] for box in b], merger, selected=[True] * len(p.tiles))
    np.testing.assert_allclose(result, ram.result, atol=1e-6)


def test_only_the_overlap_is_kept() -> None:
    p = plan(Size(1000, 120))
    merger = CellMerger(p.tiles, lambda *_: None)
    source = np.zeros((5, *p.size), np.float32)
    kept = 0
    steps = tile_steps(
        p,
        lambda boxes: [source[:, *box.slices] for box in boxes],
        merger,
        selected=[True] * len(p.tiles),
    )
    rows = []
    for row in steps:
        rows.append(row)
        kept = max(kept, sum(sums.size for sums, _ in merger._sums.values()))
    # overlaps with the row below (16) and the last tile (32); a strip would be 5 * 40 * 120
    assert kept <= 5 * (16 * 120 + 40 * 32)
    assert not merger._sums
    assert rows == sorted(rows)
    assert rows[-1] == 1000


def test_tiles_that_do_not_fit_the_plan() -> None:
    tiles = [Box(0, 0, 4, 4), Box(0, 2, 4, 6)]
    values, weights = np.zeros((1, 4, 4), np.float32), np.ones((4, 4), np.int64)
    merger = CellMerger(tiles, lambda *_: None)
    with pytest.raises(ValueError, match="not one of the planned"):
        merger.add(Box(0, 1, 4, 5), values, weights)
    merger.add(tiles[0], values, weights)
    with pytest.raises(ValueError, match="2 cells still wait"):
        merger.finish()
    with pytest.raises(ValueError, match="more tiles than planned"):
        merger.add(tiles[0], values, weights)
    with pytest.raises(CrispsegError, match="NaN"):
        merger.add(tiles[1], values * np.nan, weights)
    single = CellMerger(tiles[:1], lambda *_: None)
    with pytest.raises(ValueError, match="no tile counts"):
        single.add(tiles[0], values, weights * 0)
