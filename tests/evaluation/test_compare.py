"""Intervals and tests against SciPy where both can answer, and against what must be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crispseg.evaluation import compare as module
from crispseg.evaluation.compare import Parts, compare, compare_reports, parts_of
from crispseg.types import InputError

scipy_stats = pytest.importorskip("scipy.stats")


def means(values: np.ndarray) -> Parts:
    return Parts(values[:, None], np.ones((len(values), 1)))


def draws(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_test_is_that_of_scipy(seed) -> None:
    rng = draws(seed)
    first, second = rng.normal(0, 1, (2, 10))
    expected = scipy_stats.permutation_test(
        (first, second),
        lambda x, y: np.mean(y) - np.mean(x),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    found = compare(means(first), means(second), draws())  # 2^10 ways to swap: all are tried
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.difference == pytest.approx(expected.statistic, abs=1e-12)


def test_drawn_swaps_come_near_the_exact_test() -> None:
    rng = draws(5)
    first = rng.normal(0, 1, 13)
    second = first + rng.normal(0.25, 0.5, 13)
    exact = compare(means(first), means(second), draws(), rounds=2**13).p_value
    drawn = compare(means(first), means(second), draws(), rounds=2**13 - 1).p_value
    # 8,191 draws: a standard error of 0.0055 at most
    assert drawn == pytest.approx(exact, abs=0.02)


def test_the_interval_is_that_of_scipys_percentile_bootstrap() -> None:
    rng = draws(2)
    first = rng.normal(0.7, 0.1, 60)
    second = first + rng.normal(0.01, 0.05, 60)
    theirs = scipy_stats.bootstrap(
        (first, second),
        lambda x, y, axis: y.mean(axis) - x.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=draws(3),
    ).confidence_interval
    found = compare(means(first), means(second), draws(), rounds=20_000)
    # ends of an interval of width 0.026, drawn twice
    assert found.low == pytest.approx(theirs.low, abs=0.001)
    assert found.high == pytest.approx(theirs.high, abs=0.001)


def test_noise_is_seldom_significant_and_an_effect_often() -> None:
    rng = draws(0)
    noise, effect = [], []
    for _ in range(200):
        first, second = rng.normal(0, 1, (2, 20))
        noise.append(compare(means(first), means(second), rng, rounds=300).p_value < 0.05)
        effect.append(compare(means(first), means(second + 1.5), rng, rounds=300).p_value < 0.05)
    assert 0.01 < np.mean(noise) < 0.1
    assert np.mean(effect) > 0.95


def test_the_mean_iou_of_all_pixels_is_swapped_image_by_image() -> None:
    rng = draws(7)
    share = rng.integers(0, 50, (2, 6, 3)).astype(float)
    whole = share + rng.integers(0, 50, (2, 6, 3))
    whole[:, :, 2] = share[:, :, 2] = 0  # a class that is nowhere
    one, other = (Parts(s, w) for s, w in zip(share, whole, strict=True))

    def figure(s: np.ndarray, w: np.ndarray) -> float:
        return float(np.mean(s.sum(0)[:2] / w.sum(0)[:2]))

    observed = abs(figure(share[1], whole[1]) - figure(share[0], whole[0]))
    count = 0
    for bits in range(2**6):
        pick = np.array([bits >> i & 1 for i in range(6)])
        a = figure(share[pick, range(6)], whole[pick, range(6)])
        b = figure(share[1 - pick, range(6)], whole[1 - pick, range(6)])
        count += abs(b - a) >= observed - 1e-12
    assert compare(one, other, draws()).p_value == count / 2**6
    assert one.value() == pytest.approx(figure(share[0], whole[0]), abs=1e-12)


def test_two_equal_runs_do_not_differ() -> None:
    values = means(np.linspace(0, 1, 9))
    found = compare(values, values, draws())
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_pieces_that_fit_the_memory_change_nothing(monkeypatch) -> None:
    rng = draws(4)
    first, second = (means(values) for values in rng.normal(0, 1, (2, 11)))
    whole = compare(first, second, draws())
    monkeypatch.setattr(module, "CHUNK", 100)
    assert compare(first, second, draws()).p_value == whole.p_value


def report(seed: int, names: str = "abcde", classes: tuple[str, ...] = ("x", "y")) -> dict:
    rng = draws(seed)
    rows = []
    for name in names:
        inter = rng.integers(1, 50, len(classes))
        union = inter + rng.integers(0, 50, len(classes))
        counts = {str(c): [int(inter[c]), int(union[c]), 60] for c in range(len(classes))}
        row = {"name": name, "counts": counts, "right": int(inter.sum()), "pixels": 120}
        row |= {"mean_iou": float(np.mean(inter / union)), "mba_released": 0.5, "mba_paper": None}
        rows.append(row)
    return {"kind": "labels", "classes": list(classes), "rows": rows}


def test_reports_are_compared_over_the_images_of_both() -> None:
    found = compare_reports(report(0), report(1, "edcbf"), draws())
    assert found["mean_iou"].images == 4
    assert found["mba_released"].difference == 0
    assert math.isnan(found["mba_paper"].p_value)
    rows = {row["name"]: row for row in report(0)["rows"]}
    table = np.array([[rows[n]["counts"][c] for c in "01"] for n in "bcde"]).sum(axis=0)
    expected = np.mean(table[:, 0] / table[:, 1])
    assert found["mean_iou"].first == pytest.approx(expected, abs=1e-12)
    assert parts_of(report(0), ["a"])["image_iou"].value() == rows["a"]["mean_iou"]


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(InputError, match="no image in common"):
        compare_reports(report(0), report(0, "xyz"), draws())
    with pytest.raises(InputError, match="different kinds or classes"):
        compare_reports(report(0), report(0, classes=("x", "z")), draws())
    with pytest.raises(InputError, match="cannot pair 3 images with 2"):
        compare(means(np.zeros(3)), means(np.zeros(2)), draws())


def test_an_effect_without_noise_is_as_sure_as_can_be() -> None:
    first = means(np.linspace(0.2, 0.8, 12))
    second = Parts(first.share + 0.25, first.whole)  # every image gains the same
    found = compare(first, second, draws())
    assert found.low == pytest.approx(0.25, abs=1e-12)
    assert found.high == pytest.approx(0.25, abs=1e-12)
    assert found.p_value == 2 / 2**12  # all swapped, or none


def test_images_without_a_score_count_nowhere() -> None:
    one, two = report(0), report(1)
    for rows in (one["rows"], two["rows"]):
        for row, value in zip(rows, (0.25, None, 0.5, None, 0.75), strict=True):
            row["mba_released"] = value
    two["rows"][0]["mba_released"] = 0.75
    found = compare_reports(one, two, draws())["mba_released"]
    assert found.first == pytest.approx(0.5, abs=1e-12)
    assert found.second == pytest.approx(2 / 3, abs=1e-12)
    assert found.p_value == 1  # one image of three differs: either way is as likely
    for row in two["rows"]:
        row["mba_released"] = None  # nothing to compare with
    found = compare_reports(one, two, draws())["mba_released"]
    assert math.isnan(found.second)
    assert math.isnan(found.p_value)
