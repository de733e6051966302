"""The confusion matrix against a loop, scikit-learn and torchmetrics, and where scores go wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from crispseg.metrics import confusion
from crispseg.metrics.confusion import ConfusionMatrix, sum_of
from crispseg.types import InputError


def pair(seed: int, classes: int, shape=(37, 53), void: float = 0.1):
    rng = np.random.default_rng(seed)
    prediction, truth = rng.integers(0, classes, (2, *shape)).astype(np.uint8)
    truth[rng.random(shape) < void] = 255
    return prediction, truth


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 25), st.integers(1, 30), st.integers(1, 30))
def test_counts_are_those_of_a_loop(seed, classes, height, width) -> None:
    prediction, truth = pair(seed, classes, (height, width))
    expected = np.zeros((classes, classes), int)
    for p, t in zip(prediction.flat, truth.flat, strict=True):
        if t != 255:
            expected[t, p] += 1
    matrix = ConfusionMatrix(classes)
    matrix.add(prediction, truth)
    assert matrix.counts.dtype == np.int64
    np.testing.assert_array_equal(matrix.counts, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize(("classes", "void"), [(5, 255), (5, 2), (254, 255), (255, 255), (256, 7)])
@pytest.mark.parametrize("length", [1, 6, 40])  # of runs: of one pixel, of a word, of many words
def test_runs_of_equal_pixels_count_as_pixels(dtype, classes, void, length) -> None:
    rng = np.random.default_rng(length)
    pieces = rng.integers(0, classes, (2, 3000 // length))
    pieces[1, rng.random(pieces.shape[1]) < 0.2] = void
    each = rng.integers(1, 2 * length, pieces.shape[1])
    prediction, truth = (np.repeat(piece, each)[None].astype(dtype) for piece in pieces)
    expected = np.zeros((classes, classes), int)
    np.add.at(expected, (truth[truth != void], prediction[truth != void]), 1)
    matrix = ConfusionMatrix(classes, ignore_index=void)
    matrix.add(prediction, truth)
    np.testing.assert_array_equal(matrix.counts, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_scores_equal_other_libraries(dtype) -> None:
    prediction, truth = pair(3, 11)
    truth[truth == 6] = 2  # predicted, but in no truth
    matrix = ConfusionMatrix(11)
    matrix.add(prediction.astype(dtype), truth.astype(dtype))
    valid = truth != 255
    t, p = truth[valid], prediction[valid]
    np.testing.assert_array_equal(matrix.counts, confusion_matrix(t, p, labels=range(11)))
    expected = jaccard_score(t, p, labels=range(11), average=None)
    np.testing.assert_allclose(matrix.iou(), expected, rtol=0, atol=1e-12)
    assert matrix.iou()[6] == 0
    theirs = MulticlassJaccardIndex(11, ignore_index=255, average=None)
    tensors = (torch.from_numpy(x.astype(np.int64)) for x in (prediction, truth))
    np.testing.assert_allclose(matrix.iou(), theirs(*tensors).numpy(), rtol=0, atol=1e-6)
    tensors = (torch.from_numpy(x.astype(np.int64)) for x in (prediction, truth))
    micro = MulticlassAccuracy(11, ignore_index=255, average="micro")(*tensors)
    assert matrix.pixel_accuracy() == pytest.approx(float(micro), abs=1e-6)
    recalls = [(p[t == c] == c).mean() for c in range(11) if c != 6]
    assert matrix.mean_accuracy() == pytest.approx(np.mean(recalls), abs=1e-12)
    assert math.isnan(matrix.accuracy()[6])


def test_by_hand() -> None:
    matrix = ConfusionMatrix(4, ignore_index=9)
    matrix.add(np.array([[0, 0, 1], [1, 1, 3]]), np.array([[0, 1, 1], [1, 9, 0]]))
    np.testing.assert_array_equal(
        matrix.counts, [[1, 0, 0, 1], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(matrix.iou(), [1 / 3, 2 / 3, np.nan, 0])
    assert matrix.mean_iou() == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)
    assert matrix.pixel_accuracy() == 3 / 5
    assert matrix.mean_accuracy() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_all_void_and_nothing_at_all_have_no_score() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(np.zeros((4, 5), np.uint8), np.full((4, 5), 255, np.uint8))
    matrix.add(np.zeros((0, 5), np.uint8), np.zeros((0, 5), np.uint8))
    assert matrix.counts.sum() == 0
    for score in (matrix.mean_iou(), matrix.mean_accuracy(), matrix.pixel_accuracy()):
        assert math.isnan(score)


def test_a_void_image_changes_no_score() -> None:
    matrix = ConfusionMatrix(5)
    matrix.add(*pair(1, 5))
    before = matrix.mean_iou(), matrix.pixel_accuracy()
    matrix.add(np.full((6, 6), 200, np.uint8), np.full((6, 6), 255, np.uint8))
    assert (matrix.mean_iou(), matrix.pixel_accuracy()) == before


def test_parts_add_up_to_the_whole_however_they_are_cut(monkeypatch) -> None:
    monkeypatch.setattr(confusion, "BLOCK_PIXELS", 100)
    images = [pair(seed, 7) for seed in range(6)]
    whole = ConfusionMatrix(7)
    for image in images:
        whole.add(*image)
    for cut in range(1, 6):
        parts = [ConfusionMatrix(7), ConfusionMatrix(7)]
        for i, image in enumerate(images):
            parts[i >= cut].add(*image)
        np.testing.assert_array_equal((parts[0] + parts[1]).counts, whole.counts)
        assert sum_of(parts).mean_iou() == whole.mean_iou()


def test_counts_stay_exact_beyond_float32() -> None:
    matrix = ConfusionMatrix(2)
    pixels = np.zeros((4097, 4099), np.uint8)  # more than 2^24
    for _ in range(2):
        matrix.add(pixels, pixels)
    matrix.counts[0, 0] += 2**53
    matrix.add(pixels[:1, :1], pixels[:1, :1])
    assert int(matrix.counts[0, 0]) == 2 * 4097 * 4099 + 2**53 + 1


def test_inputs_are_left_alone_and_may_be_views() -> None:
    prediction, truth = pair(5, 6)
    copies = prediction.copy(), truth.copy()
    flipped, plain = ConfusionMatrix(6), ConfusionMatrix(6)
    flipped.add(prediction[::-1, ::2], truth[::-1, ::2])
    plain.add(prediction[:, ::2].copy(), truth[:, ::2].copy())
    np.testing.assert_array_equal(flipped.counts, plain.counts)
    np.testing.assert_array_equal((prediction, truth), copies)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2), int), "prediction must hold integer labels"),
        (np.zeros((2, 2), int), np.zeros((2, 3), int), r"\(2, 2\) but the truth is \(2, 3\)"),
        (np.full((2, 2), 3), np.zeros((2, 2), int), "prediction holds label 3"),
        (np.zeros((2, 2), int), np.full((2, 2), 3), "truth holds label 3"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), "truth holds label -1"),
    ],
)
def test_what_is_no_label_map_is_refused_and_not_counted(prediction, truth, message) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(InputError, match=message):
        matrix.add(prediction, truth)
    assert matrix.counts.sum() == 0


def test_matrices_of_other_classes_do_not_add() -> None:
    with pytest.raises(InputError, match=r"3 classes .* of 4"):
        ConfusionMatrix(3) + ConfusionMatrix(4)
    with pytest.raises(InputError, match="no confusion matrix"):
        sum_of([])
    with pytest.raises(InputError, match="num_classes"):
        ConfusionMatrix(0)
