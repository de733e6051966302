"""Categories and iIoU, against loops over instances as the benchmark describes them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crispseg.metrics.confusion import ConfusionMatrix, sum_of
from crispseg.metrics.instances import InstanceCounts, group_classes
from crispseg.types import InputError

GROUPS = (0, 0, 1, 1, 1, 2)
SIZES = {2: 40.5, 3: 12.25, 5: 100.0}
VOID = 255


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A prediction, its truth with void, and instances of classes 2, 3 and 5; some without."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 6, (6, 8))
    truth = np.kron(cells, np.ones((5, 7), int)).astype(np.uint8)
    numbers = np.where(np.isin(cells, (2, 3, 5)), 1 + np.arange(48).reshape(6, 8), 0)
    numbers[rng.random(numbers.shape) < 0.2] = 0  # a crowd without instances
    instances = np.kron(numbers, np.ones((5, 7), int))
    prediction = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
    noise = rng.random(truth.shape)
    prediction[noise < 0.1] = rng.integers(0, 6)
    truth[noise > 0.95] = VOID
    return prediction, truth, instances


def brute_force(images) -> tuple[list[float], list[float]]:
    """iIoU of classes and categories, instance by instance."""
    classes, categories = [], []
    for wanted, scores in ((range(6), classes), (range(3), categories)):
        for one in wanted:
            is_class = scores is classes
            members = [one] if is_class else [c for c in range(6) if GROUPS[c] == one]
            if not any(c in SIZES for c in members):
                scores.append(math.nan)
                continue
            tp = fn = fp = 0.0
            for prediction, truth, instances in images:
                for number in np.unique(instances[instances > 0]):
                    mask = (instances == number) & (truth != VOID)
                    if not mask.any() or truth[mask][0] not in members:
                        continue
                    label, size = int(truth[mask][0]), int(mask.sum())
                    hit = np.isin(prediction[mask], [label] if is_class else members).sum()
                    tp += hit * SIZES[label] / size
                    fn += (size - hit) * SIZES[label] / size
                wrong = np.isin(prediction, members) & ~np.isin(truth, members) & (truth != VOID)
                fp += wrong.sum()
            scores.append(tp / (tp + fn + fp))
    return classes, categories


def count(images) -> tuple[ConfusionMatrix, InstanceCounts]:
    matrix, instances = ConfusionMatrix(6), InstanceCounts(6, GROUPS)
    for image in images:
        matrix.add(*image[:2])
        instances.add(*image)
    return matrix, instances


@pytest.mark.parametrize("seed", range(3))
def test_iiou_equals_a_loop_over_instances(seed) -> None:
    images = [scene(10 * seed + i) for i in range(4)]
    matrix, instances = count(images)
    classes, categories = brute_force(images)
    np.testing.assert_allclose(instances.iou(matrix, SIZES), classes, rtol=0, atol=1e-12)
    np.testing.assert_allclose(instances.category_iou(matrix, SIZES), categories, 0, 1e-12)


def test_iiou_by_hand() -> None:
    truth = np.zeros((2, 10), np.uint8)
    instances = np.zeros((2, 10), np.int32)
    truth[0, :8], instances[0, :8] = 1, 1001  # 8 pixels, half of them found
    truth[1, :2], instances[1, :2] = 1, 1002  # 2 pixels, all found
    prediction = np.zeros_like(truth)
    prediction[0, :4] = prediction[1, :2] = 1
    prediction[1, 7:] = 1  # three false positives
    matrix, counts = ConfusionMatrix(2), InstanceCounts(2)
    matrix.add(prediction, truth)
    counts.add(prediction, truth, instances)
    # mean size 4: weights 1/2 and 2; iTP = 4/2 + 2*2 = 6, iFN = 4/2, FP = 3
    np.testing.assert_allclose(counts.iou(matrix, {1: 4.0}), [math.nan, 6 / 11], 0, 1e-12)
    assert matrix.iou()[1] == pytest.approx(6 / 13)


def test_categories_forgive_confusions_within() -> None:
    images = [scene(i) for i in range(3)]
    matrix, _ = count(images)
    direct = ConfusionMatrix(3)
    table = np.full(256, VOID, np.uint8)
    table[:6] = GROUPS
    for prediction, truth, _ in images:
        direct.add(table[prediction], table[truth])
    np.testing.assert_array_equal(group_classes(matrix, GROUPS).counts, direct.counts)


def test_parts_add_up_in_any_order() -> None:
    images = [scene(i) for i in range(5)]
    matrix, whole = count(images)
    for order in ([4, 2, 0, 1, 3], [1, 0, 3, 4, 2]):
        parts = [count([images[i]]) for i in order]
        both = parts[0][1]
        for _, part in parts[1:]:
            both = both + part
        total = sum_of([part for part, _ in parts])
        np.testing.assert_array_equal(both.iou(total, SIZES), whole.iou(matrix, SIZES))
        np.testing.assert_array_equal(
            both.category_iou(total, SIZES), whole.category_iou(matrix, SIZES)
        )


def test_nothing_to_find_has_no_score() -> None:
    matrix, counts = ConfusionMatrix(2), InstanceCounts(2)
    nothing = np.zeros((3, 3), np.uint8)
    counts.add(nothing, nothing, nothing)
    counts.add(nothing, np.full((3, 3), VOID), np.ones((3, 3), int))  # an instance of void
    matrix.add(nothing, nothing)
    assert counts.found == {}
    assert np.isnan(counts.iou(matrix, {1: 5.0})).all()
    prediction = np.ones((3, 3), np.uint8)
    matrix.add(prediction, nothing)  # predicted, but in no truth
    assert counts.iou(matrix, {1: 5.0})[1] == 0


def test_wrong_inputs_are_refused() -> None:
    truth = np.array([[0, 1]])
    with pytest.raises(InputError, match="more than one class"):
        InstanceCounts(2).add(truth, truth, np.ones((1, 2), int))
    with pytest.raises(InputError, match="one size"):
        InstanceCounts(2).add(truth, truth, np.ones((2, 2), int))
    with pytest.raises(InputError, match="not below"):
        InstanceCounts(2).add(truth + 1, truth, np.array([[1, 2]]))
    with pytest.raises(InputError, match="different classes"):
        InstanceCounts(2) + InstanceCounts(3)
    with pytest.raises(InputError, match="category each"):
        InstanceCounts(2, (0, 1, 1))
    with pytest.raises(InputError, match="category each"):
        group_classes(ConfusionMatrix(2), (0,))


def test_adding_leaves_the_parts_as_they_were() -> None:
    parts = [count([scene(seed)])[1] for seed in (1, 2)]
    before = [dict(part.found) for part in parts]
    both = parts[0] + parts[1]
    assert [part.found for part in parts] == before
    assert both.found != before[0]
