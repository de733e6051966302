"""Which points and tiles are worth refining (MagNet, Huynh et al., CVPR 2021, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crispseg.types import InputError

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Positions = NDArray[np.int64]

WINDOWS_AT_ONCE = 1 << 22  # values of median windows held at a time


def uncertainty(probabilities: Floats) -> Floats:
    """1 - (largest - second largest probability): 0 where sure, 1 where two classes tie.

    Args:
        probabilities: (C, h, w) that sum to 1 over two or more classes.

    Returns:
        (h, w) float32 in [0, 1].
    """
    best = np.maximum(probabilities[0], probabilities[1])
    second = np.minimum(probabilities[0], probabilities[1])
    for values in probabilities[2:]:
        second = np.maximum(second, np.minimum(best, values))
        best = np.maximum(best, values)
    return np.asarray(1 - (best - second), np.float32)


def median_blur(values: Floats, size: int) -> Floats:
    """Median of the ``size`` x ``size`` pixels around each; the border repeats itself outwards.

    Args:
        values: (h, w) float32.
        size: odd, 1 or more.

    Returns:
        (h, w) float32; each is one of the values.

    Raises:
        InputError: an even size, which has no middle.
    """
    if size < 1 or size % 2 == 0:
        raise InputError(f"the median's size must be odd, 1 or more, not {size}")
    if size == 1 or values.size == 0:
        return values.copy()
    height, width = values.shape
    middle, count = size // 2, size * size
    padded = np.pad(values, middle, mode="edge")
    result = np.empty_like(values)
    rows = max(1, WINDOWS_AT_ONCE // (count * width))
    for y in range(0, height, rows):
        part = padded[y : y + rows + size - 1]
        windows = np.lib.stride_tricks.sliding_window_view(part, (size, size))
        flat = windows.reshape(-1, count)
        result[y : y + rows] = np.partition(flat, count // 2, axis=1)[:, count // 2].reshape(
            -1, width
        )
    return result


def top_k(scores: NDArray[np.float32], k: int) -> Positions:
    """Positions of the ``k`` largest values, in rising order; of equal ones the first.

    Args:
        scores: (n,) without NaN.
        k: how many; all if there are fewer.

    Returns:
        (min(k, n),) int64.
    """
    if k >= scores.size:
        return np.arange(scores.size, dtype=np.int64)
    if k <= 0:
        return np.zeros(0, np.int64)
    least = np.partition(scores, scores.size - k)[scores.size - k]
    above = scores > least
    ties = np.flatnonzero(scores == least)[: k - int(np.count_nonzero(above))]
    above[ties] = True
    return np.flatnonzero(above)


def points_to_take(points: float, available: int) -> int:
    """How many points a stage replaces.

    Args:
        points: a number of points if it is an int, a share of ``available`` if it is a float.
        available: how many points were refined.
    """
    wanted = points if isinstance(points, int) else round(points * available)
    return min(wanted, available)


def most_uncertain(means: Sequence[float]) -> list[int]:
    """Indices by falling value; of equal ones the first."""
    return sorted(range(len(means)), key=lambda i: (-means[i], i))


class BestPoints:
    """The ``k`` points of largest score among all that pass by, in bounded memory.

    What is kept, and of equal scores which, does not depend on how the points are cut into parts.

    Args:
        k: how many to keep.
        channels: values that go with each point.
        dtype: of these values.
    """

    def __init__(self, k: int, channels: int, dtype: type[np.generic]) -> None:
        self._k = k
        self._positions = [np.zeros(0, np.int64)]
        self._scores = [np.zeros(0, np.float32)]
        self._values = [np.zeros((0, channels), dtype)]
        self._held = 0

    def add(self, positions: Positions, scores: Floats, values: NDArray[np.generic]) -> None:
        """Offer (n,) positions, none seen before, their (n,) scores and (n, channels) values."""
        if self._held >= self._k:  # what is worse than all that is held need not come in
            least = self._scores[0].min() if self._held and len(self._scores) == 1 else -np.inf
            better = scores >= least
            positions, scores, values = positions[better], scores[better], values[better]
        self._positions.append(positions)
        self._scores.append(scores)
        self._values.append(values)
        self._held += len(positions)
        if self._held > 2 * self._k:
            self._prune()

    def _prune(self) -> None:
        positions, scores = np.concatenate(self._positions), np.concatenate(self._scores)
        order = np.argsort(positions, kind="stable")
        kept = order[top_k(scores[order], self._k)]
        self._positions, self._scores = [positions[kept]], [scores[kept]]
        self._values = [np.concatenate(self._values)[kept]]
        self._held = len(kept)

    def taken(self) -> tuple[Positions, NDArray[np.generic]]:
        """Positions in rising order (m,) and their values (m, channels); m is k, or all."""
        self._prune()
        return self._positions[0], self._values[0]
