"""Measures of masks that care about the edge. Needs OpenCV (extra ``train``), not torch."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from crispseg.types import InputError

Mask = NDArray[np.bool_]


def intersection_over_union(mask: Mask, truth: Mask) -> float:
    """IoU of two (H, W) bool masks; 1.0 if both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def boundary_radii(height: int, width: int) -> list[int]:
    """The five radii of the released mBA: from 1 towards (w + h) / 300, which is not reached."""
    largest = (width + height) / 300
    return [1 + int((largest - 1) / 5 * i) for i in range(5)]


def mean_boundary_accuracy(mask: Mask, truth: Mask) -> float:
    """Share of right pixels near edges: mBA as CascadePSP's released code computes it.

    For each of five radii r, the pixels within the morphological gradient of the truth with an
    elliptic element of 2 r + 1; the mean of the five shares. The paper's text gives radii from 3.

    Args:
        mask: (H, W) bool.
        truth: (H, W) bool with at least one edge.

    Raises:
        InputError: the truth has no edge, so that there is nothing to measure.
    """
    right = mask == truth
    shares = []
    for radius in boundary_radii(*truth.shape):
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        band = cv2.morphologyEx(truth.astype(np.uint8), cv2.MORPH_GRADIENT, element) > 0
        if not band.any():
            raise InputError("the true mask is empty or full: it has no boundary to measure at")
        shares.append(float(right[band].mean()))
    return float(np.mean(shares))
