"""IoU within bands around the true edges, by the width of the band (a trimap, as painters say).

Kohli et al., "Robust higher order potentials", IJCV 2009, section 5; Krähenbühl and Koltun (NIPS
2011) and DeepLab plot it against the width. Here the band is ``bands.boundary_band``: the ellipse
of OpenCV, and void is a value of its own, beside which there is an edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.metrics.bands import boundary_band
from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.types import InputError


class TrimapMatrices:
    """A confusion matrix for the band of each width; parts of the data add up with ``+``.

    Args:
        num_classes: number of classes.
        radii: half widths of the bands in pixels, each 1 or more.
        ignore_index: label of void in the truth.

    Attributes:
        matrices: radius -> confusion matrix of the pixels in its band.
    """

    def __init__(self, num_classes: int, radii: Sequence[int], ignore_index: int = 255) -> None:
        if not radii or min(radii) < 1:
            raise InputError(f"radii must be 1 or more, not {list(radii)}")
        self.ignore_index = ignore_index
        self.matrices = {radius: ConfusionMatrix(num_classes, ignore_index) for radius in radii}

    def add(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        """Count one image.

        Args:
            prediction: (H, W) integers in [0, num_classes); anything where the truth is void.
            truth: (H, W) integers in [0, num_classes), or ``ignore_index``.

        Raises:
            InputError: as ``ConfusionMatrix.add``.
        """
        for radius, matrix in self.matrices.items():
            band = boundary_band(truth, radius)
            matrix.add(prediction[band], truth[band])

    def __add__(self, other: TrimapMatrices) -> TrimapMatrices:
        """The matrices of both parts of the data.

        Raises:
            InputError: other classes or radii.
        """
        if self.matrices.keys() != other.matrices.keys():
            raise InputError("trimaps of different radii cannot be added")
        first = next(iter(self.matrices.values()))
        both = TrimapMatrices(first.num_classes, list(self.matrices), self.ignore_index)
        both.matrices = {r: m + other.matrices[r] for r, m in self.matrices.items()}
        return both

    def mean_iou(self) -> dict[int, float]:
        """Radius -> mean IoU of the classes that are in its band; NaN if none is."""
        return {radius: matrix.mean_iou() for radius, matrix in self.matrices.items()}

    def accuracy(self) -> dict[int, float]:
        """Radius -> share of the band's pixels that are right; NaN without pixels."""
        return {radius: matrix.pixel_accuracy() for radius, matrix in self.matrices.items()}


def trimap_iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_], radius: int) -> float:
    """IoU of two (H, W) bool masks within the band of the truth; 1.0 if both are empty there.

    Raises:
        InputError: masks of different sizes.
    """
    if mask.shape != truth.shape:
        raise InputError(f"the mask is {mask.shape} but the truth is {truth.shape}")
    band = boundary_band(truth, radius)
    union = int(np.count_nonzero((mask | truth) & band))
    return int(np.count_nonzero(mask & truth & band)) / union if union else 1.0
