"""IoU in bands and image by image, against loops and scikit-learn; parts that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from crispseg.metrics.bands import boundary_band
from crispseg.metrics.boundary import intersection_over_union
from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.metrics.images import ImageCounts
from crispseg.metrics.trimap import TrimapMatrices, trimap_iou
from crispseg.types import InputError

VOID = 255
RADII = (1, 3, 6)


def pair(seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, classes, (4, 5)), np.ones((12, 11), int)).astype(np.uint8)
    prediction = np.roll(truth, rng.integers(-4, 5, 2), (0, 1))
    truth[rng.random(truth.shape) < 0.05] = VOID
    return prediction, truth


def test_trimap_iou_equals_scikit_learn_within_the_band() -> None:
    images = [pair(seed) for seed in range(3)]
    trimap = TrimapMatrices(4, RADII)
    for image in images:
        trimap.add(*image)
    for radius in RADII:
        keep = [boundary_band(t, radius) & (t != VOID) for _, t in images]
        p = np.concatenate([image[0][k] for image, k in zip(images, keep, strict=True)])
        t = np.concatenate([image[1][k] for image, k in zip(images, keep, strict=True)])
        expected = jaccard_score(t, p, labels=range(4), average="macro")
        assert trimap.mean_iou()[radius] == pytest.approx(expected, abs=1e-12)
        assert trimap.accuracy()[radius] == pytest.approx((p == t).mean(), abs=1e-12)


def test_trimap_parts_add_up() -> None:
    images = [pair(seed) for seed in range(4)]
    parts = [TrimapMatrices(4, RADII) for _ in range(3)]
    for i, image in enumerate(images):
        parts[0].add(*image)
        parts[1 + i % 2].add(*image)
    assert (parts[2] + parts[1]).mean_iou() == parts[0].mean_iou()


def test_trimaps_that_were_added_keep_their_void() -> None:
    one, other = (TrimapMatrices(4, RADII, ignore_index=7) for _ in range(2))
    both = one + other
    assert both.ignore_index == 7
    with pytest.raises(InputError, match="void"):
        both + TrimapMatrices(4, RADII)


def test_trimap_iou_of_masks() -> None:
    prediction, truth = (labels == 1 for labels in pair(5))
    band = boundary_band(truth, 3)
    expected = jaccard_score(truth[band], prediction[band])
    assert trimap_iou(prediction, truth, 3) == pytest.approx(expected, abs=1e-12)
    nothing = np.zeros_like(truth)
    assert trimap_iou(nothing, nothing, 3) == 1.0


def test_an_image_without_edges_counts_nowhere() -> None:
    trimap = TrimapMatrices(4, RADII)
    for number in (2, VOID):
        trimap.add(np.zeros((9, 9), np.uint8), np.full((9, 9), number, np.uint8))
    assert all(math.isnan(score) for score in trimap.mean_iou().values())


def test_image_ious_equal_scikit_learn() -> None:
    images = {f"{9 - seed}": pair(seed) for seed in range(5)}
    counts = ImageCounts(4)
    for name, image in images.items():
        matrix = ConfusionMatrix(4)
        matrix.add(*image)
        counts.add_matrix(name, matrix)
    assert counts.names == sorted(images)
    rows = []
    for name in sorted(images):
        prediction, truth = images[name]
        valid = truth != VOID
        p, t = prediction[valid], truth[valid]
        there = np.isin(range(4), np.concatenate([p, t]))
        iou = jaccard_score(t, p, labels=range(4), average=None, zero_division=0)
        rows.append(np.where(there, iou, np.nan))
    np.testing.assert_allclose(counts.table(), rows, rtol=0, atol=1e-12)
    np.testing.assert_allclose(counts.image_iou(), np.nanmean(rows, axis=1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(counts.class_iou(), np.nanmean(rows, axis=0), rtol=0, atol=1e-12)
    quantiles = np.quantile(np.nanmean(rows, axis=1), [0, 0.5, 1])
    np.testing.assert_allclose(counts.quantiles([0, 0.5, 1]), quantiles, rtol=0, atol=1e-12)


def test_a_class_that_is_missed_altogether_has_0_and_one_that_is_nowhere_nothing() -> None:
    counts = ImageCounts(3)
    counts.add("a", [0, 4, 0], [5, 8, 0])
    np.testing.assert_array_equal(counts.table(), [[0, 0.5, np.nan]])
    assert counts.image_iou().tolist() == [0.25]


def test_the_iou_of_all_pixels_is_that_of_one_large_image() -> None:
    masks = [tuple(labels == 2 for labels in pair(seed)) for seed in range(4)]
    counts = ImageCounts(1)
    for i, (mask, truth) in enumerate(masks):
        counts.add(str(i), [int((mask & truth).sum())], [int((mask | truth).sum())])
    large = [np.concatenate(side) for side in zip(*masks, strict=True)]
    assert counts.iou_of_all_pixels() == intersection_over_union(*large)


def test_image_parts_add_up_in_any_order() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 1000, (20, 3))
    whole = ImageCounts(3)
    for i, row in enumerate(numbers):
        whole.add(f"{i:02}", row, row + 7)
    for order in (rng.permutation(20), range(19, -1, -1)):
        parts = [ImageCounts(3), ImageCounts(3), ImageCounts(3)]
        for place, i in enumerate(order):
            parts[place % 3].add(f"{i:02}", numbers[i], numbers[i] + 7)
        both = parts[2] + parts[0] + parts[1]
        np.testing.assert_array_equal(both.image_iou(), whole.image_iou())
        np.testing.assert_array_equal(both.class_iou(), whole.class_iou())
        np.testing.assert_array_equal(both.quantiles(), whole.quantiles())
        assert both.iou_of_all_pixels() == whole.iou_of_all_pixels()


def test_nothing_has_no_distribution() -> None:
    counts = ImageCounts(2)
    assert np.isnan(counts.quantiles()).all()
    assert counts.iou_of_all_pixels() == 1.0
    counts.add("void", [0, 0], [0, 0])
    assert np.isnan(counts.image_iou()).all()
    assert np.isnan(counts.class_iou()).all()
    with pytest.raises(InputError, match="counted before"):
        counts.add("void", [0, 0], [0, 0])
    with pytest.raises(InputError, match="3 classes, not 2"):
        counts.add("other", [0, 0, 0], [1, 1, 1])
