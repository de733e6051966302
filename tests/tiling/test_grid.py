from __future__ import annotations

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crispseg.tiling.grid import (
    MAX_ENLARGEMENT,
    axis_starts,
    enlargement,
    even_tile,
    first_long_side,
    fit_size,
    magnifications,
    plan_tiles,
)
from crispseg.types import Box, InputError, Size

sides = st.integers(1, 300)
sizes = st.builds(Size, st.integers(1, 3000), st.integers(1, 3000))


def test_tiles_by_hand() -> None:
    assert plan_tiles(Size(5, 10), 4, 1) == [
        Box(0, 0, 4, 4),
        Box(0, 3, 4, 7),
        Box(0, 6, 4, 10),
        Box(1, 0, 5, 4),
        Box(1, 3, 5, 7),
        Box(1, 6, 5, 10),
    ]
    assert plan_tiles(Size(3, 4), 4, 1) == [Box(0, 0, 3, 4)]
    assert axis_starts(9, 4, 4) == [0, 4, 5]
    assert axis_starts(8, 4, 4) == [0, 4]


@given(st.builds(Size, sides, sides), st.integers(20, 200), st.integers(10, 200))
def test_tiles_cover_the_image_and_share_the_overlap(size, tile, stride) -> None:
    stride = min(stride, tile)
    overlap = tile - stride
    tiles = plan_tiles(size, tile, overlap)
    assert tiles == sorted(set(tiles))  # row-major, no duplicates
    for low, high, length in (("y0", "y1", size.height), ("x0", "x1", size.width)):
        spans = sorted({(getattr(t, low), getattr(t, high)) for t in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert all(stop - start == min(tile, length) for start, stop in spans)
        for (_, stop), (start, _) in pairwise(spans):
            assert stop - start >= overlap


@given(st.builds(Size, sides, sides), st.integers(40, 200))
def test_even_tiles_are_few_and_end_on_even_pixels(half, tile_size) -> None:
    size, overlap = Size(2 * half.height, 2 * half.width), tile_size // 8 * 2
    tile = even_tile(size, tile_size, overlap + 1)
    tiles = plan_tiles(size, tile, overlap)
    assert tile.height * tile.width <= tile_size**2
    assert all(box.y0 % 2 == box.x0 % 2 == box.y1 % 2 == box.x1 % 2 == 0 for box in tiles)
    if max(size) <= tile_size:
        assert tiles == [Box(0, 0, *size)]


def test_even_tiles_by_hand() -> None:
    """Images of 480x420, 480x854 and 900x900 at twice their size, and a photo."""
    assert even_tile(Size(960, 840), 900, 225) == (960, 840)
    assert even_tile(Size(960, 1708), 900, 225) == (960, 720)
    assert even_tile(Size(1800, 1800), 900, 225) == (750, 1012)
    assert even_tile(Size(2328, 3492), 900, 150) == (876, 820)
    assert even_tile(Size(300, 20000), 900, 150) == (300, 1318)


@given(st.builds(Size, st.integers(1, 3000), st.integers(1, 3000)))
def test_even_tiles_have_the_fewest_pixels_in_all(size: Size) -> None:
    tile_size, overlap = 900, 150

    def sides(length: int) -> dict[int, int]:
        spread = {n: -(-(length + (n - 1) * overlap) // n) for n in range(1, 20)}
        return {n: s + s % 2 for n, s in spread.items() if s + s % 2 <= 1.5 * tile_size}

    best = min(
        rows * height * columns * width
        for rows, height in sides(size.height).items()
        for columns, width in sides(size.width).items()
        if height * width <= tile_size**2
    )
    tile = even_tile(size, tile_size, overlap)
    tiles = plan_tiles(size, tile, overlap)
    assert max(tile) <= 1.5 * tile_size
    assert tile.height * tile.width <= tile_size**2
    covered = sum(min(tile.height, size.height) * min(tile.width, size.width) for _ in tiles)
    assert covered <= best


@given(st.integers(1, 5000), st.sampled_from([512, 900]))
def test_the_published_rule_gives_the_same_starts(length: int, tile: int) -> None:
    step = tile // 2 - 32
    published = []
    for i in range(length // step + 1):
        start = i * step
        if start + tile > length:
            start = max(0, length - tile)
        if start not in published:
            published.append(start)
    assert axis_starts(length, tile, step) == published


@given(sizes.filter(lambda s: max(s) > 1), st.integers(1, 900), st.floats(1.5, 8))
def test_magnifications_grow_in_bounded_steps(size, first, ratio) -> None:
    steps = magnifications(size, first, ratio)
    assert steps[-1] == size
    assert max(steps[0]) == min(first, max(size))
    assert min(min(step) for step in steps) >= 1
    for before, after in pairwise(steps):
        assert max(before) < max(after) <= max(before) * ratio + 1


def test_magnifications_of_large_images_cost_no_more_than_those_of_photos() -> None:
    """Tiles along an edge, to those at full size: 1/3 more, up to 1/2 more."""
    for side in (3601, 8192, 11648, 14400):  # up to four tiles times four, as ever
        sides = [max(step) for step in magnifications(Size(side, side), 900, 4)]
        assert sides == [900, ceil(900 * (side / 900) ** 0.5), side]
    for side in range(14401, 1_000_000, 997):
        first, *later = (max(step) for step in magnifications(Size(side, 9), 900, 4))
        assert first == 900
        assert all(3 < after / before < 3.1 for before, after in pairwise(later))
        assert sum(later) < 1.5 * side + len(later)


def test_long_thin_images_keep_a_pixel() -> None:
    assert fit_size(Size(3, 20000), 900) == Size(1, 900)
    assert magnifications(Size(1, 1), 900, 4) == [Size(1, 1)]


def test_bad_tiles() -> None:
    for tile, overlap in ((4, 4), (4, -1)):
        with pytest.raises(InputError, match="overlap"):
            plan_tiles(Size(9, 9), tile, overlap)
    with pytest.raises(InputError, match="0x5"):
        plan_tiles(Size(5, 0), 4, 1)


@pytest.mark.parametrize(
    ("size", "object_px", "factor"),
    [
        (Size(300, 400), 200, 1),
        (Size(480, 854), 300, 1),
        (Size(360, 480), 40, 2),  # three times would not fit
        (Size(200, 250), 40, 3),
        (Size(200, 250), 70, 2),
        (Size(900, 900), 10, 1),
        (Size(1, 1), 1, 3),
    ],
)
def test_enlargement_by_hand(size, object_px, factor) -> None:
    assert enlargement(size, Box(0, 0, object_px, object_px), 900) == factor


@given(st.builds(Size, sides, sides), st.tuples(sides, sides), st.integers(300, 1000))
def test_enlarged_images_are_no_larger_than_a_tile(size, sides, tile_size) -> None:
    factor = enlargement(size, Box(0, 0, *sides), tile_size)
    assert 1 <= factor <= MAX_ENLARGEMENT
    if factor > 1:
        assert factor**2 * size.height * size.width <= tile_size**2


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 50), st.integers(1, 4))
def test_a_shrunk_box_is_the_smallest_that_covers(y, x, side, factor) -> None:
    small = Box(y, x, y + side, x + side + 3).shrink(factor)
    assert small.y0 * factor <= y < (small.y0 + 1) * factor
    assert (small.y1 - 1) * factor < y + side <= small.y1 * factor
    assert (small.x1 - 1) * factor < x + side + 3 <= small.x1 * factor


def test_the_first_look_leaves_something_of_the_short_side() -> None:
    for height, width, tile, long_side in (
        (3000, 4000, 900, 900),
        (100, 300, 900, 300),  # as it is
        (128, 4000, 900, 1000),  # 32 of 128 rows
        (16, 4909, 900, 4909),  # all of 16 rows: fewer pixels than in a tile
        (64, 100_000, 900, 35_575),  # as many pixels as in a tile
        (128, 4000, 128, 500),  # an eighth of a small tile
        (1, 1, 900, 1),
    ):
        for size in (Size(height, width), Size(width, height)):
            found = first_long_side(size, tile)
            assert found == long_side
            first = magnifications(size, found, 4)[0]
            assert first.height * first.width <= tile**2 * 1.05


@given(sizes, st.integers(128, 2000))
def test_the_first_look_is_no_larger_than_a_tile_has_pixels(size, tile_size) -> None:
    found = first_long_side(size, tile_size)
    assert min(tile_size, max(size)) <= found <= max(size)
    short = min(size) * found / max(size)
    assert short * found <= tile_size**2 * 1.0001
    if found > tile_size:
        assert short <= min(32, tile_size // 8) + 1e-6
