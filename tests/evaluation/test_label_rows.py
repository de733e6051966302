"""Rows of label maps: what stands in them is what the metrics say one by one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from crispseg.data.datasets.base import Dataset
from crispseg.evaluation.labels import (
    LabelSums,
    group_numbers,
    label_report,
    mean_of,
    score_labels,
    summarise_labels,
)
from crispseg.metrics.boundary import mean_boundary_accuracy_of_labels
from crispseg.types import InputError


def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(0, 4, (5, 6)), np.ones((40, 50), int)).astype(np.uint8)
    prediction = np.roll(truth, (2, 3), (0, 1))
    truth[:20] = 255
    return prediction, truth


def test_a_row_has_what_the_metrics_say() -> None:
    prediction, truth = pair()
    row, matrix = score_labels("a", prediction, truth, 6, seconds=2.5)
    assert (row.height, row.width, row.pixels, row.seconds) == (200, 300, 180 * 300, 2.5)
    assert row.mba_released == mean_boundary_accuracy_of_labels(prediction, truth)
    assert row.mba_paper == mean_boundary_accuracy_of_labels(prediction, truth, "paper")
    assert row.mean_iou == pytest.approx(matrix.mean_iou(), abs=1e-12)
    assert row.accuracy == matrix.pixel_accuracy()
    assert sorted(row.counts) == [0, 1, 2, 3]  # 4 and 5 are nowhere
    valid = truth != 255
    for number, (inter, union, true) in row.counts.items():
        p, t = (labels[valid] == number for labels in (prediction, truth))
        assert (inter, union, true) == ((p & t).sum(), (p | t).sum(), t.sum())


def test_all_void_is_no_number_in_json() -> None:
    row, _ = score_labels("a", np.zeros((4, 5), np.uint8), np.full((4, 5), 255, np.uint8), 3)
    values = json.loads(json.dumps(row.as_json(), allow_nan=False))
    assert values["mean_iou"] is values["accuracy"] is values["mba_released"] is None
    assert values["counts"] == {}
    dataset = Dataset("x", tuple("abc"), ((0, 0, 0),) * 3, [])
    sums = LabelSums(dataset, None)
    sums.add("a", np.zeros((4, 5), np.uint8), np.full((4, 5), 255, np.uint8), None, 0.0)
    summary = summarise_labels(sums.scores(), dataset)
    for figure in ("mean_iou", "iou_of_all_pixels", "image_iou", "pixel_accuracy", "mba_paper"):
        assert summary[figure] is None


def test_the_confusion_matrix_of_very_many_classes_is_written_as_pairs() -> None:
    for classes in (255, 3688):
        names = tuple(f"object {number}" for number in range(classes))
        dataset = Dataset("x", names, ((0, 0, 0),) * classes, [], ignore_index=65535)
        sums = LabelSums(dataset, None)
        prediction = np.array([[0, 7, 7], [254, 7, 3]], np.uint16)
        truth = np.array([[0, 7, 9], [254, 7, 65535]], np.uint16)
        sums.add("a", prediction, truth, None, 0.0)
        report = label_report(sums.scores(), dataset, {}, {})
        pairs = [[0, 0, 1], [7, 7, 2], [9, 7, 1], [254, 254, 1]]
        if classes > 255:
            assert report["confusion_pairs"] == pairs
            assert "confusion" not in report
        else:
            assert np.sum(report["confusion"]) == 5
            assert all(report["confusion"][true][given] == count for true, given, count in pairs)


def test_errors_name_the_image() -> None:
    prediction, truth = pair()
    with pytest.raises(InputError, match=r"^street: the truth holds label 3"):
        score_labels("street", np.minimum(prediction, 2), truth, 3)


def test_helpers() -> None:
    assert group_numbers(["flat", "sky", "flat", "human"]) == [0, 1, 0, 2]
    assert mean_of([math.nan, 0.25, 0.75]) == 0.5
    assert math.isnan(mean_of([math.nan]))
