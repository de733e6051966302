"""Two runs over the same images: is the difference more than chance?

Images are what varies, so images are what is drawn. The interval is the percentile bootstrap
(Efron and Tibshirani, 1993, chapter 13) of the difference; the test is the paired permutation test:
if both runs were alike, which of them an image's result came from would not matter, so results are
swapped image by image. Both work on the figure as it is reported, also on the mean IoU of all
pixels together, which is no mean over images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.types import InputError

Floats = NDArray[np.float64]
ROUNDS = 10_000
CHUNK = 1 << 22  # numbers drawn at a time
LEVEL = 0.95


@dataclass(frozen=True)
class Parts:
    """A figure as sums over images: the mean over columns of sum(share) / sum(whole).

    Mean IoU has a column for each class, intersections over unions; a mean over images has one
    column whose whole is 1, or 0 for an image that has no value.

    Attributes:
        share: (images, columns) float64.
        whole: (images, columns) float64.
    """

    share: Floats
    whole: Floats

    def value(self) -> float:
        """The figure; NaN if every column is empty."""
        return float(self.weighted(np.ones((1, len(self.share))))[0])

    def weighted(self, weights: Floats) -> Floats:
        """(rounds,) the figure where image i counts ``weights[round, i]`` times."""
        return _figure(weights @ self.share, weights @ self.whole)


@dataclass(frozen=True)
class Difference:
    """One figure of two runs.

    Attributes:
        first: of the first run.
        second: of the second run.
        low: lower end of the interval of second - first, at ``LEVEL``.
        high: its upper end.
        p_value: how often chance alone makes a difference as large, either way.
        images: how many.
    """

    first: float
    second: float
    low: float
    high: float
    p_value: float
    images: int

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


def compare(
    first: Parts, second: Parts, rng: np.random.Generator, rounds: int = ROUNDS
) -> Difference:
    """Interval and test of second - first.

    Args:
        first: a figure of one run.
        second: the same of another, over the same images in the same order.
        rng: draws images and swaps.
        rounds: how many of each. If there are no more ways to swap than this, all are tried and
            the test is exact.

    Raises:
        InputError: other images, or none.
    """
    if first.share.shape != second.share.shape or not len(first.share):
        raise InputError(f"cannot pair {len(first.share)} images with {len(second.share)}")
    count = len(first.share)
    drawn = []
    for _, size in chunks(rounds, count):
        weights = rng.multinomial(count, np.full(count, 1 / count), size).astype(np.float64)
        drawn.append(second.weighted(weights) - first.weighted(weights))
    values = np.concatenate(drawn)
    values = values[~np.isnan(values)]
    edges = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(values, edges) if len(values) else (math.nan, math.nan)
    p_value = _permutation(first, second, rng, rounds)
    return Difference(first.value(), second.value(), float(low), float(high), p_value, count)


def _permutation(first: Parts, second: Parts, rng: np.random.Generator, rounds: int) -> float:
    count = len(first.share)
    observed = abs(second.value() - first.value())
    if math.isnan(observed):
        return math.nan
    exact = count < 63 and 2**count <= rounds
    total = 2**count if exact else rounds
    as_large = 0
    for start, size in chunks(total, count):
        if exact:
            numbers = np.arange(start, start + size)[:, None]
            swapped = (numbers >> np.arange(count) & 1).astype(np.float64)
        else:
            swapped = rng.integers(0, 2, (size, count)).astype(np.float64)
        stay = 1 - swapped
        one = _figure(
            stay @ first.share + swapped @ second.share, stay @ first.whole + swapped @ second.whole
        )
        other = _figure(
            stay @ second.share + swapped @ first.share, stay @ second.whole + swapped @ first.whole
        )
        as_large += int((np.abs(other - one) >= observed - 1e-12).sum())
    # the arrangement that was found is one of all those that could have been drawn
    return as_large / total if exact else (as_large + 1) / (total + 1)


def _figure(share: Floats, whole: Floats) -> Floats:
    ratios = np.full(share.shape, np.nan)
    np.divide(share, whole, out=ratios, where=whole > 0)
    there = whole > 0
    count = there.sum(axis=1)
    sums = np.where(there, ratios, 0).sum(axis=1)
    out = np.full(len(share), np.nan)
    np.divide(sums, count, out=out, where=count > 0)
    return out


def chunks(rounds: int, count: int) -> list[tuple[int, int]]:
    """(start, size) of pieces of ``rounds`` that need ``CHUNK`` numbers at most."""
    size = max(1, CHUNK // max(count, 1))
    return [(start, min(size, rounds - start)) for start in range(0, rounds, size)]


def parts_of(
    report: Mapping[str, Any], names: Sequence[str], when: str = "after"
) -> dict[str, Parts]:
    """Figures of a results.json, for the images named.

    Args:
        report: of masks or of label maps.
        names: of images that it has.
        when: "before" or "after"; masks only.
    """
    by_name = {row["name"]: row for row in report["rows"]}
    rows = [by_name[name] for name in names]
    if report.get("kind") != "labels":
        scores = [row[when] for row in rows]
        keys = ("iou", "mba_released", "mba_paper", "boundary_iou")
        found = {key: _means([score[key] for score in scores]) for key in keys}
        found["iou_of_all_pixels"] = _ratio(scores, "intersection", "union")
        return found
    classes = len(report["classes"])
    share, whole, true = np.zeros((3, len(rows), classes))
    for number, row in enumerate(rows):
        for label, counts in row["counts"].items():
            share[number, int(label)], whole[number, int(label)], true[number, int(label)] = counts
    found = {"mean_iou": Parts(share, whole), "pixel_accuracy": _ratio(rows, "right", "pixels")}
    found["mean_accuracy"] = Parts(share, true)
    every = (values.sum(axis=1, keepdims=True) for values in (share, whole))
    found["iou_of_all_pixels"] = Parts(*every)
    found["image_iou"] = _means([row["mean_iou"] for row in rows])
    for key in ("mba_released", "mba_paper"):
        found[key] = _means([row[key] for row in rows])
    return found


def _means(values: Sequence[float | None]) -> Parts:
    there = np.array([[value is not None] for value in values], np.float64)
    return Parts(np.array([[value or 0.0] for value in values]), there)


def _ratio(rows: Sequence[Mapping[str, Any]], share: str, whole: str) -> Parts:
    return Parts(
        np.array([[row[share]] for row in rows], np.float64),
        np.array([[row[whole]] for row in rows], np.float64),
    )


def compare_reports(
    first: Mapping[str, Any], second: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, Difference]:
    """Every figure of two results.json over the images that both have; of masks, the refined.

    Raises:
        InputError: of different kinds or classes, or no image in both.
    """
    kinds = [(report.get("kind", "masks"), report.get("classes")) for report in (first, second)]
    if kinds[0] != kinds[1]:
        raise InputError("the results are of different kinds or classes; they cannot be compared")
    names = sorted({row["name"] for row in first["rows"]} & {row["name"] for row in second["rows"]})
    if not names:
        raise InputError("the results have no image in common")
    one, other = parts_of(first, names), parts_of(second, names)
    return {key: compare(one[key], other[key], rng) for key in one}


def compare_before_after(
    report: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, Difference]:
    """Every figure of one results.json, before and after refinement.

    Raises:
        InputError: of label maps that nothing refined.
    """
    if report.get("kind") == "labels":
        if "before" not in report:
            raise InputError("these label maps were not refined: there is nothing before")
        return compare_reports({**report, "rows": report["before"]["rows"]}, report, rng)
    names = sorted(row["name"] for row in report["rows"])
    one, other = (parts_of(report, names, when) for when in ("before", "after"))
    return {key: compare(one[key], other[key], rng) for key in one}
