"""What a small magnification cannot decide: whether thin parts and gaps are there at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crispseg.refiners.objects import Flags, dilate_square
from crispseg.tiling.pieces import bounding_box
from crispseg.types import Size

Array = NDArray[np.float32]

THIN_PX = 7
REACH_PX = 3
HALO_PX = 2 * (THIN_PX // 2) + REACH_PX
"""How far ``undecided`` looks."""


def undecided(given: Array, final: Array) -> Flags:
    """What is too thin for a magnification to decide whether it is there.

    An object of one or two pixels, or a gap, looks like noise: a network takes it away, and no
    later step could know that it was ever there. So what is narrower than ``THIN_PX`` may be moved
    and reshaped here, but not lost: where less than half as much is left within ``REACH_PX``, the
    given mask stays, for the next magnification to decide.

    Args:
        given: (h, w) share of each pixel that the caller's mask covers.
        final: (h, w) refined probabilities.

    Returns:
        (h, w) bool. Pixels depend on those within ``HALO_PX``.
    """
    lost, half = np.zeros(given.shape, np.bool_), THIN_PX // 2
    was, left = (np.rint(255 * share).astype(np.uint8) for share in (given, final))
    for present, covered_by, found in ((given > 0, was, left), (given < 1, 255 - was, 255 - left)):
        if present.any() and not present.all():
            eroded = ~dilate_square(~present, half)
            thin = present & ~dilate_square(eroded, half)
            box = bounding_box(thin)
            wide = box.grow(REACH_PX).clip(Size(*given.shape))
            inner = box.shift(-wide.y0, -wide.x0).slices
            enough = _sums_nearby(covered_by[wide.slices] * thin[wide.slices])[inner]
            gone = 2 * _sums_nearby(found[wide.slices])[inner] < enough
            lost[box.slices] |= thin[box.slices] & gone
    return lost


def _sums_nearby(values: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """(h, w) sums of what lies within ``REACH_PX``: whole numbers, exact in any order."""
    sums = np.pad(values.astype(np.uint16), REACH_PX)
    for axis in (0, 1):
        lines = sums.swapaxes(0, axis)
        length = len(lines) - 2 * REACH_PX
        total = lines[:length].copy()
        for offset in range(1, 2 * REACH_PX + 1):
            total += lines[offset : offset + length]
        sums = total.swapaxes(0, axis)
    return sums
