"""Metrics on inputs that trip implementations, against definitions, whatever way data is cut."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score

from crispseg.data.datasets.base import Dataset
from crispseg.evaluation.labels import LabelSums, score_labels, summarise_labels
from crispseg.metrics.bands import boundary_band, count_bands
from crispseg.metrics.boundary import boundary_radii
from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.types import InputError

VOID = 255
KINDS = (
    "noise",
    "blocks",
    "rows",
    "one class",
    "void",
    "void but one",
    "no overlap",
    "few classes",
)
SHAPES = ((1, 1), (1, 130), (130, 1), (64, 64), (63, 129), (37, 200))


def pair(kind: str, shape: tuple[int, int], classes: int, seed: int, void: int = VOID):
    """A prediction and its truth of one of the kinds."""
    rng = np.random.default_rng(seed)
    prediction, truth = rng.integers(0, classes, (2, *shape)).astype(np.uint8)
    if kind in ("blocks", "rows"):
        step = (7, 9) if kind == "blocks" else (1, 10**6)
        rows, columns = (np.arange(n) // s * s for n, s in zip(shape, step, strict=True))
        truth = truth[np.ix_(rows, columns)]
        prediction = np.roll(truth, 1, 0)
    elif kind == "one class":
        truth[:] = prediction[:] = classes - 1
    elif kind == "void":
        truth[:] = void
    elif kind == "void but one":
        last = truth.flat[-1]
        truth[:] = void
        truth.flat[-1] = last
    elif kind == "no overlap":
        truth[:], prediction[:] = 0, classes - 1
    elif kind == "few classes":
        truth %= 2
    return prediction, truth


def definition(prediction: np.ndarray, truth: np.ndarray, classes: int, void: int) -> list[float]:
    """IoU of each class by sets of pixels."""
    valid = truth != void
    found = []
    for number in range(classes):
        p, t = (prediction == number) & valid, (truth == number) & valid
        union = int((p | t).sum())
        found.append(int((p & t).sum()) / union if union else math.nan)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_iou_is_that_of_sets_of_pixels(kind, shape, dtype) -> None:
    for classes, void in ((2, VOID), (21, VOID), (5, 3), (254, VOID), (255, VOID), (300, 299)):
        prediction, truth = pair(kind, shape, min(classes, 256), classes, min(void, VOID))
        if void < classes:  # void lies among the classes: of the truth it counts nowhere
            truth[:1] = void if void <= VOID else VOID
        if classes >= VOID:
            truth[truth == VOID], prediction[prediction == VOID] = 0, 0
        matrix = ConfusionMatrix(classes, void)
        matrix.add(prediction.astype(dtype), truth.astype(dtype))
        expected = definition(prediction, truth, classes, void)
        np.testing.assert_allclose(matrix.iou(), expected, rtol=0, atol=1e-12)
        valid = truth != void
        t, p = truth[valid], prediction[valid]
        if t.size:
            np.testing.assert_array_equal(
                matrix.counts, confusion_matrix(t, p, labels=range(classes))
            )
            there = np.union1d(t, p)
            mean = jaccard_score(t, p, labels=there, average="macro")
            assert matrix.mean_iou() == pytest.approx(mean, abs=1e-12)
        else:
            assert math.isnan(matrix.mean_iou())


@pytest.mark.parametrize("long_runs", [True, False])
@pytest.mark.parametrize("where", ["truth", "prediction"])
def test_one_stray_label_among_many_is_found(long_runs, where) -> None:
    shape = (60, 70)
    for stray, void, known in ((3, VOID, True), (3, 3, where == "truth"), (200, 200, False)):
        maps = {name: np.zeros(shape, np.uint8) for name in ("prediction", "truth")}
        if not long_runs:
            for values in maps.values():
                values[:, ::2] = 1
        maps[where][30, 40] = stray
        matrix = ConfusionMatrix(3, void)
        if where == "truth" and stray == void:
            matrix.add(**maps)
            assert matrix.counts.sum() == 60 * 70 - 1
        else:
            with pytest.raises(InputError, match=f"the {where} holds label {stray}"):
                matrix.add(**maps)
            assert matrix.counts.sum() == 0
        maps["truth"][30, 40] = void  # what is predicted for void may be anything
        matrix.add(**maps)
        assert known or matrix.counts.sum() > 0


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(1, 70), st.integers(1, 140), st.integers(1, 9),
    st.integers(0, 999),
)  # fmt: skip
def test_bands_are_those_of_opencv_for_every_class(kind, height, width, classes, seed) -> None:
    prediction, truth = pair(kind, (height, width), classes, seed)
    radii = sorted({1, 1 + seed % 5, 1 + seed % 17})
    counts = count_bands([prediction], truth, radii, void=VOID)
    for place, radius in enumerate(radii):
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        band = np.zeros(truth.shape, bool)
        for number in np.unique(truth):
            mask = (truth == number).astype(np.uint8)
            band |= cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, element) > 0
        np.testing.assert_array_equal(boundary_band(truth, radius), band)
        band &= truth != VOID
        assert counts.pixels[place] == band.sum()
        assert counts.right[0, place] == (prediction == truth)[band].sum()


@pytest.mark.parametrize("radius", [63, 64, 65, 127, 130])
@pytest.mark.parametrize("width", [384, 400])
def test_bands_wider_than_a_word_stay_in_their_rows(radius, width) -> None:
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    for column in (0, 200, width - 1):
        truth = np.zeros((90, width), np.uint8)
        truth[40:, column] = 1
        band = cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, element) > 0
        np.testing.assert_array_equal(boundary_band(truth, radius), band)


@pytest.mark.parametrize("column", [0, 63, 64, 700, 1343])
def test_few_edges_in_a_wide_map_count_nothing_of_the_next_row(column) -> None:
    truth = np.zeros((50, 1344), np.uint8)
    truth[10:30, column] = 1
    truth[30:, column] = VOID
    truth[20, (column + 90) % 1344] = VOID
    prediction = np.zeros_like(truth)
    radii = [1, 20, 63, 64]
    for void in (None, VOID):
        counts = count_bands([prediction], truth, radii, void=void)
        for place, radius in enumerate(radii):
            band = boundary_band(truth, radius)
            element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
            gradient = cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, element) > 0
            np.testing.assert_array_equal(band, gradient)
            band = band if void is None else band & (truth != void)
            assert counts.pixels[place] == band.sum()
            assert counts.right[0, place] == (band & (truth == prediction)).sum()


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(8)), st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_any_split_of_the_data_gives_the_same_figures(order, parts) -> None:
    dataset = Dataset("x", tuple("abcd"), ((0, 0, 0),) * 4, [], categories=tuple("ssuu"))
    images = {str(i): pair(KINDS[i], (20, 30), 4, i) for i in range(8)}

    def add(sums: LabelSums, name: str) -> None:
        prediction, truth = images[name]
        sums.add(name, prediction, truth, None, 0.0)

    whole = LabelSums(dataset, None)
    for name in sorted(images):
        add(whole, name)
    pieces = [LabelSums(dataset, None) for _ in range(3)]
    for number in order:
        add(pieces[parts[number]], str(number))
    both = LabelSums(dataset, None)
    for piece in pieces:
        both.rows += piece.rows
        both.matrix = both.matrix + piece.matrix
    assert summarise_labels(both.scores(), dataset) == summarise_labels(whole.scores(), dataset)


def test_a_row_is_the_definition_on_every_kind() -> None:
    for seed, kind in enumerate(KINDS):
        prediction, truth = pair(kind, (90, 110), 6, seed)
        row, _ = score_labels("x", prediction, truth, 6)
        iou = [value for value in definition(prediction, truth, 6, VOID) if value == value]
        expected = sum(iou) / len(iou) if iou else math.nan
        assert row.mean_iou == pytest.approx(expected, abs=1e-12, nan_ok=True)
        shares = []
        for radius in boundary_radii(90, 110, "paper"):
            band = boundary_band(truth, radius) & (truth != VOID)
            shares.append((prediction == truth)[band].mean() if band.any() else math.nan)
        assert row.mba_paper == pytest.approx(np.mean(shares), abs=1e-12, nan_ok=True)
