from __future__ import annotations

import json
import math

import numpy as np
import pytest

from crispseg.evaluation.run import choose
from crispseg.evaluation.scores import MEASURES, Row, Scores, score_masks, summarise
from crispseg.metrics.boundary import (
    boundary_iou,
    intersection_over_union,
    mean_boundary_accuracy,
)
from crispseg.types import InputError


def test_scores_are_those_of_the_metrics() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:300, :400]
    truth = np.hypot(y - 150, x - 200) < 90
    masks = [np.roll(truth, 4, axis=1), truth ^ (rng.random(truth.shape) > 0.98), truth]
    for mask, scores in zip(masks, score_masks(masks, truth), strict=True):
        assert scores.iou == intersection_over_union(mask, truth)
        assert scores.mba_released == mean_boundary_accuracy(mask, truth, "released")
        assert scores.mba_paper == mean_boundary_accuracy(mask, truth, "paper")
        assert scores.boundary_iou == boundary_iou(mask, truth)
        assert scores.intersection == (mask & truth).sum()
        assert scores.union == (mask | truth).sum()
    with pytest.raises(InputError, match="of one size"):
        score_masks([truth[:1]], truth)


def row(name: str, before: tuple[int, int], after: tuple[int, int], mba: float = 0.5) -> Row:
    """A row with these (intersection, union)."""
    scores = [
        Scores(
            iou=i / u if u else 1.0,
            mba_released=mba,
            mba_paper=mba / 2,
            boundary_iou=0.25,
            intersection=i,
            union=u,
        )
        for i, u in (before, after)
    ]
    return Row(name, 10, 20, 30, *scores, seconds=1.5)


def test_summary_by_hand() -> None:
    rows = [
        row("a", (1, 2), (3, 4), mba=0.8),
        row("b", (30, 40), (20, 40), mba=0.6),
        row("c", (99, 100), (98, 100), mba=math.nan),  # a hundredth worse is not more than that
        row("d", (0, 0), (0, 0), mba=math.nan),
        row("e", (60, 100), (58, 100), mba=0.7),
    ]
    summary = summarise(rows)
    assert summary["images"] == 5
    assert summary["truths_without_edge"] == 2
    assert summary["before"]["iou"] == pytest.approx((0.5 + 0.75 + 0.99 + 1 + 0.6) / 5)
    assert summary["after"]["iou"] == pytest.approx((0.75 + 0.5 + 0.98 + 1 + 0.58) / 5)
    assert summary["before"]["iou_of_all_pixels"] == pytest.approx(190 / 242)
    assert summary["after"]["iou_of_all_pixels"] == pytest.approx(179 / 244)
    assert summary["before"]["mba_released"] == pytest.approx(0.7)
    assert summary["before"]["mba_paper"] == pytest.approx(0.35)
    for key in (*MEASURES, "iou_of_all_pixels"):
        difference = summary["after"][key] - summary["before"][key]
        assert summary["change"][key] == pytest.approx(difference)
    assert summary["worse"] == ["b", "e"]  # the worst first
    assert summary["seconds"] == 7.5


def test_nothing_to_measure_near_edges_is_null_not_nan() -> None:
    rows = [row("a", (0, 0), (0, 5), mba=math.nan)]
    text = json.dumps([summarise(rows), rows[0].as_json()], allow_nan=False)
    summary, values = json.loads(text)
    assert summary["before"]["mba_paper"] is summary["change"]["mba_released"] is None
    assert values["before"]["mba_released"] is None
    again = Row.from_json(values)
    assert math.isnan(again.before.mba_released)
    assert again.as_json() == values


def test_best_median_and_worst_are_shown_once_each() -> None:
    rows = [row(name, (50, 100), (i, 100)) for name, i in zip("abcde", (60, 40, 50, 80, 55))]  # noqa: B905
    assert [(which, r.name) for which, r in choose(rows)] == [
        ("best", "d"),
        ("median", "e"),
        ("worst", "b"),
    ]
    assert [(which, r.name) for which, r in choose(rows[:2])] == [("best", "a"), ("worst", "b")]
    assert [(which, r.name) for which, r in choose(rows[:1])] == [("only image", "a")]
