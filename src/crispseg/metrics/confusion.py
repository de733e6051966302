"""Confusion matrix of label maps, and the scores that follow from it; exact, one image at a time.

Mean IoU, pixel accuracy and mean accuracy as in Long et al., "Fully convolutional networks",
section 5: over all pixels of a data set, not a mean over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.types import InputError

BLOCK_PIXELS = 1 << 18  # so that the block's pairs stay in the processor's cache
MOST_WORDS = 0.7  # of 8 pixels in which runs end; above, runs are not worth finding
WORD_BYTES = 1 << 3  # of flags that are looked at together
MOST_BYTES = 255  # classes of which one more than all still has a byte


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all pixels that are not void.

    Feed it images one at a time with ``add``; matrices of parts of the data add up with ``+`` to
    exactly that of the whole.

    Args:
        num_classes: number of classes, 1 to 65535.
        ignore_index: label of void pixels in the truth; they count nowhere.

    Attributes:
        counts: (num_classes, num_classes) int64; row = truth, column = prediction.

    Raises:
        InputError: no sensible number of classes.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if not 1 <= num_classes <= 65535:
            raise InputError(f"num_classes must be 1 to 65535, not {num_classes}")
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def add(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        """Count one image.

        Args:
            prediction: (H, W) integers in [0, num_classes); anything where the truth is void.
            truth: (H, W) integers in [0, num_classes), or ``ignore_index``.

        Raises:
            InputError: other sizes, floats, or a number that is no class; nothing is counted.
        """
        _check_pair(prediction, truth)
        predicted, true = prediction.reshape(-1), truth.reshape(-1)
        found = np.zeros_like(self.counts)
        for start in range(0, true.size, BLOCK_PIXELS):
            block = slice(start, start + BLOCK_PIXELS)
            found += self._count(predicted[block], true[block])
        self.counts += found

    def _no_class(self, name: str, label: int) -> InputError:
        return InputError(
            f"the {name} holds label {label}, but there are {self.num_classes} classes "
            f"(0..{self.num_classes - 1}) and void is {self.ignore_index}"
        )

    def _count(self, prediction: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.int64]:
        """Counts of a block of pixels; of its runs of equal pairs, where they are long."""
        lengths = None
        if (ends := _run_ends(prediction, truth)) is not None:
            lengths = np.empty(ends.size)
            lengths[0] = ends[0] + 1
            np.subtract(ends[1:], ends[:-1], out=lengths[1:])
            prediction, truth = prediction.take(ends), truth.take(ends)
        if prediction.dtype == np.uint8 == truth.dtype and self.num_classes < MOST_BYTES:
            return self._count_bytes(prediction, truth, lengths)
        valid = truth != self.ignore_index
        if not valid.all():
            prediction, truth = prediction[valid], truth[valid]
            lengths = None if lengths is None else lengths[valid]
        for name, labels in (("truth", truth), ("prediction", prediction)):
            low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
            if low < 0 or high >= self.num_classes:
                raise self._no_class(name, low if low < 0 else high)
        pairs = truth.astype(np.int64) * self.num_classes + prediction
        found = _bincount(pairs, lengths, self.num_classes**2)
        return found.reshape(self.counts.shape)

    def _count_bytes(
        self,
        prediction: NDArray[np.uint8],
        truth: NDArray[np.uint8],
        lengths: NDArray[np.float64] | None,
    ) -> NDArray[np.int64]:
        """Counts of a block with one more class for all that is none, so that void may stay."""
        none = np.uint8(self.num_classes)
        nones = np.empty_like(truth)  # NumPy takes ten times as long with a single number
        nones.fill(none)
        pairs = np.minimum(truth, nones).astype(np.uint16)
        pairs *= np.uint16(self.num_classes + 1)
        pairs += np.minimum(prediction, nones)
        table = _bincount(pairs, lengths, (self.num_classes + 1) ** 2)
        table = table.reshape(self.num_classes + 1, -1)
        if self.ignore_index < self.num_classes:
            table[self.ignore_index] = 0
        if table[-1].any():
            stray = (truth >= none) & (truth != self.ignore_index)
            if stray.any():
                raise self._no_class("truth", int(truth[stray].max()))
        if table[:-1, -1].any():
            raise self._no_class("prediction", int(prediction[truth != self.ignore_index].max()))
        return table[:-1, :-1]

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The matrix of both parts of the data.

        Raises:
            InputError: they count other classes.
        """
        mine, theirs = ((m.num_classes, m.ignore_index) for m in (self, other))
        if mine != theirs:
            raise InputError(
                f"matrices of {mine[0]} classes (void {mine[1]}) and of {theirs[0]} "
                f"(void {theirs[1]}) cannot be added"
            )
        both = ConfusionMatrix(*mine)
        both.counts = self.counts + other.counts
        return both

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class; NaN for one in neither truth nor prediction."""
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - np.diag(self.counts)
        return _share(np.diag(self.counts), union)

    def accuracy(self) -> NDArray[np.float64]:
        """Share of each class's true pixels that are found; NaN for a class without any."""
        return _share(np.diag(self.counts), self.counts.sum(axis=1))

    def mean_iou(self) -> float:
        """Mean of ``iou`` over the classes that are there; NaN if none is."""
        return _mean(self.iou())

    def mean_accuracy(self) -> float:
        """Mean of ``accuracy`` over the classes in the truth; NaN if there are none."""
        return _mean(self.accuracy())

    def pixel_accuracy(self) -> float:
        """Share of all pixels that are right; NaN if all are void."""
        right, total = int(np.trace(self.counts)), int(self.counts.sum())
        return right / total if total else float("nan")


def sum_of(matrices: Sequence[ConfusionMatrix]) -> ConfusionMatrix:
    """All of one or more matrices together.

    Raises:
        InputError: there are none, or they count other classes.
    """
    if not matrices:
        raise InputError("no confusion matrix to add up")
    total, *rest = matrices
    for matrix in rest:
        total = total + matrix
    return total


def _run_ends(prediction: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.intp] | None:
    """The last pixel of each run of equal pairs; None if the runs are too short to be of use."""
    flags = np.empty(-(-truth.size // WORD_BYTES) * WORD_BYTES, np.uint8)
    flags[truth.size - 1 :] = 0
    last = flags[: truth.size - 1]
    if prediction.dtype == np.uint8 == truth.dtype:  # in less than half the time of comparisons
        np.bitwise_xor(truth[1:], truth[:-1], out=last)
        last |= prediction[1:] ^ prediction[:-1]
    else:
        np.not_equal(truth[1:], truth[:-1], out=last.view(np.bool_))
        last |= prediction[1:] != prediction[:-1]
    flags[truth.size - 1] = 1
    words = flags.view(np.uint64)  # most are empty: flags are looked for in the others only
    some = words != 0
    if np.count_nonzero(some) > MOST_WORDS * some.size:
        return None
    used = some.nonzero()[0]
    places = (words.take(used).view(np.uint8) != 0).nonzero()[0]
    ends: NDArray[np.intp] = (used << 3).take(places >> 3)
    ends += places & 7
    return ends


def _bincount(
    values: NDArray[Any], weights: NDArray[np.float64] | None, length: int
) -> NDArray[np.int64]:
    """How often each of 0 .. length - 1 is there, times its whole weights: exact in float64."""
    return np.bincount(values, weights, length).astype(np.int64, copy=False)


def _check_pair(prediction: NDArray[Any], truth: NDArray[Any]) -> None:
    for name, labels in (("prediction", prediction), ("truth", truth)):
        if labels.dtype.kind not in "iu":
            raise InputError(f"the {name} must hold integer labels, not {labels.dtype}")
    if prediction.shape != truth.shape:
        raise InputError(f"the prediction is {prediction.shape} but the truth is {truth.shape}")


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    out = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def _mean(values: NDArray[np.float64]) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
