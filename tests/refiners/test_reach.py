"""What the global step may find: brute force, and a network that sees objects everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from crispseg.refiners.guard import LEAST_KEPT
from crispseg.refiners.objects import dilate_square
from crispseg.refiners.reach import LEAST_REACH_PX, REACH_SHARE, within_reach


def expected(given: np.ndarray, values: np.ndarray) -> np.ndarray:
    reach = max(round(REACH_SHARE * float(given.sum()) ** 0.5), LEAST_REACH_PX)
    square = np.ones((2 * reach + 1, 2 * reach + 1), bool)
    near = ndimage.binary_dilation(given > 0, square)
    label, count = ndimage.label((given > 0) | (values[0] > 0.5))
    stays = [k for k in range(1, count + 1) if near[label == k].any()]
    beyond = ndimage.binary_dilation(np.isin(label, stays) & ~near, square)
    return values * (near | beyond)


@pytest.mark.parametrize("seed", range(6))
def test_within_reach(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = np.zeros((70, 90), np.float32)
    given[20:40, 10:30] = rng.choice([1, 0.25], (20, 20))
    values = ndimage.gaussian_filter(rng.random((2, 70, 90)), (0, 3, 3))
    values = np.clip((values - values.mean()) * 8 + 0.2, 0, 1).astype(np.float32)
    values[0, 20:40, 10:30] = values[0, 60:66, 70:80] = 0.9
    wanted = expected(given, values)
    found = within_reach(given, values.copy())
    np.testing.assert_array_equal(found, wanted)
    assert (found != values).any()
    assert (found[0] > 0.5).any()


def test_an_arm_that_the_mask_has_missed_stays_and_a_bystander_goes() -> None:
    given = np.zeros((100, 200), np.float32)
    given[40:60, 10:30] = 1
    values = np.zeros((1, 100, 200), np.float32)
    values[0, 40:60, 10:30] = values[0, 45:55, 30:150] = values[0, 10:20, 150:160] = 1
    values[0, 80:90, 180:190] = 0.4
    found = within_reach(given, values.copy())
    np.testing.assert_array_equal(found[0, 40:60], values[0, 40:60])
    assert found[0, :30].max() == found[0, 70:].max() == 0


@pytest.mark.parametrize(("shape", "px"), [((1, 1), 3), ((5, 40), 9), ((40, 3), 100), ((9, 9), 0)])
def test_dilation_by_a_square(shape: tuple[int, int], px: int) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.1
    square = np.ones((2 * px + 1, 2 * px + 1), bool)
    np.testing.assert_array_equal(dilate_square(mask, px), ndimage.binary_dilation(mask, square))


@pytest.mark.parametrize("left", [0.0, 0.1, 0.3])
def test_an_object_of_which_next_to_nothing_is_left_stands_as_given(left: float) -> None:
    given = np.zeros((60, 80), np.float32)
    given[20:40, 10:60] = 0.5
    given[21:39, 11:59] = 1
    values = np.stack([left * given, given / 2])
    found = within_reach(given, values.copy())
    wanted = values if left > LEAST_KEPT else np.stack([given, given])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("px", range(14))
def test_dilation_from_the_border(px: int) -> None:
    square = np.ones((2 * px + 1, 2 * px + 1), bool)
    for y, x in ((0, 0), (0, 7), (3, 1), (14, 19), (12, 18)):
        mask = np.zeros((15, 20), bool)
        mask[y, x] = True
        np.testing.assert_array_equal(
            dilate_square(mask, px), ndimage.binary_dilation(mask, square)
        )
