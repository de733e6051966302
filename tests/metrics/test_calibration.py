from __future__ import annotations

import math

import numpy as np
import pytest

from crispseg.metrics import calibration
from crispseg.metrics.calibration import CalibrationBins
from crispseg.types import InputError


def brute_force(probability, truth, kind, bins) -> float:
    """The definition, pixel by pixel, in bins given by their edges."""
    low = 0.5 if kind == "confidence" else 0.0
    edges = [low + (1 - low) * i / bins for i in range(bins + 1)]
    held: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for p, true in zip(probability.ravel().tolist(), truth.ravel().tolist(), strict=True):
        value, right = (max(p, 1 - p), (p > 0.5) == true) if kind == "confidence" else (p, true)
        place = max(i for i in range(bins) if value >= edges[i] - 1e-12)
        held[place].append((value, right))
    gaps = [
        len(pixels)
        * abs(
            sum(right for _, right in pixels) / len(pixels)
            - sum(v for v, _ in pixels) / len(pixels)
        )
        for pixels in held
        if pixels
    ]
    return sum(gaps) / probability.size


@pytest.mark.parametrize("kind", ["confidence", "probability"])
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_equals_brute_force(kind, bins) -> None:
    rng = np.random.default_rng(bins)
    probability = rng.random((40, 50), dtype=np.float32)
    probability[0, :4] = 0, 0.5, 1, 0.75
    truth = rng.random((40, 50)) < probability**2
    counts = CalibrationBins(kind, bins)
    counts.add(probability, truth)
    expected = brute_force(probability, truth, kind, bins)
    assert counts.expected_calibration_error() == pytest.approx(expected, abs=1e-12)
    assert counts.pixels.sum() == probability.size


def test_values_at_the_edges_of_bins_go_up_and_one_stays_in_the_last() -> None:
    counts = CalibrationBins("probability", 4)
    counts.add(np.array([0, 0.25, 0.5, 0.75, 1.0]), np.ones(5, bool))
    assert counts.pixels.tolist() == [1, 1, 1, 2]
    counts = CalibrationBins("confidence", 2)
    counts.add(np.array([0.5, 0.75, 0.25, 0.0, 1.0]), np.zeros(5, bool))
    assert counts.pixels.tolist() == [1, 4]
    assert counts.right.tolist() == [1, 2]  # 0.5 means background


def test_by_hand() -> None:
    probability = np.full(10, 0.9)
    truth = np.arange(10) < 7
    for kind in ("confidence", "probability"):
        counts = CalibrationBins(kind)
        counts.add(probability, truth)
        assert counts.expected_calibration_error() == pytest.approx(0.2)
    # Nine tenths sure of background where seven tenths are object.
    counts = CalibrationBins("confidence")
    counts.add(1 - probability, truth)
    assert counts.expected_calibration_error() == pytest.approx(0.6)


def test_probabilities_that_are_frequencies_have_no_error() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(400_000)
    truth = rng.random(400_000) < probability
    for kind in ("confidence", "probability"):
        counts = CalibrationBins(kind)
        counts.add(probability, truth)
        assert counts.expected_calibration_error() < 0.005


def test_parts_add_up(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    probability = rng.random((100, 90), dtype=np.float32)
    truth = rng.random((100, 90)) > 0.4
    whole = CalibrationBins()
    whole.add(probability, truth)
    monkeypatch.setattr(calibration, "CHUNK", 777)
    top, bottom = CalibrationBins(), CalibrationBins()
    top.add(probability[:33], truth[:33])
    bottom.add(probability[33:], truth[33:])
    top.merge(bottom)
    np.testing.assert_array_equal(top.pixels, whole.pixels)
    np.testing.assert_array_equal(top.right, whole.right)
    assert top.pixels.dtype == top.right.dtype == np.int64
    assert top.expected_calibration_error() == whole.expected_calibration_error()


@pytest.mark.parametrize("kind", ["confidence", "probability"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_split_in_any_order_gives_the_same_number(kind, dtype) -> None:
    rng = np.random.default_rng(5)
    probability = rng.random(4000).astype(dtype) ** 3
    truth = rng.random(4000) < probability
    figures = set()
    for _ in range(20):
        order = rng.permutation(4000)
        whole = CalibrationBins(kind)
        for part in np.split(order, np.sort(rng.integers(0, 4000, 7))):
            one = CalibrationBins(kind)
            one.add(probability[part], truth[part])
            whole.merge(one)
        figures.add(whole.expected_calibration_error())
    assert len(figures) == 1
    assert figures.pop() == pytest.approx(brute_force(probability, truth, kind, 15), abs=1e-12)


def test_guo_s_bins_are_never_larger() -> None:
    """Twice as wide bins, those of [0, 1] that two classes use: the documented relation."""
    rng = np.random.default_rng(3)
    probability = rng.random(3000)
    truth = rng.random(3000) > 0.5
    ours = CalibrationBins("confidence", 15)
    ours.add(probability, truth)
    confidence = np.maximum(probability, 1 - probability)
    wide = np.minimum((confidence * 15).astype(int), 14)
    gap = ((probability > 0.5) == truth) - confidence
    theirs = sum(abs(gap[wide == i].sum()) for i in range(15)) / 3000
    assert ours.expected_calibration_error() >= theirs > 0


def test_every_pixel_counts_whatever_the_size_of_parts(monkeypatch) -> None:
    monkeypatch.setattr(calibration, "CHUNK", 4)
    for size in range(10):
        bins = CalibrationBins(bins=3)
        bins.add(np.linspace(0, 1, size), np.ones(size, bool))
        assert (bins.pixels.sum(), bins.right.sum()) == (size, size // 2)


def test_nothing_counted_is_nan_and_bad_input_is_an_error() -> None:
    counts = CalibrationBins()
    assert math.isnan(counts.expected_calibration_error())
    with pytest.raises(InputError, match="shape"):
        counts.add(np.zeros((2, 3)), np.zeros(3, bool))
    with pytest.raises(InputError, match="bool"):
        counts.add(np.zeros(3), np.zeros(3))
    for bad in (-0.1, 1.1, np.nan):
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            counts.add(np.array([0.5, bad]), np.zeros(2, bool))
    with pytest.raises(InputError, match="do not add up"):
        counts.merge(CalibrationBins("probability"))
    with pytest.raises(InputError, match="1 or more"):
        CalibrationBins(bins=0)
    with pytest.raises(InputError, match="kind"):
        CalibrationBins("odds")
