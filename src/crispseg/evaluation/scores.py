"""The figures of one image, and of all: every number that ``crispseg evaluate`` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.metrics.bands import count_bands
from crispseg.metrics.boundary import (
    boundary_iou,
    boundary_radii,
    intersection_and_union,
)

MEASURES = ("iou", "mba_released", "mba_paper", "boundary_iou")
WORSE_BY = 0.01
"""An image is counted as made worse if its IoU falls by more than this."""


@dataclass(frozen=True)
class Scores:
    """A mask against the truth; shares from 0 to 1.

    Attributes:
        iou: of the whole mask; 1 if mask and truth are empty.
        mba_released: mean boundary accuracy, radii of CascadePSP's released code; NaN if the truth
            has no edge.
        mba_paper: the same with the radii of the paper.
        boundary_iou: 1 if mask and truth are empty.
        intersection: pixels that are object in both.
        union: pixels that are object in either.
    """

    iou: float
    mba_released: float
    mba_paper: float
    boundary_iou: float
    intersection: int
    union: int


@dataclass(frozen=True)
class Row:
    """One image: what its coarse mask was worth, and what the refined one is.

    Attributes:
        name: of the image, see ``cases.find_cases``.
        height: of the truth, in pixels.
        width: of the truth, in pixels.
        truth_pixels: how many of them are object.
        before: of the coarse mask.
        after: of the refined mask.
        seconds: that refining took; 0 if the refined mask was given.
    """

    name: str
    height: int
    width: int
    truth_pixels: int
    before: Scores
    after: Scores
    seconds: float

    @property
    def iou_change(self) -> float:
        """IoU after minus before."""
        return self.after.iou - self.before.iou

    def as_json(self) -> dict[str, Any]:
        """As plain values; NaN, which JSON does not have, becomes None."""
        return {
            key: _without_nan(value) if isinstance(value, dict) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """The inverse of ``as_json``."""
        plain = dict(values)
        for key in ("before", "after"):
            scores: dict[str, Any] = {
                k: math.nan if v is None else v for k, v in plain[key].items()
            }
            plain[key] = Scores(**scores)
        return cls(**plain)


def score_masks(masks: Sequence[NDArray[np.bool_]], truth: NDArray[np.bool_]) -> list[Scores]:
    """Scores of several masks of one image; what belongs to the truth is made once.

    Args:
        masks: (H, W) bool each.
        truth: (H, W) bool.

    Raises:
        InputError: a mask of another size or dtype.
    """
    overlaps = [intersection_and_union(mask, truth) for mask in masks]
    height, width = truth.shape
    released = boundary_radii(height, width, "released")
    paper = boundary_radii(height, width, "paper")
    shares = count_bands(masks, truth, [*released, *paper]).shares()
    return [
        Scores(
            iou=intersection / union if union else 1.0,
            mba_released=float(np.mean(shares[i, : len(released)])),
            mba_paper=float(np.mean(shares[i, len(released) :])),
            boundary_iou=boundary_iou(masks[i], truth),
            intersection=intersection,
            union=union,
        )
        for i, (intersection, union) in enumerate(overlaps)
    ]


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of all images.

    Returns:
        images: how many; truths_without_edge: images that mBA does not count; before, after and
        change: ``MEASURES`` as means over images (None where nothing can be measured), and
        iou_of_all_pixels: the sum of intersections over the sum of unions; worse: names of the
        images whose IoU fell by more than one point, worst first; seconds: spent refining.
    """
    before = _means([row.before for row in rows])
    after = _means([row.after for row in rows])
    change = {key: after[key] - before[key] for key in before}
    worse = [row for row in rows if round(row.iou_change, 9) < -WORSE_BY]
    worse.sort(key=lambda row: row.iou_change)
    return {
        "images": len(rows),
        "truths_without_edge": sum(math.isnan(row.before.mba_released) for row in rows),
        "before": _without_nan(before),
        "after": _without_nan(after),
        "change": _without_nan(change),
        "worse": [row.name for row in worse],
        "seconds": round(sum(row.seconds for row in rows), 2),
    }


def _means(scores: Sequence[Scores]) -> dict[str, float]:
    means = {}
    for measure in MEASURES:
        values = [getattr(one, measure) for one in scores]
        measured = [value for value in values if not math.isnan(value)]
        means[measure] = sum(measured) / len(measured) if measured else math.nan
    union = sum(one.union for one in scores)
    intersection = sum(one.intersection for one in scores)
    means["iou_of_all_pixels"] = intersection / union if union else 1.0
    return means


def _without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else value for key, value in values.items()}
