"""Bands of masks and label maps, against loops over pixels and OpenCV's gradient of each class."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crispseg.metrics import bands
from crispseg.metrics.bands import boundary_band, count_bands, ellipse_reach, find_bands
from crispseg.metrics.boundary import boundary_radii, mean_boundary_accuracy_of_labels
from crispseg.types import InputError

cv2 = pytest.importorskip("cv2")
VOID = 255


def element(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)


def label_map(seed: int, shape=(40, 70), classes: int = 5, speck: float = 0.01) -> np.ndarray:
    """Areas of several classes with void borders and specks."""
    rng = np.random.default_rng(seed)
    noise = cv2.resize(rng.random((6, 7), dtype=np.float32), shape[::-1])
    labels = np.clip(noise * classes, 0, classes - 1).astype(np.uint8)
    labels[cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, element(1)) > 0] = VOID
    specks = rng.random(shape) < speck
    labels[specks] = rng.integers(0, classes, int(specks.sum()))
    return labels


def bands_of_classes(truth: np.ndarray, radius: int) -> np.ndarray:
    """As the released code: the union of the gradients of every class but void."""
    union = np.zeros(truth.shape, bool)
    for number in np.unique(truth):
        if number != VOID:
            mask = (truth == number).astype(np.uint8)
            union |= cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, element(radius)) > 0
    return union


@pytest.mark.parametrize("radius", range(1, 80, 3))
def test_rows_reach_as_far_as_those_of_opencvs_ellipse(radius) -> None:
    rows = element(radius).sum(axis=1)
    np.testing.assert_array_equal([2 * reach + 1 for reach in ellipse_reach(radius)], rows[radius:])


@pytest.mark.parametrize("radius", [1, 2, 3, 7, 8, 9, 23])
@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (40, 71), (300, 64), (129, 203)])
@pytest.mark.parametrize("strip_pixels", [0, 1 << 18])
def test_a_band_is_the_union_of_the_bands_of_all_classes(
    shape, radius, strip_pixels, monkeypatch
) -> None:
    monkeypatch.setattr(bands, "STRIP_PIXELS", strip_pixels)
    truth = label_map(radius, shape)
    np.testing.assert_array_equal(boundary_band(truth, radius), bands_of_classes(truth, radius))


def test_far_apart_strips_are_found_and_nothing_else(monkeypatch) -> None:
    monkeypatch.setattr(bands, "STRIP_PIXELS", 0)
    monkeypatch.setattr(bands, "FEW_WORDS", 3)
    truth = np.zeros((900, 900), bool)
    truth[5, 3] = truth[640, 898] = True
    strips = list(find_bands(truth, [4]))
    assert [strip.rows.start // bands.STRIP_ROWS for strip in strips] == [0, 4, 5]
    assert all(strip.rows.stop - strip.rows.start <= 2 * 4 + 3 for strip in strips)
    assert all(strip.columns.stop - strip.columns.start <= 128 for strip in strips)
    band = cv2.morphologyEx(truth.astype(np.uint8), cv2.MORPH_GRADIENT, element(4)) > 0
    np.testing.assert_array_equal(boundary_band(truth, 4), band)
    assert not list(find_bands(np.ones((300, 300), bool), [1, 9]))


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_counting_pixels(seed) -> None:
    truth = label_map(seed, (270, 135))
    rng = np.random.default_rng(seed)
    masks = [np.roll(truth, rng.integers(-3, 4, 2), (0, 1)) for _ in range(3)]
    radii = [3, 1, 12, 3]
    counts = count_bands(masks, truth, radii, void=VOID)
    for place, radius in enumerate(radii):
        band = bands_of_classes(truth, radius) & (truth != VOID)
        assert counts.pixels[place] == band.sum()
        assert [c[place] for c in counts.right] == [(m == truth)[band].sum() for m in masks]
    assert counts.pixels.dtype == counts.right.dtype == np.int64


@pytest.mark.parametrize("void", [VOID, 2, 300, None])
def test_counts_in_a_box_of_a_wide_label_map(void) -> None:
    """Edges at the left border, in the box's first column, and nothing else in 30 words."""
    truth = np.zeros((40, 1900), np.uint8)
    truth[10:30, 0], truth[12:14, 1] = 1, VOID
    labels = np.roll(truth, 1, axis=0)
    for radius in (1, 5, 9):
        band = cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, element(radius)) > 0
        band &= truth != (-1 if void is None else void)
        counts = count_bands([labels], truth, [radius], void=void)
        assert counts.pixels[0] == band.sum()
        assert counts.right[0, 0] == (labels == truth)[band].sum()


@pytest.mark.parametrize("kind", ["released", "paper"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_mba_of_labels_equals_brute_force(kind, dtype) -> None:
    truth = label_map(8, (420, 600)).astype(dtype)
    labels = np.roll(truth, 2, axis=1)
    shares = []
    for radius in boundary_radii(420, 600, kind):
        band = bands_of_classes(truth, radius) & (truth != VOID)
        shares.append((labels == truth)[band].mean())
    score = mean_boundary_accuracy_of_labels(labels, truth, kind)
    assert score == pytest.approx(np.mean(shares), abs=1e-12)


def test_mba_of_labels_by_hand() -> None:
    truth = np.zeros((4, 6), np.uint8)
    truth[:, 3:] = 1
    truth[:, 5] = VOID
    labels = truth.copy()
    labels[0, 3] = 0  # wrong beside the edge
    labels[:, 5] = 7  # void: does not count
    # all radii are 1: columns 2 and 3 see both classes, columns 4 and 5 see 1 and void
    assert mean_boundary_accuracy_of_labels(labels, truth) == pytest.approx(11 / 12, abs=1e-12)


def test_labels_without_edges_have_no_mba() -> None:
    for number in (0, 3, VOID):
        truth = np.full((20, 30), number, np.uint8)
        assert math.isnan(mean_boundary_accuracy_of_labels(truth, truth))


def test_wrong_inputs_are_refused() -> None:
    truth = np.zeros((4, 5), np.uint8)
    with pytest.raises(InputError, match="integers, not bool"):
        mean_boundary_accuracy_of_labels(truth, truth > 0)
    with pytest.raises(InputError, match=r"mask is \(4, 4\)"):
        mean_boundary_accuracy_of_labels(truth[:, :4], truth)
    with pytest.raises(InputError, match="1 or more"):
        boundary_band(truth, 0)
