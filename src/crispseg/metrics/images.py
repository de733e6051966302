"""IoU image by image: distributions over the images of a data set, and the IoU of all pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.types import InputError

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]


class ImageCounts:
    """Intersection and union of every class in every image, as integers.

    Parts of the data add up with ``+``; everything below goes through the images in order of their
    names, so that numbers do not depend on how the data was cut.

    Args:
        num_classes: number of classes; 1 for the masks of single objects.

    Attributes:
        counts: name of the image -> (2, num_classes) int64: intersections and unions.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts: dict[str, Counts] = {}

    def add(
        self, name: str, intersections: Sequence[int] | Counts, unions: Sequence[int] | Counts
    ) -> None:
        """Count one image.

        Raises:
            InputError: a name that was there before, or another number of classes.
        """
        both = np.array([intersections, unions], np.int64)
        if name in self.counts:
            raise InputError(f"image {name!r} was counted before")
        if both.shape != (2, self.num_classes):
            raise InputError(f"{both.shape[-1]} classes, not {self.num_classes}")
        self.counts[name] = both

    def add_matrix(self, name: str, matrix: ConfusionMatrix) -> None:
        """Count one image by its confusion matrix.

        Raises:
            InputError: as ``add``.
        """
        right = np.diag(matrix.counts)
        unions = matrix.counts.sum(axis=0) + matrix.counts.sum(axis=1) - right
        self.add(name, right, unions)

    def __add__(self, other: ImageCounts) -> ImageCounts:
        """The images of both parts.

        Raises:
            InputError: an image in both, or another number of classes.
        """
        both = ImageCounts(self.num_classes)
        for part in (self, other):
            for name, counts in part.counts.items():
                both.add(name, counts[0], counts[1])
        return both

    @property
    def names(self) -> list[str]:
        """Of the images, in order."""
        return sorted(self.counts)

    def table(self) -> Shares:
        """(images, classes) IoU, images in order of names; NaN for a class that is not there."""
        counts = self._ordered()
        out = np.full((len(counts), self.num_classes), np.nan)
        np.divide(counts[:, 0], counts[:, 1], out=out, where=counts[:, 1] > 0)
        return out

    def image_iou(self) -> Shares:
        """(images,) mean IoU of the classes in each image's truth or prediction; NaN if none."""
        return _means(self.table(), 1)

    def class_iou(self) -> Shares:
        """(classes,) mean over the images in which a class is; NaN if it is in none."""
        return _means(self.table(), 0)

    def quantiles(self, shares: Sequence[float] = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)) -> Shares:
        """Quantiles of ``image_iou``; NaN without images that have any."""
        values = self.image_iou()
        values = values[~np.isnan(values)]
        return np.quantile(values, shares) if len(values) else np.full(len(shares), np.nan)

    def iou_of_all_pixels(self) -> float:
        """Class-agnostic IoU of the data set: all intersections over all unions; 1 if all empty.

        The IoU of CascadePSP's tables, whose truths are masks of single objects.
        """
        intersections, unions = self._ordered().sum(axis=(0, 2)).tolist()
        return intersections / unions if unions else 1.0

    def _ordered(self) -> Counts:
        if not self.counts:
            return np.zeros((0, 2, self.num_classes), np.int64)
        return np.stack([self.counts[name] for name in self.names])


def _means(table: Shares, axis: int) -> Shares:
    there = ~np.isnan(table)
    sums = np.where(there, table, 0).sum(axis=axis)
    count = there.sum(axis=axis)
    out = np.full(sums.shape, math.nan)
    np.divide(sums, count, out=out, where=count > 0)
    return out
