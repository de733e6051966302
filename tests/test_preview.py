from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from crispseg.preview import (
    ADDED,
    CAPTION_PX,
    LEFT_WRONG,
    PANEL_PX,
    REMOVED,
    Comparison,
    busiest_place,
    render_comparisons,
    render_preview,
)


def test_busiest_place_is_the_window_with_the_largest_sum() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 40, 50), dtype=np.float32)
    side = 7
    sums = {
        (y, x): np.abs(after - before)[y : y + side, x : x + side].sum(dtype=np.float64)
        for y in range(40 - side + 1)
        for x in range(50 - side + 1)
    }
    assert busiest_place(before, after, side) == max(sums, key=sums.get)


@pytest.mark.parametrize("size", [(1, 1), (3, 20000), (20000, 3), (300, 400), (1500, 2000)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_size_makes_a_sheet(size, dtype) -> None:
    image = np.full((*size, 3), np.iinfo(dtype).max // 2, dtype)
    empty = np.zeros(size, np.float32)
    sheet = render_preview(image, empty, empty)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] <= 2450


def test_a_thin_change_is_visible_in_the_overview_of_a_large_photo() -> None:
    image = np.full((2500, 2500, 3), 120, np.uint8)
    before = np.zeros((2500, 2500), np.float32)
    after = before.copy()
    after[1700, 100:2400] = 1
    overview = render_preview(image, before, after)[: PANEL_PX + CAPTION_PX]
    assert (overview == ADDED).all(axis=2).sum() > 700


def test_memory_is_a_few_bytes_for_each_pixel() -> None:
    size = (1500, 2000)
    image = np.full((*size, 3), 120, np.uint8)
    mask = np.zeros(size, np.float32)
    mask[300:900] = 1
    tracemalloc.start()
    render_preview(image, mask, mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / mask.size < 16  # some of it for panels that do not grow with the photo


def test_added_and_removed_pixels_have_their_colours() -> None:
    image = np.full((100, 100, 3), 120, np.uint8)
    before = np.zeros((100, 100), np.float32)
    after = before.copy()
    before[20:40, 20:40] = 1
    after[60:80, 60:80] = 1
    sheet = render_preview(image, before, after)
    for colour in (ADDED, REMOVED):
        assert (sheet == colour).all(axis=2).sum() > 1000
    # nothing changed: none of the two colours
    calm = render_preview(image, before, before)
    assert not any((calm == colour).all(axis=2).any() for colour in (ADDED, REMOVED))


def comparison(before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> Comparison:
    image = np.full((*truth.shape, 3), 120, np.uint8)
    return Comparison("a title", image, *(m.astype(np.float32) for m in (before, after, truth)))


def test_what_came_right_wrong_or_stayed_wrong_has_its_colour() -> None:
    truth = np.zeros((300, 300), bool)
    truth[100:200, 100:200] = True
    before, after = truth.copy(), truth.copy()
    before[100:120, 100:200] = False  # put right
    after[180:200, 100:130] = False  # made wrong
    before[150:160, 150:160] = after[150:160, 150:160] = False  # left wrong
    sheet = render_comparisons([comparison(before, after, truth)])
    judged = sheet[:, 3 * sheet.shape[1] // 4 :]
    overview = judged[: sheet.shape[0] // 2]
    scale = (580 / 300) ** 2
    for colour, pixels in ((ADDED, 2000), (REMOVED, 600), (LEFT_WRONG, 100)):
        assert (overview == colour).all(axis=2).sum() == pytest.approx(pixels * scale, rel=0.1)
    calm = render_comparisons([comparison(truth, truth, truth)])
    assert not any((calm == colour).all(axis=2).any() for colour in (ADDED, REMOVED, LEFT_WRONG))


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (5000, 3), (300, 400), (1500, 2000)])
def test_comparisons_of_any_size_make_a_sheet(size) -> None:
    empty = np.zeros(size, bool)
    sheet = render_comparisons([comparison(empty, ~empty, empty)] * 2)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] <= 2400
