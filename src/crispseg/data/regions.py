"""Coarse masks that lack a part of the object, or hold a part of what is beside it.

A network that has not understood a thing does not cut it anywhere: its mask ends where the image
has an edge, at the rider's saddle or at the bag's strap. ``degrade_mask`` sees no image and
cannot make that error.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from crispseg.data.perturb import BoolMask
from crispseg.metrics.boundary import intersection_over_union

FEWEST_REGIONS, MOST_REGIONS = 10, 60
LEAST_IOU = 0.6
TRIES = 8

Bytes = NDArray[np.uint8]
Regions = NDArray[np.int32]


def mistake_regions(image: Bytes, mask: BoolMask, rng: np.random.Generator) -> BoolMask:
    """Take one to three regions of the image out of a mask, or (one time in three) add one.

    Args:
        image: (H, W, 3) uint8, RGB.
        mask: (H, W) bool, the true object; not modified.
        rng: where all randomness comes from.

    Returns:
        (H, W) bool with an IoU with ``mask`` of at least ``LEAST_IOU``; ``mask`` itself, as a
        copy, where no region drawn leaves so much.
    """
    regions = regions_of(image, int(rng.integers(FEWEST_REGIONS, MOST_REGIONS + 1)), rng)
    area = np.bincount(regions.ravel())
    held = np.bincount(regions.ravel(), mask.ravel())
    inside = np.flatnonzero(held > 0)
    reached = cv2.dilate(mask.view(np.uint8), np.ones((5, 5), np.uint8)).ravel()
    beside = np.flatnonzero((np.bincount(regions.ravel(), reached) > 0) & (held < 0.7 * area))
    adds = rng.random() < 1 / 3
    choice = beside if adds else inside
    if choice.size < 1 + (not adds):  # the only region of an object is not taken out
        return mask.copy()
    for _ in range(TRIES):
        count = 1 if adds else int(rng.integers(1, min(3, choice.size - 1) + 1))
        drawn = np.isin(regions, rng.choice(choice, size=count, replace=False))
        coarse: BoolMask = mask | drawn if adds else mask & ~drawn
        if intersection_over_union(coarse, mask) >= LEAST_IOU:
            return coarse
    return mask.copy()


def regions_of(image: Bytes, count: int, rng: np.random.Generator) -> Regions:
    """(H, W) int32: the number of each pixel's region, below ``count``.

    A watershed from random seeds: regions meet at an edge where there is one between their seeds.
    """
    height, width = image.shape[:2]
    markers = np.zeros((height, width), np.int32)
    seeds = rng.integers((height, width), size=(count, 2))
    markers[seeds[:, 0], seeds[:, 1]] = np.arange(1, count + 1)
    cv2.watershed(cv2.GaussianBlur(image, (5, 5), 0), markers)
    lines = markers < 1  # between regions, and the border of the image
    grown = cv2.dilate(np.maximum(markers, 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    markers[lines] = np.maximum(grown[lines], 1)
    return markers - 1
