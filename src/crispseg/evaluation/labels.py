"""Label maps against the truth: a row for each image, and the figures of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.data.datasets.base import Dataset
from crispseg.metrics.bands import count_bands
from crispseg.metrics.boundary import STEPS, boundary_radii
from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.metrics.images import ImageCounts
from crispseg.metrics.instances import InstanceCounts, group_classes
from crispseg.types import InputError

Labels = NDArray[Any]
MOST_CLASSES = 255  # of which the confusion matrix is written as a whole
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class LabelRow:
    """One image; counts in pixels, shares from 0 to 1.

    Attributes:
        name: of the image.
        height: in pixels.
        width: in pixels.
        pixels: that are not void.
        right: how many of them have their true class.
        counts: class number -> intersection, union and true pixels, where the union is not empty.
        mba_released: mean boundary accuracy of label maps, radii of the released code; NaN
            without edges.
        mba_paper: the same with the radii of the paper.
        seconds: that the prediction took; 0 if it was given.
    """

    name: str
    height: int
    width: int
    pixels: int
    right: int
    counts: Mapping[int, tuple[int, int, int]]
    mba_released: float
    mba_paper: float
    seconds: float

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the classes that are in this image's truth or prediction; NaN if none."""
        shares = [inter / union for inter, union, _ in self.counts.values()]
        return sum(shares) / len(shares) if shares else math.nan

    @property
    def accuracy(self) -> float:
        """Share of pixels that are right; NaN if all are void."""
        return self.right / self.pixels if self.pixels else math.nan

    def as_json(self) -> dict[str, Any]:
        """As plain values; NaN, which JSON does not have, becomes None."""
        values = vars(self) | {"mean_iou": self.mean_iou, "accuracy": self.accuracy}
        values["counts"] = {str(number): list(c) for number, c in self.counts.items()}
        return {key: plain(value) for key, value in values.items()}


@dataclass(frozen=True)
class LabelScores:
    """What was counted over a data set.

    Attributes:
        rows: one for each image, in order.
        matrix: of all images.
        instances: of all images; None if the data set tells no objects apart.
    """

    rows: Sequence[LabelRow]
    matrix: ConfusionMatrix
    instances: InstanceCounts | None = None


def score_labels(
    name: str,
    prediction: Labels,
    truth: Labels,
    num_classes: int,
    *,
    ignore_index: int = 255,
    seconds: float = 0.0,
) -> tuple[LabelRow, ConfusionMatrix]:
    """The row of one image, and its confusion matrix.

    Args:
        name: of the image.
        prediction: (H, W) integers in [0, num_classes).
        truth: (H, W) integers in [0, num_classes), or ``ignore_index``.
        num_classes: number of classes.
        ignore_index: label of void.
        seconds: for the row.

    Raises:
        InputError: other sizes, or a number that is no class.
    """
    matrix = ConfusionMatrix(num_classes, ignore_index)
    try:
        matrix.add(prediction, truth)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    sums = (matrix.counts.diagonal(), matrix.counts.sum(axis=0), matrix.counts.sum(axis=1))
    right, predicted, true = (values.tolist() for values in sums)
    classes = enumerate(zip(right, predicted, true, strict=True))
    counts = {number: (r, p + t - r, t) for number, (r, p, t) in classes if p or t}
    height, width = truth.shape
    shares = count_bands([prediction], truth, _radii(height, width), void=ignore_index).shares()
    released, paper = (shares.reshape(2, STEPS).sum(axis=1) / STEPS).tolist()
    total, hits = sum(true), sum(right)
    row = LabelRow(name, height, width, total, hits, counts, released, paper, seconds)
    return row, matrix


@lru_cache(maxsize=64)
def _radii(height: int, width: int) -> tuple[int, ...]:
    """Of mBA as released, then as in the paper."""
    return (*boundary_radii(height, width, "released"), *boundary_radii(height, width, "paper"))


class LabelSums:
    """Counts of a data set's label maps, image by image.

    Args:
        dataset: classes, void and sizes of instances.
        groups: number of the category of every class; None if there are none.
    """

    def __init__(self, dataset: Dataset, groups: Sequence[int] | None) -> None:
        self.rows: list[LabelRow] = []
        self.matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
        self.instances = InstanceCounts(dataset.num_classes, groups, dataset.ignore_index)

    def add(
        self, name: str, prediction: Labels, truth: Labels, instances: Labels | None, seconds: float
    ) -> None:
        """Count one image.

        Raises:
            InputError: as ``score_labels`` and ``InstanceCounts.add``.
        """
        row, counted = score_labels(
            name,
            prediction,
            truth,
            self.matrix.num_classes,
            ignore_index=self.matrix.ignore_index,
            seconds=seconds,
        )
        if instances is not None:
            self.instances.add(prediction, truth, instances)
        self.rows.append(row)
        self.matrix = self.matrix + counted

    def scores(self) -> LabelScores:
        """Of all images so far."""
        return LabelScores(self.rows, self.matrix, self.instances if self.instances.found else None)


def group_numbers(categories: Sequence[str]) -> list[int]:
    """The number of each class's category, in order of first appearance."""
    names = list(dict.fromkeys(categories))
    return [names.index(category) for category in categories]


def summarise_labels(scores: LabelScores, dataset: Dataset) -> dict[str, Any]:
    """The figures of all images.

    Returns:
        images; mean_iou, pixel_accuracy, mean_accuracy over all pixels; iou_of_all_pixels, blind
        to classes; image_iou, the mean over images of their mean IoU, and its quantiles;
        mba_released and mba_paper, means over images; classes: name, iou, accuracy, image_iou and
        true pixels of each; categories and iiou, iiou_category, where the data set has them;
        seconds. None where there is nothing to measure.
    """
    rows, matrix = scores.rows, scores.matrix
    images = ImageCounts(dataset.num_classes)
    for row in rows:
        table = np.zeros((2, dataset.num_classes), np.int64)
        for number, counts in row.counts.items():
            table[:, number] = counts[:2]
        images.add(row.name, table[0], table[1])
    columns = {
        "name": dataset.class_names,
        "iou": matrix.iou(),
        "accuracy": matrix.accuracy(),
        "image_iou": images.class_iou(),
        "pixels": matrix.counts.sum(axis=1),
    }
    classes = [
        {key: plain(value) for key, value in zip(columns, values, strict=True)}
        for values in zip(*columns.values(), strict=True)
    ]
    summary = {
        "images": len(rows),
        "mean_iou": matrix.mean_iou(),
        "pixel_accuracy": matrix.pixel_accuracy(),
        "mean_accuracy": matrix.mean_accuracy(),
        "iou_of_all_pixels": images.iou_of_all_pixels() if matrix.counts.any() else math.nan,
        "image_iou": mean_of(images.image_iou().tolist()),
        "mba_released": mean_of([row.mba_released for row in rows]),
        "mba_paper": mean_of([row.mba_paper for row in rows]),
        "seconds": round(sum(row.seconds for row in rows), 3),
    }
    quantiles = zip(QUANTILES, images.quantiles(QUANTILES).tolist(), strict=True)
    extra = {"image_iou_quantiles": {str(q): plain(v) for q, v in quantiles}, "classes": classes}
    return {key: plain(value) for key, value in summary.items()} | extra | _groups(scores, dataset)


def _groups(scores: LabelScores, dataset: Dataset) -> dict[str, Any]:
    if not dataset.categories:
        return {}
    names = list(dict.fromkeys(dataset.categories))
    grouped = group_classes(scores.matrix, group_numbers(dataset.categories))
    found: dict[str, Any] = {
        "mean_iou_category": plain(grouped.mean_iou()),
        "categories": _named(names, grouped.iou()),
    }
    if scores.instances:
        classes = scores.instances.iou(scores.matrix, dataset.average_sizes)
        groups = scores.instances.category_iou(scores.matrix, dataset.average_sizes)
        found["iiou"] = plain(mean_of(classes.tolist()))
        found["iiou_category"] = plain(mean_of(groups.tolist()))
        found["iiou_classes"] = _named(dataset.class_names, classes)
        found["iiou_categories"] = _named(names, groups)
    return found


def _named(names: Sequence[str], values: NDArray[np.float64]) -> dict[str, Any]:
    return {name: plain(value) for name, value in zip(names, values.tolist(), strict=True)}


def mean_of(values: Sequence[float]) -> float:
    """Mean of those that are not NaN; NaN if all are."""
    there = [value for value in values if not math.isnan(value)]
    return math.fsum(there) / len(there) if there else math.nan


def plain(value: Any) -> Any:
    """NaN as None, NumPy's numbers as Python's."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value


def label_report(
    scores: LabelScores,
    dataset: Dataset,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    before: LabelScores | None = None,
) -> dict[str, Any]:
    """Everything about an evaluation, as JSON can hold it.

    Args:
        scores: of the data set.
        dataset: what was measured.
        settings: all that decides about results.
        inputs: name -> path.
        before: scores before refinement, if something refined.

    Returns:
        kind "labels"; inputs; settings; dataset; classes; summary: see ``summarise_labels``; rows:
        see ``LabelRow``; confusion: rows are true classes, or, of more than 255 classes,
        confusion_pairs: true class, predicted class and pixels of what is not 0; before: summary
        and rows before refinement, if there was any.
    """
    first: dict[str, Any] = {}
    if before:
        rows = [row.as_json() for row in before.rows]
        first = {"before": {"summary": summarise_labels(before, dataset), "rows": rows}}
    return {
        "kind": "labels",
        "inputs": dict(inputs),
        "settings": dict(settings),
        "dataset": dataset.name,
        "classes": list(dataset.class_names),
        "ignore_index": dataset.ignore_index,
        "summary": summarise_labels(scores, dataset),
        "rows": [row.as_json() for row in scores.rows],
        **_confusion(scores.matrix),
        **first,
    }


def _confusion(matrix: ConfusionMatrix) -> dict[str, Any]:
    """The matrix; of very many classes only what is not 0, else it is most of results.json."""
    if matrix.num_classes <= MOST_CLASSES:
        return {"confusion": matrix.counts.tolist()}
    places = matrix.counts.nonzero()
    return {"confusion_pairs": np.stack([*places, matrix.counts[places]], axis=1).tolist()}
