"""What is known of a plane without reading it, and windows that fit a file's blocks."""

from __future__ import annotations

import numpy as np
import pytest

from crispseg.io.given import GivenMask
from crispseg.io.windows import CELL, ArrayImage, ArrayMask, Ranges, windows_of
from crispseg.types import Box, Size


@pytest.mark.parametrize("block", [Size(1, 700), Size(512, 512), Size(300, 128), Size(900, 700)])
@pytest.mark.parametrize("pixels", [1, 5000, 1 << 20])
@pytest.mark.parametrize("area", [Box(0, 0, 900, 700), Box(130, 40, 700, 641)])
def test_windows_cover_once_and_cut_no_block(block, pixels, area) -> None:
    seen = np.zeros((900, 700), int)
    for box in windows_of(area, block, pixels):
        seen[box.slices] += 1
        for low, high, side, edge in (
            (box.y0, box.y1, block.height, (area.y0, area.y1)),
            (box.x0, box.x1, block.width, (area.x0, area.x1)),
        ):
            assert low % side == 0 or low == edge[0]
            assert high % side == 0 or high == edge[1]
        assert box.height * box.width <= max(pixels, block.height * block.width)
    expected = np.zeros_like(seen)
    expected[area.slices] = 1
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("block", [Size(7, 1000), Size(300, 333)])
def test_ranges_know_what_is_flat_whatever_the_windows(block) -> None:
    values = np.zeros((600, 1000), np.uint8)
    values[:, CELL:] = 3
    values[550, 999] = 4
    ranges = Ranges(Size(600, 1000))
    for box in windows_of(Box(0, 0, 600, 1000), block, 10_000):
        ranges.add(box, values[box.slices])
    assert ranges.span == (0, 4)
    assert ranges.constant(Box(5, 7, 600, CELL)) == 0
    assert ranges.constant(Box(0, CELL, 500, 1000)) == 3
    assert ranges.constant(Box(5, 7, 20, CELL + 1)) is None
    assert ranges.constant(Box(550, 990, 560, 1000)) is None
    ranges.add(Box(0, 0, 1, 1), np.full((1, 1), np.nan))
    assert np.isnan(ranges.span).all()
    assert ranges.constant(Box(0, 0, 1, 1)) is None


@pytest.mark.parametrize("masked", [False, True])
def test_the_given_mask_by_brute_force(masked) -> None:
    size = Size(600, 1100)
    soft = np.zeros(size, np.float32)
    soft[:, 600:] = 1
    soft[100:140, 20:900] = 0.4
    soft[300:310, 10:500] = 0.7
    valid = np.ones(size, bool)
    valid[:300, :] = False
    valid[500, 1000] = False
    image = ArrayImage(np.zeros((*size, 3), np.uint8), valid if masked else None)
    given = GivenMask(ArrayMask(soft), image, None)
    expected = (soft > 0.5) & (valid if masked else True)
    rng = np.random.default_rng(0)
    flat = 0
    for _ in range(60):
        (y0, y1), (x0, x1) = (np.sort(rng.choice(n + 1, 2, replace=False)) for n in size)
        box = Box(int(y0), int(x0), int(y1), int(x1))
        np.testing.assert_array_equal(given.read(box), expected[box.slices])
        value = given.constant(box)
        if value is not None:
            flat += 1
            assert (expected[box.slices] == value).all()
        possible = int(valid[box.slices].sum()) if masked else box.height * box.width
        assert given.count(box) == (int(expected[box.slices].sum()), possible)
    assert flat > 0
