from __future__ import annotations

import cv2
import numpy as np
import pytest

from crispseg.metrics.boundary import (
    boundary_radii,
    intersection_over_union,
    mean_boundary_accuracy,
)
from crispseg.types import InputError


@pytest.mark.parametrize(
    ("width", "height", "radii"),
    [
        (500, 375, [1, 1, 1, 2, 2]),
        (2048, 1600, [1, 3, 5, 7, 9]),
        (3840, 2160, [1, 4, 8, 12, 16]),
        (5000, 3600, [1, 6, 12, 17, 23]),
    ],
)
def test_radii_of_the_released_code(width, height, radii) -> None:
    assert boundary_radii(height, width) == radii


def test_mba_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    truth = cv2.resize(rng.random((5, 8), dtype=np.float32), (1000, 800)) > 0.5
    mask = np.roll(truth, (2, -3), (0, 1))
    shares = []
    for radius in (1, 2, 3, 4, 5):
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        offsets = np.argwhere(element) - radius
        near = {True: np.zeros_like(truth), False: np.zeros_like(truth)}
        padded = np.pad(truth, radius, mode="edge")
        for dy, dx in offsets:
            moved = padded[radius + dy : radius + dy + 800, radius + dx : radius + dx + 1000]
            near[True] |= moved
            near[False] |= ~moved
        band = near[True] & near[False]
        shares.append((mask == truth)[band].mean())
    assert boundary_radii(800, 1000) == [1, 2, 3, 4, 5]
    assert mean_boundary_accuracy(mask, truth) == pytest.approx(np.mean(shares), abs=1e-12)


def test_a_disc_shifted_by_one_pixel_scores_what_the_released_code_gives() -> None:
    y, x = np.mgrid[:1600, :2048]
    truth = np.hypot(y - 800, x - 1024) < 500
    for shift, expected in ((1, 0.879), (2, 0.817), (4, 0.718), (8, 0.611)):
        score = mean_boundary_accuracy(np.roll(truth, shift, axis=1), truth)
        assert score == pytest.approx(expected, abs=0.002)


def test_perfect_and_edge_cases() -> None:
    truth = np.zeros((50, 60), bool)
    truth[10:30, 10:30] = True
    assert mean_boundary_accuracy(truth, truth) == 1
    assert intersection_over_union(truth, truth) == 1
    assert intersection_over_union(~truth, truth) == 0
    empty = np.zeros_like(truth)
    assert intersection_over_union(empty, empty) == 1
    with pytest.raises(InputError, match="no boundary"):
        mean_boundary_accuracy(truth, empty)
