"""How far from what was given the global step may find an object, and that it finds one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crispseg.refiners.guard import LEAST_KEPT
from crispseg.refiners.objects import dilate_square
from crispseg.tiling.pieces import components

Array = NDArray[np.float32]

REACH_SHARE = 0.25
"""How far, as a share of the side of a square as large as what was given."""
LEAST_REACH_PX = 8


def within_reach(given: Array, values: Array) -> Array:
    """Results of the global step with nothing left where no object can be.

    A network that learned to find what a mask has missed finds such things anywhere: far from the
    object are others like it. A refined piece of which no pixel is near the given mask is taken
    away, and so is all doubt that is neither near that mask nor near what stays beyond.

    Where less than ``LEAST_KEPT`` of what was given would be left it has seen nothing at all (of a
    picture 5000 pixels wide and 3 high, one row is left): what was given stands for its result.

    Args:
        given: (h, w) share of each pixel that the caller's mask covers.
        values: (channels, h, w) probabilities, the final ones first.

    Returns:
        ``values`` itself, with 0 out of reach.
    """
    kept = np.minimum(given, values[0]).sum(dtype=np.float64)
    if kept < LEAST_KEPT * given.sum(dtype=np.float64):
        values[:] = given
        return values
    reach = max(round(REACH_SHARE * float(given.sum(dtype=np.float64)) ** 0.5), LEAST_REACH_PX)
    present = given > 0
    near = dilate_square(present, reach)
    found = present | (values[0] > 0.5)
    if (found & ~near).any():
        label, first = components(found.astype(np.uint8))
        stays = np.zeros(len(first) + 1, np.bool_)
        stays[label[found & near]] = True
        near |= dilate_square(stays[label] & ~near, reach)
    values *= near
    return values
