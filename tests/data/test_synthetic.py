"""Synthetic scenes: windows are parts of the whole, the truth is the discs."""

from __future__ import annotations

import numpy as np
import pytest

from crispseg.data.synthetic import Disc, SyntheticScene
from crispseg.types import Box, Size

SCENE = SyntheticScene(Size(90, 120), (Disc(40, 50, 20), Disc(80, 110, 15.5)), offset_px=3)


def test_truth_by_hand() -> None:
    truth = SCENE.truth(Box(0, 0, *SCENE.size))
    rows, columns = np.mgrid[:90, :120] + 0.5
    expected = (np.hypot(rows - 40, columns - 50) < 20) | (
        np.hypot(rows - 80, columns - 110) < 15.5
    )
    np.testing.assert_array_equal(truth, expected)
    rough = SCENE.rough(Box(0, 0, *SCENE.size))
    np.testing.assert_array_equal(rough[3:, 3:], truth[:-3, :-3])


@pytest.mark.parametrize("box", [Box(0, 0, 90, 120), Box(13, 40, 77, 41), Box(70, 90, 90, 120)])
def test_windows_are_parts_of_the_whole(box) -> None:
    whole = Box(0, 0, *SCENE.size)
    for window in (SCENE.truth, SCENE.rough, SCENE.image):
        np.testing.assert_array_equal(window(box), window(whole)[box.slices])


def test_coordinates_do_not_overflow() -> None:
    far = Disc(2**31 - 50, 2**31 - 60, 20)
    scene = SyntheticScene(Size(2**31 - 1, 2**31 - 1), (far,))
    box = Box(2**31 - 100, 2**31 - 100, 2**31 - 1, 2**31 - 1)
    assert abs(int(scene.truth(box).sum()) - np.pi * 400) < 40
    grain = scene.image(box)[:20, :20, 0] - 50
    assert 5 < grain.std() < 12
