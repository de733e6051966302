"""Merging on disk: the bits of RamMerger, for any batch size, after any number of stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crispseg.io.store import StripStore
from crispseg.tiling.blend import RamMerger
from crispseg.tiling.grid import plan_tiles
from crispseg.tiling.sliding import TilePlan, run_tiles
from crispseg.tiling.stream import Grid, TileStream
from crispseg.types import Box, CrispsegError, InputError, Size

TILE, OVERLAP, MARGIN = 40, 12, 3


def answer(box: Box) -> np.ndarray:
    """What a made-up network says of a box: other tiles, other values."""
    seed = [box.y0, box.x0, box.y1, box.x1]
    return np.random.default_rng(seed).random((2, *box.size), dtype=np.float32)


def coarse(size: Size) -> np.ndarray:
    return np.random.default_rng(5).random((2, *size), dtype=np.float32)


def in_memory(size: Size, selected: np.ndarray) -> np.ndarray:
    tiles = plan_tiles(size, TILE, OVERLAP)
    merger = RamMerger(size, 2)
    kept = coarse(size)
    run_tiles(
        TilePlan(size, tiles, MARGIN, OVERLAP - 2 * MARGIN),
        lambda boxes: [answer(box) for box in boxes],
        merger,
        selected=list(selected.ravel()),
        keep=lambda box: kept[:, *box.slices],
    )
    return merger.result


def stream(size: Size, selected: np.ndarray, batch_size: int = 1) -> TileStream:
    kept = coarse(size)
    return TileStream(
        Grid(size, Size(TILE, TILE), OVERLAP, MARGIN),
        selected,
        lambda boxes: [answer(box) for box in boxes],
        lambda box: kept[:, *box.slices],
        lambda box, values: {"a": values[0], "b": values[1]},
        batch_size=batch_size,
    )


def store(folder: Path, size: Size) -> StripStore:
    return StripStore(folder, size, {"a": "f4", "b": "f4"})


def planes(done: StripStore) -> np.ndarray:
    whole = Box(0, 0, *done.size)
    return np.stack([done.read("a", whole), done.read("b", whole)])


def choose(size: Size, share: float) -> np.ndarray:
    grid = Grid(size, Size(TILE, TILE), OVERLAP, MARGIN)
    shape = (len(grid.tops), len(grid.lefts))
    return np.random.default_rng(1).random(shape) < share


SIZES = [(30, 20), (40, 40), (41, 97), (150, 200), (69, 300)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0, 0.4, 1])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_same_bits_as_in_memory(tmp_path, size, share, batch_size) -> None:
    size = Size(*size)
    selected = choose(size, share)
    target = store(tmp_path, size)
    rows = list(stream(size, selected, batch_size).run(target))
    assert rows[-1] == size.height
    assert planes(target).tobytes() == in_memory(size, selected).tobytes()


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_run_goes_on_behind_the_last_strip(tmp_path, stop) -> None:
    size = Size(150, 120)
    selected = choose(size, 0.7)
    first = stream(size, selected).run(store(tmp_path, size))
    for _ in range(stop):
        next(first)
    calls = []
    again = stream(size, selected)
    again.predict = lambda boxes: calls.extend(boxes) or [answer(box) for box in boxes]
    target = store(tmp_path, size)
    assert len(target.strips) == stop
    list(again.run(target))
    assert planes(target).tobytes() == in_memory(size, selected).tobytes()
    assert len(calls) == selected[stop:].sum()  # no tile of a finished strip is run again


def test_a_strip_that_was_not_finished_leaves_nothing(tmp_path) -> None:
    size = Size(150, 120)
    bad = stream(size, choose(size, 1))
    bad.predict = lambda boxes: [answer(b) if b.y0 < 50 else answer(b) * np.nan for b in boxes]
    with pytest.raises(CrispsegError, match="NaN"):
        list(bad.run(store(tmp_path, size)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.strip", "000001.strip"]


def test_blocks_of_one_value_take_no_room_and_windows_are_exact(tmp_path) -> None:
    size = Size(20, 30)
    values = np.random.default_rng(0).random(size, dtype=np.float32)
    values[:, :10] = 0.25
    target = store(tmp_path, size)
    for y0, y1 in ((0, 7), (7, 20)):
        with target.begin(y0, y1) as strip:
            for x0, x1 in ((0, 10), (10, 22), (22, 30)):
                strip.add("a", x0, values[y0:y1, x0:x1])
    again = store(tmp_path, size)
    for box in (Box(0, 0, 20, 30), Box(3, 5, 11, 25), Box(7, 22, 8, 23), Box(6, 9, 8, 11)):
        np.testing.assert_array_equal(again.read("a", box), values[box.slices])
    assert again.constant("a", Box(2, 3, 12, 10)) == 0.25
    assert again.constant("a", Box(2, 3, 12, 11)) is None


def test_a_damaged_strip_is_noticed(tmp_path) -> None:
    size = Size(60, 60)
    list(stream(size, choose(size, 1)).run(store(tmp_path, size)))
    path = tmp_path / "000001.strip"
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-40])
    with pytest.raises(InputError, match="--restart"):
        store(tmp_path, size)
    content[50:60] = b"0123456789"
    path.write_bytes(content)
    with pytest.raises(InputError, match="--restart"):
        planes(store(tmp_path, size))
