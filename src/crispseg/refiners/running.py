"""A map of class probabilities that grows from stage to stage without being held at full size.

Each stage enlarges the map before it and replaces some points. Only the first, small map and the
replaced points are kept; any window of any stage is computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from crispseg.refiners.select import Floats, Positions
from crispseg.tiling.bilinear import Part, bilinear_source, bilinear_window
from crispseg.types import Box, Size

STRIP_PIXELS = 1 << 16


class RunningMap:
    """Class probabilities at one stage; see ``first`` and ``refined``.

    Attributes:
        size: of this stage.
        num_classes: of the probabilities.
    """

    def __init__(
        self, size: Size, below: Floats | RunningMap, positions: Positions, values: Floats
    ) -> None:
        self.size = size
        self.num_classes: int = below.num_classes if isinstance(below, RunningMap) else len(below)
        self._below = below
        self._positions = positions
        self._values = values

    @classmethod
    def first(cls, probabilities: Floats) -> Self:
        """The first stage: (C, h, w) float32 probabilities as they are."""
        size = Size(*probabilities.shape[1:])
        empty = np.zeros((0, len(probabilities)), np.float32)
        return cls(size, probabilities, np.zeros(0, np.int64), empty)

    def refined(self, size: Size, positions: Positions, values: Floats) -> RunningMap:
        """The next stage: this map enlarged to ``size``, but for some points.

        Args:
            size: of the next stage, not smaller.
            positions: (n,) rising, row * width + column in ``size``.
            values: (n, C) float32 probabilities there.
        """
        return RunningMap(size, self, positions, values)

    def window(self, box: Box) -> Floats:
        """(C, box.height, box.width) float32 probabilities; they sum to 1."""
        if not isinstance(self._below, RunningMap):
            return self._below[:, box.y0 : box.y1, box.x0 : box.x1].copy()
        values = self._below.enlarged(self.size, box)
        places, inside = points_in(self._positions, self.size, box)
        values.reshape(self.num_classes, -1)[:, places] = self._values[inside].T
        return values

    def enlarged(self, size: Size, box: Box) -> Floats:
        """The part ``box`` of this map enlarged to ``size``: bilinear, align_corners=False."""
        if size == self.size:
            return self.window(box)
        source = bilinear_source(self.size, size, box)
        return bilinear_window(self.window(source), size, box, Part(self.size, source))

    def strips(self, size: Size) -> Iterator[tuple[Box, Floats]]:
        """The map enlarged to ``size``, a few rows at a time."""
        rows = max(1, STRIP_PIXELS // size.width)
        for y in range(0, size.height, rows):
            box = Box(y, 0, min(y + rows, size.height), size.width)
            yield box, self.enlarged(size, box)

    def labels(self, size: Size | None = None) -> NDArray[Any]:
        """(H, W) the most probable class at each pixel, uint8, or uint16 above 256 classes."""
        size = size or self.size
        kind = np.uint8 if self.num_classes <= 256 else np.uint16
        labels = np.empty(size, kind)
        for box, values in self.strips(size):
            labels[box.slices] = values.argmax(axis=0)
        return labels

    def probabilities(self, size: Size | None = None) -> Floats:
        """(C, H, W) float32: the whole map, which may be large."""
        size = size or self.size
        whole = np.empty((self.num_classes, *size), np.float32)
        for box, values in self.strips(size):
            whole[:, box.y0 : box.y1] = values
        return whole


def points_in(positions: Positions, size: Size, box: Box) -> tuple[Positions, Positions]:
    """Which of some points lie in a box.

    Args:
        positions: (n,) rising, row * width + column in ``size``.
        size: of the map.
        box: inside it.

    Returns:
        Their (m,) positions in the box, row * box.width + column, and their (m,) indices.
    """
    start, stop = np.searchsorted(positions, (box.y0 * size.width, box.y1 * size.width))
    y, x = np.divmod(positions[start:stop], size.width)
    inside = np.flatnonzero((x >= box.x0) & (x < box.x1))
    return (y[inside] - box.y0) * box.width + x[inside] - box.x0, inside + start
