"""How the learning rate goes over a run."""

from __future__ import annotations

import math

from crispseg.train.config import TrainConfig

MILESTONE_FACTOR = 0.1
POLY_POWER = 0.9
COSINE_END = 0.01


def rate(config: TrainConfig, step: int, progress: float) -> float:
    """Factor on the learning rate: a linear warm-up times the recipe's schedule.

    Args:
        config: names the schedule.
        step: steps done so far.
        progress: share of the run that is done, in [0, 1].
    """
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    return warm * _decay(config, step, min(progress, 1.0))


def _decay(config: TrainConfig, step: int, progress: float) -> float:
    if config.schedule == "step":
        return float(MILESTONE_FACTOR ** sum(step >= m for m in config.milestones))
    if config.schedule == "poly":
        return float((1 - progress) ** POLY_POWER)
    return COSINE_END + (1 - COSINE_END) * 0.5 * (1 + math.cos(math.pi * progress))
