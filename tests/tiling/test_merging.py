"""Blending and the loop: identity, order, strips, gaps."""

from __future__ import annotations

import numpy as np
import pytest

from crispseg.tiling.blend import (
    AXIS_WEIGHT,
    RamMerger,
    StripMerger,
    axis_weights,
    merged_alone,
    tile_weights,
)
from crispseg.tiling.grid import plan_tiles
from crispseg.tiling.sliding import TilePlan, run_tiles
from crispseg.types import Box, CrispsegError, Size

SIZES = [Size(1, 1), Size(40, 31), Size(64, 200), Size(129, 65)]


def plan(size: Size, tile: int = 40, overlap: int = 16, margin: int = 3) -> TilePlan:
    return TilePlan(size, plan_tiles(size, tile, overlap), margin, overlap - 2 * margin)


def merged(plan: TilePlan, source: np.ndarray, **options) -> np.ndarray:
    merger = RamMerger(plan.size, len(source))
    options.setdefault("selected", [True] * len(plan.tiles))
    run_tiles(plan, lambda boxes: [source[:, *box.slices] for box in boxes], merger, **options)
    return merger.result


def test_a_tile_alone_is_merged_to_the_bit() -> None:
    values = np.random.default_rng(0).random((2, 40, 31), dtype=np.float32) ** 9
    values[0, 0, :3] = 0, 1, 2.0**-25
    whole = Box(0, 0, 40, 31)
    by_sums = merged(plan(whole.size), values)
    np.testing.assert_array_equal(merged_alone(whole, values.copy()), by_sums)
    values[1, 5, 5] = np.nan
    with pytest.raises(CrispsegError, match="NaN"):
        merged_alone(whole, values)


def test_weights_by_hand() -> None:
    middle = axis_weights(10, 20, 40, margin_px=1, ramp_px=3)
    assert middle.tolist() == [0, 64, 128, 192, 256, 256, 192, 128, 64, 0]
    first = axis_weights(0, 10, 40, margin_px=1, ramp_px=3)
    assert first.tolist() == [256] * 6 + [192, 128, 64, 0]
    assert axis_weights(0, 4, 4, margin_px=16, ramp_px=9).tolist() == [AXIS_WEIGHT] * 4
    hard = axis_weights(5, 12, 40, margin_px=2, ramp_px=0)
    assert hard.tolist() == [0, 0, 256, 256, 256, 0, 0]


@pytest.mark.parametrize("size", SIZES)
def test_identity_and_constants_come_out_as_they_went_in(size: Size) -> None:
    rng = np.random.default_rng(0)
    source = rng.random((2, *size), dtype=np.float32)
    np.testing.assert_allclose(merged(plan(size), source), source, atol=2**-24)
    for value in (0.0, 1.0, 0.5, 2**-24):
        constant = np.full((1, *size), value, np.float32)
        assert (merged(plan(size), constant) == constant).all()


def test_every_pixel_has_weight() -> None:
    size = Size(300, 411)
    p = plan(size, tile=128, overlap=48, margin=16)
    total = np.zeros(size, np.int64)
    for box in p.tiles:
        total[box.slices] += tile_weights(box, size, margin_px=16, ramp_px=16)
    assert total.min() > 0


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_any_order_and_batch_gives_the_same_bits(batch_size: int) -> None:
    rng = np.random.default_rng(1)
    size = Size(100, 130)
    tiles = plan(size).tiles
    answers = {box: rng.random((1, *box.size), dtype=np.float32) for box in tiles}
    results = set()
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(tiles)) if seed else range(len(tiles))
        shuffled = TilePlan(size, [tiles[i] for i in order], 3, 10)
        merger = RamMerger(size, 1)
        run_tiles(
            shuffled,
            lambda boxes: [answers[box] for box in boxes],
            merger,
            selected=[True] * len(tiles),
            batch_size=batch_size,
        )
        results.add(merger.result.tobytes())
    assert len(results) == 1


def test_a_tile_that_is_not_run_keeps_its_values() -> None:
    size = Size(100, 130)
    p = plan(size)
    rng = np.random.default_rng(2)
    source, kept = rng.random((2, 1, *size), dtype=np.float32)
    selected = [i % 3 == 0 for i in range(len(p.tiles))]
    run: list[Box] = []
    result = merged(
        p, source, selected=selected, keep=lambda b: kept[:, *b.slices], on_tile=run.append
    )
    flags = dict(zip(p.tiles, selected, strict=True))
    merger = RamMerger(size, 1)
    run_tiles(
        p,
        lambda boxes: [(source if flags[b] else kept)[:, *b.slices] for b in boxes],
        merger,
        selected=[True] * len(p.tiles),
    )
    assert (result == merger.result).all()
    assert run == [box for box in p.tiles if flags[box]]


def test_finished_rows_are_handed_on_and_dropped() -> None:
    size = Size(1000, 60)
    p = plan(size)
    source = np.random.default_rng(3).random((1, *size), dtype=np.float32)
    strips: list[tuple[int, np.ndarray]] = []
    held: list[int] = []
    merger = StripMerger(size, 1, lambda y0, rows: strips.append((y0, rows)))

    def predict(boxes):
        held.append(merger._weights.shape[0])
        return [source[:, *b.slices] for b in boxes]

    run_tiles(p, predict, merger, selected=[True] * len(p.tiles))
    assert max(held) <= 40 + 24  # the rows of one row of tiles, and what the next one adds
    assert len(strips) > 30
    assert [y0 for y0, _ in strips] == list(np.cumsum([0] + [r.shape[1] for _, r in strips])[:-1])
    rows = np.concatenate([r for _, r in strips], axis=1)
    assert (rows == merged(p, source)).all()


def test_finished_rows_cannot_be_touched_again() -> None:
    merger = StripMerger(Size(10, 4), 1, lambda *_: None)
    weights = np.ones((10, 4), np.int64)
    merger.add(Box(0, 0, 10, 4), np.zeros((1, 10, 4), np.float32), weights)
    merger.advance(5)
    with pytest.raises(ValueError, match="rows above 5 are finished"):
        merger.add(Box(4, 0, 10, 4), np.zeros((1, 6, 4), np.float32), weights[:6])


def test_gaps_are_filled_or_an_error() -> None:
    size = Size(4, 6)
    values, weights = np.full((1, 4, 3), 0.25, np.float32), np.ones((4, 3), np.int64)
    merger = RamMerger(size, 1, fill=lambda box: np.full((1, *box.size), 0.75, np.float32))
    merger.add(Box(0, 0, 4, 3), values, weights)
    merger.finish()
    assert (merger.result[0, :, :3] == 0.25).all()
    assert (merger.result[0, :, 3:] == 0.75).all()
    bare = RamMerger(size, 1)
    bare.add(Box(0, 0, 4, 3), values, weights)
    with pytest.raises(ValueError, match="no tile covers 12 pixels"):
        bare.finish()


def test_tiled_equals_whole_for_a_bounded_receptive_field() -> None:
    """A 5x5 mean looks two pixels far; the margin is three."""
    size = Size(90, 110)
    p = plan(size)
    image = np.random.default_rng(4).random(size, dtype=np.float32)

    def mean(x: np.ndarray) -> np.ndarray:
        padded = np.pad(x, 2)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
        return windows.mean((2, 3), dtype=np.float32)[None]

    merger = RamMerger(size, 1)
    run_tiles(
        p,
        lambda boxes: [mean(image[b.slices]) for b in boxes],
        merger,
        selected=[True] * len(p.tiles),
    )
    np.testing.assert_allclose(merger.result, mean(image), atol=2**-22)
