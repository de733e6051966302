"""Categories and instance-level IoU as the Cityscapes benchmark defines them; exact, mergeable.

iIoU (Cordts et al., "The Cityscapes dataset", CVPR 2016, section 4.1) weights every true pixel of
an instance by the mean size of its class over the size of the instance, so that small and large
objects count alike: iTP / (iTP + FP + iFN). Pixels of false positives belong to no instance and
count once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.types import InputError


def group_classes(matrix: ConfusionMatrix, groups: Sequence[int]) -> ConfusionMatrix:
    """The confusion matrix of categories: confusions within a category are right.

    Args:
        matrix: of classes.
        groups: number of the category of every class, 0, 1, ...

    Raises:
        InputError: not one category for each class.
    """
    if len(groups) != matrix.num_classes or min(groups) < 0:
        raise InputError(
            f"{matrix.num_classes} classes need a category each, not {len(groups)} numbers"
        )
    grouped = ConfusionMatrix(max(groups) + 1, matrix.ignore_index)
    rows, columns = np.meshgrid(groups, groups, indexing="ij")
    np.add.at(grouped.counts, (rows, columns), matrix.counts)
    return grouped


class InstanceCounts:
    """How much of each true instance is found: pixels, by class and size of the instance.

    Kept as integers, so that counts of parts of the data add up with ``+`` to exactly those of the
    whole, in any order.

    Args:
        num_classes: number of classes.
        groups: category of every class, for ``category_iou``; every class its own without.
        ignore_index: label of void in the truth.

    Attributes:
        found: (class, size in pixels) -> (instances, pixels of them predicted as the class, pixels
            predicted as any class of its category).
    """

    def __init__(
        self, num_classes: int, groups: Sequence[int] | None = None, ignore_index: int = 255
    ) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.groups = tuple(range(num_classes) if groups is None else groups)
        if len(self.groups) != num_classes:
            raise InputError(f"{num_classes} classes need a category each, not {len(self.groups)}")
        self.found: dict[tuple[int, int], tuple[int, int, int]] = {}

    def add(self, prediction: NDArray[Any], truth: NDArray[Any], instances: NDArray[Any]) -> None:
        """Count one image.

        Args:
            prediction: (H, W) integers in [0, num_classes); anything where the truth is void.
            truth: (H, W) integers in [0, num_classes), or ``ignore_index``.
            instances: (H, W) integers, a number for every instance of this image; 0 where there is
                none. An instance lies in one class, void apart.

        Raises:
            InputError: other sizes, or an instance of two classes.
        """
        if not prediction.shape == truth.shape == instances.shape:
            raise InputError(
                f"prediction, truth and instances must be of one size, not {prediction.shape}, "
                f"{truth.shape} and {instances.shape}"
            )
        inside = (instances > 0) & (truth != self.ignore_index)
        numbers, place = np.unique(instances[inside], return_inverse=True)
        if not len(numbers):
            return
        true, predicted = truth[inside].astype(np.int64), prediction[inside].astype(np.int64)
        classes = np.zeros(len(numbers), np.int64)
        classes[place] = true
        if (mixed := classes[place] != true).any():
            raise InputError(f"instance {numbers[place[mixed][0]]} lies in more than one class")
        if true.max() >= self.num_classes or predicted.max() >= self.num_classes:
            raise InputError(f"a label is not below the number of classes, {self.num_classes}")
        groups = np.asarray(self.groups)
        sizes = np.bincount(place)
        right = np.bincount(place[predicted == true], minlength=len(numbers))
        same = groups[predicted] == groups[true]
        near = np.bincount(place[same], minlength=len(numbers))
        for number, size, *pixels in zip(classes, sizes, right, near, strict=True):
            self._put((int(number), int(size)), (1, int(pixels[0]), int(pixels[1])))

    def _put(self, key: tuple[int, int], counts: tuple[int, int, int]) -> None:
        one, right, near = self.found.get(key, (0, 0, 0))
        self.found[key] = (one + counts[0], right + counts[1], near + counts[2])

    def __add__(self, other: InstanceCounts) -> InstanceCounts:
        """The counts of both parts of the data.

        Raises:
            InputError: they count other classes.
        """
        if (self.num_classes, self.groups) != (other.num_classes, other.groups):
            raise InputError("instances of different classes cannot be added")
        both = InstanceCounts(self.num_classes, self.groups, self.ignore_index)
        both.found = dict(self.found)
        for key, counts in other.found.items():
            both._put(key, counts)
        return both

    def iou(
        self, matrix: ConfusionMatrix, average_sizes: Mapping[int, float]
    ) -> NDArray[np.float64]:
        """IIoU of each class; NaN for classes without instances, or in no image.

        Args:
            matrix: of the same images.
            average_sizes: class -> mean size of its instances, in pixels, for classes that have
                instances.
        """
        scores = np.full(self.num_classes, np.nan)
        for number in average_sizes:
            weighted = self._weighted([number], average_sizes, 1)
            wrong = int(matrix.counts[:, number].sum() - matrix.counts[number, number])
            scores[number] = _share(*weighted, wrong)
        return scores

    def category_iou(
        self, matrix: ConfusionMatrix, average_sizes: Mapping[int, float]
    ) -> NDArray[np.float64]:
        """IIoU of each category; NaN for those of whose classes none has instances.

        A pixel of an instance is right if any class of its category was predicted.

        Args:
            matrix: of classes, of the same images.
            average_sizes: as for ``iou``.
        """
        grouped = group_classes(matrix, self.groups).counts
        scores = np.full(len(grouped), np.nan)
        for group in range(len(grouped)):
            members = [c for c in average_sizes if self.groups[c] == group]
            if members:
                wrong = int(grouped[:, group].sum() - grouped[group, group])
                scores[group] = _share(*self._weighted(members, average_sizes, 2), wrong)
        return scores

    def _weighted(
        self, classes: Sequence[int], average_sizes: Mapping[int, float], which: int
    ) -> tuple[float, float]:
        """Weighted pixels of instances that are found, and all of them; sums rounded once."""
        found, total = [], []
        for (number, size), counts in self.found.items():
            if number in classes:
                found.append(average_sizes[number] * counts[which] / size)
                total.append(average_sizes[number] * counts[0])
        return math.fsum(found), math.fsum(total)


def _share(found: float, total: float, wrong: int) -> float:
    union = total + wrong
    return found / union if union else math.nan
