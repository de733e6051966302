"""Do probabilities mean what they say: expected calibration error, in parts that add up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crispseg.types import InputError

Kind = Literal["confidence", "probability"]

CHUNK = 2**22  # pixels at a time, so that float64 copies of large maps stay small
HIGH, LOW = 2**26, 2**27
"""A confidence is counted in parts of 1 / HIGH, and what is left in parts of 1 / (HIGH * LOW)."""


@dataclass
class CalibrationBins:
    """Counts from which the expected calibration error follows; add maps, merge, read.

    Bins are of equal width and half-open, [low, high), the last one closed.

    * "confidence": bins over max(p, 1 - p), from 0.5 to 1; a pixel is right if p > 0.5 is the
      truth. Guo et al. (ICML 2017) divide 0 to 1, of which two classes use one half; these bins
      are their bins halved, and the error is never smaller than theirs.
    * "probability": bins over p, from 0 to 1; a pixel is right if it is object. Tells a
      probability that is too high from one that is too low.

    Attributes:
        kind: as above.
        bins: how many.
        pixels: (bins,) int64, pixels in each bin.
        right: (bins,) int64, those of them that are right.
        high: (bins,) int64, sum of their confidence or probability in whole parts of 2**-26.
        low: (bins,) int64, sum of what those leave, in parts of 2**-53. Confidences, from 0.5 to 1,
            have no finer digits in float64, so that their sums are exact; probabilities are cut
            there. Integers add up to the same whatever the order.
    """

    kind: Kind = "confidence"
    bins: int = 15
    pixels: NDArray[np.int64] = field(init=False)
    right: NDArray[np.int64] = field(init=False)
    high: NDArray[np.int64] = field(init=False)
    low: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        if self.kind not in ("confidence", "probability"):
            raise InputError(f"kind must be confidence or probability, not {self.kind!r}")
        if self.bins < 1:
            raise InputError(f"bins must be 1 or more, not {self.bins}")
        self.pixels, self.right, self.high, self.low = np.zeros((4, self.bins), np.int64)

    def add(self, probability: NDArray[Any], truth: NDArray[np.bool_]) -> None:
        """Count the pixels of a map.

        Args:
            probability: float in [0, 1], any shape.
            truth: bool, of the same shape.

        Raises:
            InputError: shapes that differ, truth that is not bool, values out of [0, 1] or NaN.
        """
        if probability.shape != truth.shape or truth.dtype != np.bool_:
            raise InputError(
                f"truth must be bool of shape {probability.shape}, "
                f"not {truth.dtype} of shape {truth.shape}"
            )
        if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
            raise InputError("probabilities must lie in [0, 1]")  # NaN fails the test too
        values, labels = probability.reshape(-1), truth.reshape(-1)
        for start in range(0, values.size, CHUNK):
            part = slice(start, start + CHUNK)
            self._count(values[part].astype(np.float64), labels[part])

    def _count(self, values: NDArray[np.float64], labels: NDArray[np.bool_]) -> None:
        low, right = 0.0, labels
        if self.kind == "confidence":
            low, right = 0.5, (values > 0.5) == labels
            values = np.maximum(values, 1 - values)
        place = ((values - low) / (1 - low) * self.bins).astype(np.int64)
        place = np.minimum(place, self.bins - 1)
        self.pixels += np.bincount(place, minlength=self.bins)
        self.right += np.bincount(place[right], minlength=self.bins)
        whole = np.floor(values * HIGH)
        rest = np.floor((values * HIGH - whole) * LOW)
        # sums of a chunk stay below 2^49, which float64 holds exactly
        self.high += np.bincount(place, whole, minlength=self.bins).astype(np.int64)
        self.low += np.bincount(place, rest, minlength=self.bins).astype(np.int64)

    def merge(self, other: CalibrationBins) -> None:
        """Add the counts of ``other``, made elsewhere.

        Raises:
            InputError: bins of another kind or number.
        """
        if (self.kind, self.bins) != (other.kind, other.bins):
            raise InputError(
                f"{self.bins} bins of {self.kind} and {other.bins} of {other.kind} do not add up"
            )
        self.pixels += other.pixels
        self.right += other.right
        self.high += other.high
        self.low += other.low

    def expected_calibration_error(self) -> float:
        """Mean over pixels of |share right - mean confidence| of their bin; NaN without pixels."""
        pixels = int(self.pixels.sum())
        counts = zip(self.right.tolist(), self.high.tolist(), self.low.tolist(), strict=True)
        gaps = sum(abs((right * HIGH - high) * LOW - low) for right, high, low in counts)
        return gaps / (HIGH * LOW * pixels) if pixels else math.nan
