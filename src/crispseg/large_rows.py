"""Finished parts of a large result on their way to the output; what is flat is not computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.raster import BLOCK
from crispseg.io.windows import Flags
from crispseg.types import Box


@dataclass(frozen=True)
class Rows:
    """Some finished pixels; where ``is_flat``, all the same, and the arrays hold one, (1, 1).

    Attributes:
        box: where they lie; parts of the same rows follow each other from left to right.
        value: as they are written.
        given: the given binary mask.
        refined: the refined one.
        is_flat: whether each array holds one value.
    """

    box: Box
    value: NDArray[Any]
    given: Flags
    refined: Flags
    is_flat: bool = False

    @classmethod
    def flat(cls, box: Box, value: np.generic, given: bool) -> Rows:
        """All the same, and unchanged."""
        flags = np.array([[given]])
        return cls(box, np.array([[value]]), flags, flags, is_flat=True)

    def put_into(
        self, rows: NDArray[Any], plane: NDArray[Any], part: Box, y0: int, x0: int
    ) -> None:
        """Copy ``part`` of one of the arrays to whole rows that begin at ``y0`` and ``x0``."""
        at = part.shift(-self.box.y0, -self.box.x0).slices
        rows[part.shift(-y0, -x0).slices] = plane if self.is_flat else plane[at]


@dataclass
class Tally:
    """Pixels of the given mask, of the refined one, and those that differ."""

    before: int = 0
    after: int = 0
    changed: int = 0

    def add(self, rows: Rows) -> None:
        """Count a part."""
        each = rows.box.height * rows.box.width if rows.is_flat else 1
        self.before += each * int(np.count_nonzero(rows.given))
        self.after += each * int(np.count_nonzero(rows.refined))
        self.changed += each * int(np.count_nonzero(rows.given != rows.refined))


class WholeRows:
    """Puts the refined masks of parts together into whole rows.

    Args:
        width: of a row.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows = np.zeros((0, width), np.bool_)

    def add(self, part: Rows) -> Flags | None:
        """Take the next part; gives the rows that it completes."""
        box = part.box
        if box.x0 == 0:
            self._rows = np.empty((box.height, self._width), np.bool_)
        part.put_into(self._rows, part.refined, box, box.y0, 0)
        return self._rows if box.x1 == self._width else None


Known = tuple[float, float]
"""The value as it is written, and that of the given mask."""


class FlatParts:
    """Cuts rows of boxes into parts that are known to be flat, and others.

    Parts end at multiples of ``BLOCK`` columns. What is known is asked once for each band of
    ``BLOCK`` rows, however thin the boxes are.

    Args:
        known: what a box is all over, if that is known without computing it.
    """

    def __init__(self, known: Callable[[Box], Known | None]) -> None:
        self._known = known
        self._band: Box | None = None
        self._parts: list[tuple[int, int, Known | None]] = []

    def of(self, rows: Box) -> Iterator[tuple[Box, Known | None]]:
        """The parts of a box, from left to right."""
        y0, y1 = rows.y0 // BLOCK * BLOCK, -(-rows.y1 // BLOCK) * BLOCK
        band = Box(y0, rows.x0, y1, rows.x1)
        if band != self._band:
            self._band, self._parts = band, list(self._cut(band))
        for x0, x1, known in self._parts:
            yield Box(rows.y0, x0, rows.y1, x1), known

    def _cut(self, band: Box) -> Iterator[tuple[int, int, Known | None]]:
        start, before = band.x0, None
        for x in range(band.x0, band.x1, BLOCK):
            known = self._known(Box(band.y0, x, band.y1, min(x + BLOCK, band.x1)))
            if x > start and known != before:
                yield start, x, before
                start = x
            before = known
        yield start, band.x1, before
