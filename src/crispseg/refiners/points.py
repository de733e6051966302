"""The points a stage of MagNet replaces, and how much work MagNet-Fast may spend on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crispseg.refiners.running import RunningMap
from crispseg.refiners.select import BestPoints, Flags, Floats, Positions, median_blur, uncertainty
from crispseg.types import Box, InputError, Size

ScoreFactors = Literal["both", "coarse", "refined"]
"""What a score is made of: Yu * (1 - Ru), Yu alone, or 1 - Ru alone."""

BLOCK_COLUMNS = 512


@dataclass(frozen=True)
class Budget:
    """How much MagNet-Fast may do; exactly one of the three.

    Attributes:
        tiles: most uncertain tiles at each stage (the paper: 3).
        passes: of the network in all, the first stage's included, shared evenly by the stages.
        milliseconds: in all, shared evenly; no tile is begun after that. At least one tile runs.

    Raises:
        InputError: none or more than one of them, or one below its least.
    """

    tiles: int | None = None
    passes: int | None = None
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.tiles, self.passes, self.milliseconds) if v is not None]
        if len(given) != 1 or not given[0] > 0:
            raise InputError("a budget is one number above 0: tiles, passes or milliseconds")

    def start(self, clock: Callable[[], float]) -> Account:
        """Begin to count, for one image."""
        return Account(self, clock)


class Account:
    """What is left of a budget while an image is worked on."""

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        self._budget, self._clock = budget, clock
        self._began = clock()
        self._most_runs = self._until = 0.0

    def begin_stage(self, stages_left: int, runs: int) -> None:
        """Give this stage, one of ``stages_left``, its share; ``runs`` are spent."""
        if self._budget.passes is not None:
            self._most_runs = runs + (self._budget.passes - runs) // stages_left
        if self._budget.milliseconds is not None:
            now = self._clock()
            end = self._began + self._budget.milliseconds / 1000
            self._until = now + max(end - now, 0.0) / stages_left

    def allows(self, tiles: int, runs: int) -> bool:
        """Whether one more tile may run: ``tiles`` ran in this stage, ``runs`` in all."""
        if self._budget.tiles is not None:
            return tiles < self._budget.tiles
        if self._budget.passes is not None:
            return runs < self._most_runs
        return tiles == 0 or self._clock() < self._until


class PointCollector:
    """Takes refined rows from top to bottom and finds the points of highest score.

    Args:
        current: the map of the stages so far.
        size: of this stage.
        k: how many points to find.
        median_px: of the median over the scores.
        factors: of the score.
        labels_only: keep a point's class, not its probabilities.
    """

    def __init__(
        self,
        current: RunningMap,
        size: Size,
        *,
        k: int,
        median_px: int,
        factors: ScoreFactors,
        labels_only: bool,
    ) -> None:
        self._current, self._size = current, size
        self._median_px, self._factors, self._labels_only = median_px, factors, labels_only
        kind = np.uint8 if current.num_classes <= 256 else np.uint16
        channels = 1 if labels_only else current.num_classes
        self._best = BestPoints(k, channels, kind if labels_only else np.float32)
        self._kind = kind
        self._top = 0  # first row whose values are held
        self._score_top = 0  # first row whose score is held: a median's reach above
        self._values = np.zeros((current.num_classes, 0, size.width), np.float32)
        self._scores = np.zeros((0, size.width), np.float32)

    def add(self, y0: int, values: Floats) -> None:
        """Rows ``y0`` and below: (C, n, W) refined probabilities, NaN where no tile ran."""
        self._values = np.concatenate([self._values, values], axis=1)
        self._scores = np.concatenate([self._scores, self._score(y0, values)])
        bottom = y0 + values.shape[1]
        # A median needs the rows below, until there are none.
        reach = self._median_px // 2
        self._emit(bottom if bottom == self._size.height else bottom - reach)

    def finish(self) -> tuple[Positions, NDArray[Any]]:
        """Positions (n,), rising, and values: (n, C) float32 probabilities, or (n, 1) labels."""
        return self._best.taken()

    def _score(self, y0: int, values: Floats) -> Floats:
        """(n, W) unsmoothed; 0 where no tile ran."""
        scores = np.zeros(values.shape[1:], np.float32)
        for x in range(0, self._size.width, BLOCK_COLUMNS):
            block = values[:, :, x : x + BLOCK_COLUMNS]
            known = ~np.isnan(block[0])
            if not known.any():
                continue
            sure = 1 - uncertainty(block)
            box = Box(y0, x, y0 + block.shape[1], x + block.shape[2])
            unsure = uncertainty(self._current.enlarged(self._size, box))
            product = {"both": unsure * sure, "coarse": unsure, "refined": sure}[self._factors]
            scores[:, x : x + BLOCK_COLUMNS] = np.where(known, product, 0)
        return scores

    def _emit(self, stop: int) -> None:
        """Offer the rows above ``stop``, and let go of what no later row needs."""
        if stop <= self._top:
            return
        known: Flags = ~np.isnan(self._values[0, : stop - self._top])
        if known.any():
            smooth = median_blur(self._scores, self._median_px)
            smooth = smooth[self._top - self._score_top : stop - self._score_top]
            values = self._values[:, : stop - self._top]
            positions = np.flatnonzero(known)
            if self._labels_only:
                kept = values.argmax(axis=0).astype(self._kind)[known][:, None]
            else:
                kept = values[:, known].T
            self._best.add(positions + self._top * self._size.width, smooth[known], kept)
        self._values = self._values[:, stop - self._top :].copy()
        score_top = max(stop - self._median_px // 2, 0)
        self._scores = self._scores[score_top - self._score_top :].copy()
        self._top, self._score_top = stop, score_top
