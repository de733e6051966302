from __future__ import annotations

import math
import subprocess
import sys

import cv2
import numpy as np
import pytest

from crispseg.metrics.bands import boundary_band
from crispseg.metrics.boundary import (
    boundary_iou,
    boundary_radii,
    inner_boundary,
    intersection_and_union,
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


def masks_of_all_kinds() -> dict[str, np.ndarray]:
    """Random ones, and those that algorithms trip over."""
    rng = np.random.default_rng(0)
    noise, sparse = rng.random((2, 37, 53))
    blobs = cv2.resize(rng.random((4, 6), dtype=np.float32), (90, 70)) > 0.5
    y, x = np.mgrid[:60, :80]
    masks = {
        "noise": noise > 0.5,
        "specks": sparse > 0.99,
        "pinholes": sparse < 0.99,
        "blobs": blobs,
        "disc over the border": np.hypot(y - 10, x - 70) < 25,
        "half": x < 40,
        "empty": np.zeros((30, 40), bool),
        "full": np.ones((30, 40), bool),
        "row": (rng.random((1, 200)) > 0.7),
        "column": (rng.random((200, 1)) > 0.7),
        "one pixel of one": np.ones((1, 1), bool),
    }
    for name, place in {"corner": (0, 0), "inside": (15, 20), "last": (29, 39)}.items():
        masks[f"pixel, {name}"] = np.zeros((30, 40), bool)
        masks[f"pixel, {name}"][place] = True
        masks[f"hole, {name}"] = ~masks[f"pixel, {name}"]
    return masks


MASKS = masks_of_all_kinds()


@pytest.mark.parametrize("name", MASKS)
def test_bands_equal_the_definition_pixel_by_pixel(name) -> None:
    truth = MASKS[name]
    for radius in (1, 2, 3, 7):
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        expected = np.zeros_like(truth)
        for y, x in np.ndindex(*truth.shape):
            top, left = max(y - radius, 0), max(x - radius, 0)
            window = truth[top : y + radius + 1, left : x + radius + 1]
            part = element[
                top - y + radius : top - y + radius + window.shape[0],
                left - x + radius : left - x + radius + window.shape[1],
            ]
            seen = window[part > 0]
            expected[y, x] = seen.any() and not seen.all()
        np.testing.assert_array_equal(boundary_band(truth, radius), expected)


@pytest.mark.parametrize("radius", range(1, 61, 4))
def test_bands_equal_the_gradient_of_opencv(radius) -> None:
    rng = np.random.default_rng(radius)
    truth = cv2.resize(rng.random((5, 7), dtype=np.float32), (300, 200)) > 0.5
    truth ^= rng.random(truth.shape) > 0.999
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    expected = cv2.morphologyEx(truth.astype(np.uint8), cv2.MORPH_GRADIENT, element) > 0
    np.testing.assert_array_equal(boundary_band(truth, radius), expected)


@pytest.mark.parametrize(
    ("width", "height", "radii"),
    [
        (854, 480, [3, 3, 4, 4, 4]),  # 3, 3.36, 3.72, 4.09, 4.45
        (2048, 1600, [3, 5, 8, 10, 12]),  # 3, 5.29, 7.58, 9.87, 12.16
        (5000, 3600, [3, 9, 16, 22, 29]),  # 3, 9.42, 15.83, 22.25, 28.67
        (1800, 900, [3, 5, 6, 8, 9]),  # 3, 4.5, 6, 7.5, 9: halves up
        (480, 360, [3, 3, 3, 3, 3]),  # the end, 2.8, lies below the beginning
        (1, 1, [3, 3, 3, 3, 3]),
    ],
)
def test_radii_of_the_paper(width, height, radii) -> None:
    assert boundary_radii(height, width, "paper") == radii


def test_both_kinds_of_radii_are_used() -> None:
    y, x = np.mgrid[:1600, :2048]
    truth = np.hypot(y - 800, x - 1024) < 500
    mask = np.roll(truth, 2, axis=1)
    for radii in ("released", "paper"):
        sizes = boundary_radii(1600, 2048, radii)
        shares = [(mask == truth)[boundary_band(truth, r)].mean() for r in sizes]
        assert mean_boundary_accuracy(mask, truth, radii) == np.mean(shares)
    assert mean_boundary_accuracy(mask, truth, "paper") > mean_boundary_accuracy(mask, truth) + 0.03


@pytest.mark.parametrize("name", MASKS)
def test_inner_boundary_equals_the_definition_pixel_by_pixel(name) -> None:
    mask = MASKS[name]
    reach = max(1, round(0.02 * math.hypot(*mask.shape)))
    padded = np.pad(mask, reach)
    expected = [
        mask[y, x] and not padded[y : y + 2 * reach + 1, x : x + 2 * reach + 1].all()
        for y, x in np.ndindex(*mask.shape)
    ]
    np.testing.assert_array_equal(inner_boundary(mask), np.reshape(expected, mask.shape))


def test_boundary_iou_equals_repeated_erosion() -> None:
    rng = np.random.default_rng(1)
    for size in ((40, 60), (400, 300), (700, 900)):
        fields = [cv2.resize(rng.random((4, 5), dtype=np.float32), size[::-1]) for _ in range(2)]
        mask, truth = (field > 0.4 for field in fields)
        times = round(0.02 * math.hypot(*size))
        edges = []
        for solid in (mask, truth):
            padded = np.pad(solid, 1).astype(np.uint8)
            eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=times)
            edges.append(solid & (eroded[1:-1, 1:-1] == 0))
        expected = (edges[0] & edges[1]).sum() / (edges[0] | edges[1]).sum()
        assert boundary_iou(mask, truth) == pytest.approx(expected, abs=1e-12)


def test_boundary_iou_of_squares_by_hand() -> None:
    truth = np.zeros((300, 400), bool)  # diagonal 500: d = 10
    truth[100:200, 100:200] = True
    ring = 100**2 - 80**2
    assert inner_boundary(truth).sum() == ring
    mask = np.roll(truth, 200, axis=1)
    assert boundary_iou(mask, truth) == 0
    smaller = np.zeros_like(truth)
    smaller[110:190, 110:190] = True  # exactly what the ring leaves
    assert boundary_iou(smaller, truth) == 0
    assert boundary_iou(~np.zeros_like(truth), ~np.zeros_like(truth)) == 1
    assert inner_boundary(np.ones((300, 400), bool)).sum() == 300 * 400 - 280 * 380


def test_perfect_and_edge_cases() -> None:
    truth = np.zeros((50, 60), bool)
    truth[10:30, 10:30] = True
    assert mean_boundary_accuracy(truth, truth) == 1
    assert mean_boundary_accuracy(~truth, truth) == 0
    assert intersection_over_union(truth, truth) == 1
    assert intersection_over_union(~truth, truth) == 0
    assert intersection_and_union(truth, truth) == (400, 400)
    empty = np.zeros_like(truth)
    for iou in (intersection_over_union, boundary_iou):
        assert iou(empty, empty) == 1
        assert iou(truth, empty) == iou(empty, truth) == 0
    for flat in (empty, ~empty):
        assert math.isnan(mean_boundary_accuracy(truth, flat))
        assert math.isnan(mean_boundary_accuracy(flat, flat, "paper"))
    assert mean_boundary_accuracy(empty, truth) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("measure", [intersection_over_union, mean_boundary_accuracy, boundary_iou])
def test_masks_that_do_not_fit_are_errors(measure) -> None:
    truth = np.zeros((4, 5), bool)
    with pytest.raises(InputError, match="of one size"):
        measure(np.zeros((1, 5), bool), truth)  # NumPy would broadcast it
    with pytest.raises(InputError, match="must be bool, not uint8"):
        measure(np.zeros((4, 5), np.uint8), truth)


def test_measuring_needs_no_opencv() -> None:
    code = "import sys, crispseg.metrics.boundary as b; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_inner_boundary_of_a_large_image() -> None:
    """2 % of this diagonal is 80 px, more than a byte's signed half on both sides together."""
    inner = inner_boundary(np.ones((300, 4000), bool))
    expected = np.ones((300, 4000), bool)
    expected[80:-80, 80:-80] = False
    np.testing.assert_array_equal(inner, expected)
