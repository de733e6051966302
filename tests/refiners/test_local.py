"""What a magnification must not decide: against brute force, and through the whole cascade."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from crispseg.refiners.local import (
    CONTEXT_PX,
    MARGIN_PX,
    STEP_PX,
    Coarse,
    LocalInputs,
    box_of_edges,
    pasted,
    tiling,
    window_around,
)
from crispseg.refiners.objects import dilate_square
from crispseg.refiners.thin import HALO_PX, REACH_PX, THIN_PX, undecided
from crispseg.tiling.grid import plan_tiles
from crispseg.types import Box, Size

Array = np.ndarray


def squares_within(mask: Array) -> Array:
    """All pixels of squares of THIN_PX that lie in the mask; outside counts as inside."""
    half = THIN_PX // 2
    height, width = mask.shape
    result = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            square = np.s_[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
            if mask[square].all():
                result[square] = True
    return result


def brute_force(given: Array, final: Array) -> Array:
    result = np.zeros(given.shape, bool)
    for share, left in ((given, final), (1 - given, 1 - final)):
        thin = (share > 0) & ~squares_within(share > 0)
        for y, x in np.argwhere(thin):
            rows, columns = (slice(max(i - REACH_PX, 0), i + REACH_PX + 1) for i in (y, x))
            was = np.rint(255 * share[rows, columns])[thin[rows, columns]].sum()
            result[y, x] |= np.rint(255 * left[rows, columns]).sum() < was / 2
    return result


def scene(seed: int, size: tuple[int, int] = (40, 52)) -> tuple[Array, Array]:
    """Given masks with thin and thick parts, soft and hard, and results that lost some."""
    rng = np.random.default_rng(seed)
    given = np.zeros(size, np.float32)
    for _ in range(12):
        y, x = rng.integers(0, size[0] - 2), rng.integers(0, size[1] - 2)
        height, width = rng.integers(1, 14, 2)
        given[y : y + height, x : x + width] = rng.choice([0, 0.3, 1, 1])
    final = np.where(rng.random(size) < 0.02, 1 - given, given * rng.random(size) ** 0.2)
    final[: size[0] // 2] *= rng.random() > 0.5
    final[:, : size[1] // 3] = rng.random() > 0.5
    return given, final.astype(np.float32)


@pytest.mark.parametrize("seed", [0, 2, 3, 5, 6, 7])
def test_undecided_by_brute_force(seed: int) -> None:
    given, final = scene(seed)
    expected = brute_force(given, final)
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(undecided(given, final), expected)


def test_undecided_depends_on_no_pixel_beyond_the_halo() -> None:
    given, final = scene(1, (60, 70))
    expected = undecided(given, final)[20:31, 25:37]
    part = np.s_[20 - HALO_PX : 31 + HALO_PX, 25 - HALO_PX : 37 + HALO_PX]
    inner = np.s_[HALO_PX:-HALO_PX, HALO_PX:-HALO_PX]
    np.testing.assert_array_equal(undecided(given[part], final[part])[inner], expected)


def test_a_little_of_an_object_is_not_the_object() -> None:
    """A disc of four pixels of which one is left, just above 1/2, is kept; half of it is not."""
    given = np.zeros((20, 20), np.float32)
    given[8:12, 8:12] = 1
    crumb, half = np.zeros_like(given), given / 2
    crumb[9, 9] = 0.55
    kept = Coarse(given, crumb, given).keeping_thin()
    np.testing.assert_array_equal(kept.final, np.maximum(given, crumb))
    assert not undecided(given, half).any()
    gap = Coarse(1 - given, 1 - crumb, given).keeping_thin()
    np.testing.assert_array_equal(gap.final, 1 - np.maximum(given, crumb))


def test_thin_parts_that_moved_are_the_networks() -> None:
    """A wire that comes back two pixels further is moved; one that comes back nowhere is kept."""
    given, moved = np.zeros((2, 30, 30), np.float32)
    given[10:12], moved[12:14] = 1, 1
    assert not undecided(given, moved).any()
    kept = Coarse(given, np.zeros_like(given), given).keeping_thin()
    np.testing.assert_array_equal(kept.final, given)
    thick = np.zeros_like(given)
    thick[10 : 10 + THIN_PX] = 1
    assert not undecided(thick, np.zeros_like(given)).any()


def test_dilation_by_a_square() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 1] = True
    wide = dilate_square(mask, 2)
    assert wide.sum() == 5 * 4
    assert wide[2:7, :4].all()


def test_box_of_edges_by_hand() -> None:
    given, final = np.zeros((2, 300, 400), np.float32)
    assert box_of_edges(given, final) is None
    given[100:180, 150:330] = 1
    # 32 around: a quarter of (81 * 181) ** 0.5 is 30; the pixel after an edge is marked; then to 16
    expected = Box(68, 118, 68 + 160, 118 + 256)
    assert expected.y1 - 181 >= 32
    assert expected.x1 - 331 >= 32
    assert box_of_edges(given, final) == expected
    assert box_of_edges(1 - given, 1 - final) == expected
    final[20, 30] = 0.3  # uncertain
    around = round(0.25 * (161 * 301) ** 0.5)
    assert 181 + around <= 240
    assert 331 + around <= 400
    assert box_of_edges(given, final) == Box(0, 0, 240, 400)


def test_pasted_fades_in_where_the_box_ends_within_the_image() -> None:
    rng = np.random.default_rng(0)
    whole, part = rng.random((200, 300)).astype(np.float32), np.ones((140, 150), np.float32)
    box = Box(60, 40, 200, 190)  # to the lower border
    result = pasted(whole, part, box)
    np.testing.assert_array_equal(result[100:, 80:150], 1)
    np.testing.assert_array_equal(result[:60], whole[:60])
    np.testing.assert_array_equal(result[:, 190:], whole[:, 190:])
    share = (result - whole)[150, 40:190] / (1 - whole[150, 40:190])
    assert np.abs(np.diff(share)).max() < 0.1
    np.testing.assert_array_equal(pasted(whole, whole[box.slices], box), whole)


lengths = st.integers(1, 1300)


@for_all(st.builds(Size, lengths, lengths), st.tuples(*[st.floats(0, 1)] * 4))
def test_windows_hold_what_is_marked_and_what_is_around(tile: Size, corners) -> None:
    y0, y1 = sorted(round(c * tile.height) for c in corners[:2])
    x0, x1 = sorted(round(c * tile.width) for c in corners[2:])
    y0, x0 = min(y0, tile.height - 1), min(x0, tile.width - 1)
    marked = Box(y0, x0, max(y1, y0 + 1), max(x1, x0 + 1))
    window = window_around(marked, tile)
    assert window.clip(tile) == window
    wanted = marked.grow(CONTEXT_PX).clip(tile)
    assert window.y0 <= wanted.y0 <= wanted.y1 <= window.y1
    assert window.x0 <= wanted.x0 <= wanted.x1 <= window.x1
    for side, most, least in zip(window.size, tile, wanted.size, strict=True):
        assert side == most or side % STEP_PX == 0
        assert side < least + STEP_PX


def changed_anywhere(inputs: LocalInputs, tile: Box) -> Array:
    """Brute force: what of a tile is uncertain, or an edge of given mask or coarse result."""
    coarse, given = inputs.coarse_values(tile)[0], inputs._given(tile)
    marked = (coarse > 0.05) & (coarse < 0.95)
    for mask in (coarse > 0.5, given > 0.5):
        for y, x in np.argwhere(mask):
            for i, j in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= i < tile.height and 0 <= j < tile.width and not mask[i, j]:
                    marked[y, x] = marked[i, j] = True
    return marked


@pytest.mark.parametrize("seed", range(6))
def test_a_tile_is_looked_at_where_it_may_change(seed: int) -> None:
    """Every pixel that counts and may change is in some tile's window; flat tiles have none."""
    rng = np.random.default_rng(seed)
    size = Size(300, 420)
    given = np.zeros(size, np.float32)
    y, x = rng.integers(0, 250, 2)
    given[y : y + 40, x : x + 60] = 1
    small = given[::3, ::3].copy()
    final = small.copy()
    y, x = rng.integers(0, 80, 2)
    final[y : y + 5, x : x + 5] = 0.5
    inputs = LocalInputs(Coarse(small, final, final), lambda box: given[box.slices], size, 2)
    tile_size, overlap = tiling(size, 160)
    looked_at, wanted = np.zeros((2, *size), bool)
    tiles = plan_tiles(size, tile_size, overlap)
    flat = 0
    for tile in tiles:
        marked = changed_anywhere(inputs, tile)
        wanted[tile.slices] |= marked
        if inputs.has_edge(tile):
            window = inputs.look(tile).window
            looked_at[window.shift(tile.y0, tile.x0).slices] = True
        else:
            flat += 1
            inner = tile.grow(-MARGIN_PX).shift(-tile.y0, -tile.x0)
            assert not marked[inner.slices].any()
    assert 0 < flat < len(tiles)
    assert wanted.any()
    assert not (wanted & ~looked_at).any()


def test_what_the_network_does_not_see_stays_the_coarse_result() -> None:
    size = Size(400, 600)
    given = np.zeros(size, np.float32)
    given[190:210, 60:80] = 1
    inputs = LocalInputs(Coarse(given, given, given / 2), lambda box: given[box.slices], size, 2)
    look = inputs.look(Box(0, 0, *size))
    assert look.window == Box(94, 0, 350, 192)  # 94..306 and 0..176, to the next 64
    hard, soft = look.for_network(soft=False)
    assert hard.shape == soft.shape == look.window.size
    assert set(np.unique(hard)) == {-1, 1}
    np.testing.assert_allclose(soft, given[look.window.slices] - 1)
    unsure = replace(look, values=look.values * 0.75)
    final, stride4 = unsure.for_network(soft=True)
    np.testing.assert_allclose(final, given[look.window.slices] * 1.5 - 1)
    np.testing.assert_array_equal(stride4, soft)
    np.testing.assert_array_equal(unsure.for_network(soft=False)[0], hard)
    found = look.with_result(np.full((2, *look.window.size), 0.75, np.float32))
    np.testing.assert_array_equal(found[0][:, 192:], given[:, 192:])
    np.testing.assert_array_equal(found[1][:94], given[:94] / 2)
    assert (found[:, 130:310, :150] == 0.75).all()


def test_the_last_magnification_computes_stride_4_only_where_it_looks() -> None:
    rng = np.random.default_rng(0)
    size = Size(300, 420)
    given = np.zeros(size, np.float32)
    given[100:140, 50:110] = 1
    small = rng.random((2, 150, 210), dtype=np.float32) * 0.04 + given[::2, ::2]
    coarse = Coarse(given[::2, ::2].copy(), *np.clip(small, 0, 1))
    tile = Box(20, 10, 290, 400)
    both, final = (
        LocalInputs(coarse, lambda box: given[box.slices], size, channels).look(tile)
        for channels in (2, 1)
    )
    assert both.window == final.window
    assert final.window.size != tile.size
    assert final.values.shape == (1, *tile.size)
    np.testing.assert_array_equal(final.values[0], both.values[0])
    for soft in (True, False):
        found = zip(final.for_network(soft=soft), both.for_network(soft=soft), strict=True)
        assert all(np.array_equal(one, other) for one, other in found)
