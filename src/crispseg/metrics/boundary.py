"""Measures of masks, over the whole and near the edge: IoU, mBA, Boundary IoU. NumPy only.

Of two empty masks every IoU is 1, of one empty mask 0. An empty or full truth has no edge within
the image, so that its mBA is NaN: leave it out of means (``numpy.nanmean``).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crispseg.metrics.bands import count_bands
from crispseg.types import InputError

Mask = NDArray[np.bool_]
Radii = Literal["released", "paper"]

STEPS = 5
BOUNDARY_SHARE = 0.02
"""Boundary IoU's distance as a share of the image's diagonal."""


def intersection_and_union(mask: Mask, truth: Mask) -> tuple[int, int]:
    """Numbers of pixels that both (H, W) bool masks have, and that either has.

    Raises:
        InputError: not two bool masks of one shape.
    """
    _check(mask, truth)
    return int(np.count_nonzero(mask & truth)), int(np.count_nonzero(mask | truth))


def intersection_over_union(mask: Mask, truth: Mask) -> float:
    """IoU of two (H, W) bool masks; 1.0 if both are empty.

    Raises:
        InputError: not two bool masks of one shape.
    """
    intersection, union = intersection_and_union(mask, truth)
    return intersection / union if union else 1.0


def boundary_radii(height: int, width: int, radii: Radii = "released") -> list[int]:
    """The five radii of mBA for an image of this size, in pixels.

    Both kinds go up to (w + h) / 300:

    * "released": CascadePSP's released code starts at 1 and takes steps of a fifth, cut off to
      integers, so that the end is not reached;
    * "paper": section 4.1 samples uniformly from 3 to the end. Both ends are taken, and each
      radius is rounded to the nearest integer, halves up. Images of less than w + h = 900, where
      the end lies below 3, get 3 five times.
    """
    largest = (width + height) / 300
    if radii == "paper":
        steps = [3 + (max(largest, 3) - 3) / (STEPS - 1) * i for i in range(STEPS)]
        return [math.floor(step + 0.5) for step in steps]
    return [1 + int((largest - 1) / STEPS * i) for i in range(STEPS)]


def mean_boundary_accuracy(mask: Mask, truth: Mask, radii: Radii = "released") -> float:
    """Share of right pixels near edges: mBA of CascadePSP (Cheng et al., CVPR 2020, section 4.1).

    For each of five radii (``boundary_radii``), the share of right pixels in the truth's band
    (``bands.boundary_band``); the mean of the five shares.

    Args:
        mask: (H, W) bool.
        truth: (H, W) bool.
        radii: "released" for those of the released code, which published figures were made with,
            "paper" for those of the text.

    Returns:
        In [0, 1]; NaN if the truth has no edge (empty or full).

    Raises:
        InputError: not two bool masks of one shape.
    """
    _check(mask, truth)
    height, width = truth.shape
    counts = count_bands([mask], truth, boundary_radii(height, width, radii))
    return float(np.mean(counts.shares()[0]))


def mean_boundary_accuracy_of_labels(
    labels: NDArray[Any], truth: NDArray[Any], radii: Radii = "released", *, ignore_index: int = 255
) -> float:
    """MBA of label maps, as CascadePSP's released code has it for scenes.

    Each band is the union of the bands of all classes but void; void pixels then count neither as
    right nor as wrong. A class that ends at void has an edge there.

    Args:
        labels: (H, W) integers.
        truth: (H, W) integers.
        radii: as in ``mean_boundary_accuracy``.
        ignore_index: void in the truth. (In ADE20K's files, and in the released code, it is 0.)

    Returns:
        In [0, 1]; NaN if a band has no pixel that counts: one class only, or all void.

    Raises:
        InputError: not two integer arrays of one shape.
    """
    for values in (labels, truth):
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
            raise InputError(f"label maps must be (H, W) integers, not {values.dtype}")
    height, width = truth.shape
    sizes = boundary_radii(height, width, radii)
    counts = count_bands([labels], truth, sizes, void=ignore_index)
    return float(np.mean(counts.shares()[0]))


def boundary_iou(mask: Mask, truth: Mask) -> float:
    """Boundary IoU: the IoU of what of both masks lies near their own contours.

    Cheng et al., CVPR 2021: of each mask, the pixels within d of its contour, d = 2 % of the
    image's diagonal, see ``inner_boundary``.

    Args:
        mask: (H, W) bool.
        truth: (H, W) bool.

    Returns:
        In [0, 1]; 1.0 if both masks are empty.

    Raises:
        InputError: not two bool masks of one shape.
    """
    _check(mask, truth)
    return intersection_over_union(inner_boundary(mask), inner_boundary(truth))


def inner_boundary(mask: Mask) -> Mask:
    """The pixels of an (H, W) bool mask that a square of 2 d + 1 around them leaves.

    What lies outside the image is not object, so that the image's border is a contour. d is 2 %
    of the diagonal, rounded to the nearest integer (halves to even), at least 1. The same as d
    erosions with 3 x 3 ones after padding with zeros, which is the public ``boundary-iou-api``.
    """
    reach = max(1, round(BOUNDARY_SHARE * math.hypot(*mask.shape)))
    inside = mask
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (reach + 1, reach)
        sums = np.moveaxis(np.cumsum(np.pad(inside, padding), axis=axis, dtype=np.int32), axis, 0)
        length = 2 * reach + 1
        inside = np.moveaxis(sums[length:] - sums[:-length] == length, 0, axis)
    return mask & ~inside


def _check(mask: Mask, truth: Mask) -> None:
    if mask.shape != truth.shape or mask.ndim != 2:
        raise InputError(
            f"mask and truth must be (H, W) of one size, not {mask.shape} and {truth.shape}"
        )
    if mask.dtype != np.bool_ or truth.dtype != np.bool_:
        raise InputError(
            f"mask and truth must be bool, not {mask.dtype} and {truth.dtype}; compare with > 0.5"
        )
