"""The guard of ``guard.py`` for results that are never in memory as a whole.

The same pieces of change, the same trust, the same decisions, in at most three passes over the
strips of a result: the changes that are large enough to be judged; where one is doubted, the
objects it belongs to; and all that is to be undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.refiners.guard import (
    ADDED,
    DOUBTFUL,
    MISUNDERSTOOD,
    REMOVED,
    Counts,
    Flags,
    Floats,
    Kept,
    describe,
    judged,
    trust_in,
)
from crispseg.tiling.pieces import PieceFinder, Pieces, components, rim
from crispseg.types import Box, Size

Changed = NDArray[np.int32]
"""(h, w) plane ``change`` of a result, see ``refiners.stream.encode``."""


CELL_PX = 512
"""Side of the cells of which it is asked whether anything in them matters."""


@dataclass(frozen=True)
class Evidence:
    """What the guard judges, in windows.

    Attributes:
        size: of the image.
        given: window of the given mask, bool.
        change: window of the plane ``change``.
        given_pixels: size of the given mask.
        unchanged: whether it is known, without reading, that nothing in a window has changed.
        empty: whether it is known, without reading, that nothing in a window was given.
        strip_px: pixels of a strip.
    """

    size: Size
    given: Callable[[Box], Flags]
    change: Callable[[Box], Changed]
    given_pixels: int
    unchanged: Callable[[Box], bool] = lambda _: False
    empty: Callable[[Box], bool] = lambda _: False
    strip_px: int = 1 << 21
    _known: dict[tuple[str, int, int], Counts] = field(default_factory=dict)

    def strips(self) -> Iterator[tuple[int, Box]]:
        """Numbers and boxes of the strips, from top to bottom; none crosses a line of cells."""
        height, width = self.size
        rows = min(max(self.strip_px // width, 1), CELL_PX)
        number = 0
        for top in range(0, height, CELL_PX):
            bottom = min(top + CELL_PX, height)
            for y0 in range(top, bottom, rows):
                yield number, Box(y0, 0, min(y0 + rows, bottom), width)
                number += 1

    def changed_columns(self, strip: Box) -> Counts:
        """Columns of a strip that may have changed, and the ones next to them."""
        return self._columns("changed", strip, self.unchanged)

    def object_columns(self, strip: Box) -> Counts:
        """Columns of a strip where there may be an object, and the ones next to them."""
        return self._columns("object", strip, lambda box: self.unchanged(box) and self.empty(box))

    def _columns(self, name: str, strip: Box, is_known: Callable[[Box], bool]) -> Counts:
        """Asked once for all strips of a row of cells."""
        y0, y1 = strip.y0 // CELL_PX * CELL_PX, -(-strip.y1 // CELL_PX) * CELL_PX
        if (name, y0, y1) not in self._known:
            for old in [key for key in self._known if key[0] == name]:
                del self._known[old]
            on = np.zeros(strip.width, np.bool_)
            for x in range(0, strip.width, CELL_PX):
                if not is_known(Box(y0, x, y1, x + CELL_PX).clip(self.size)):
                    on[max(x - 1, 0) : x + CELL_PX + 1] = True
            self._known[name, y0, y1] = np.flatnonzero(on)
        return self._known[name, y0, y1]


def at_columns(read: Callable[[Box], NDArray[Any]], rows: Box, columns: Counts) -> NDArray[Any]:
    """(rows.height, len(columns)) of a plane; ``columns`` are rising."""
    gaps = np.flatnonzero(np.diff(columns) > 1) + 1
    runs = [run for run in np.split(columns, gaps) if len(run)]
    if not runs:
        return np.zeros((rows.height, 0), np.uint8)
    return np.concatenate(
        [read(Box(rows.y0, int(run[0]), rows.y1, int(run[-1]) + 1)) for run in runs], axis=1
    )


class StreamedGuard:
    """Judges a result, and then corrects it window by window.

    Args:
        evidence: the result.
        weights: of ``guard.FEATURES``; None: everything is trusted.
    """

    def __init__(self, evidence: Evidence, weights: tuple[float, ...] | None) -> None:
        self._evidence = evidence
        self._objects: Pieces | None = None
        self._undone: Pieces | None = None
        self.kept: tuple[Kept, ...] = ()
        if weights is None:
            return
        self._weights = weights
        self._doubtful = self._find_doubtful()
        if len(self._doubtful):
            self._objects = self._find_objects()
            self._undone = self._find_undone()
            trust = self._trust(self._undone)
            self._doubted = np.minimum(trust, 0.49).astype(np.float32)
            self.kept = _report(self._undone, trust)

    def strips(self) -> Iterator[tuple[int, Box]]:
        """The strips in which ``correct`` wants the result."""
        return self._evidence.strips()

    def undoing(self, number: int, strip: Box) -> tuple[Flags, NDArray[np.float32]] | None:
        """Where a strip goes back to the given mask.

        Returns:
            (h, w) bool, and (h, w) float32 the probability of the other side there; None: nowhere.
        """
        if self._undone is None:
            return None
        labels, which = self._undone.in_strip(number)
        if not len(labels):
            return None
        columns = self._evidence.changed_columns(strip)
        label, _ = components(self._to_undo(number, strip, columns))
        trust = np.zeros(int(label.max()) + 1, np.float32)
        undone = np.zeros(len(trust), np.bool_)
        undone[labels], trust[labels] = True, self._doubted[which]
        back, doubted = np.zeros(strip.size, np.bool_), np.zeros(strip.size, np.float32)
        back[:, columns], doubted[:, columns] = undone[label], trust[label]
        return back, doubted

    def _trust(self, pieces: Pieces) -> Floats:
        return trust_in(self._features(pieces), self._weights)

    def _features(self, pieces: Pieces) -> Floats:
        return describe(
            pieces.pixels,
            pieces.sums[:, 0],
            pieces.sums[:, 1],
            pieces.kind == ADDED,
            self._evidence.given_pixels,
        )

    def _finder(self, sums: int, wanted: Callable[[Pieces], Flags]) -> PieceFinder:
        return PieceFinder(sums, wanted, self._evidence.size.width)

    def _find_doubtful(self) -> Pieces:
        finder = self._finder(2, lambda pieces: judged(self._features(pieces)))
        for _, strip in self._evidence.strips():
            columns = self._evidence.changed_columns(strip)
            change = at_columns(self._evidence.change, strip, columns)
            counted = (self._rim(strip, columns), certainty_of(change))
            finder.feed(strip.y0, kind_of(change), counted, columns)
        pieces = finder.finish()
        if not len(pieces):
            return pieces
        return pieces.take(np.flatnonzero(self._trust(pieces) < DOUBTFUL))

    def _find_objects(self) -> Pieces:
        """Objects, of both masks together, that the network has not understood."""
        width = self._evidence.size.width
        finder = self._finder(2, lambda p: p.sums[:, 1] > MISUNDERSTOOD * p.sums[:, 0])
        for _, strip in self._evidence.strips():
            columns = self._evidence.object_columns(strip)
            given = at_columns(self._evidence.given, strip, columns)
            wrong = np.zeros(given.shape, np.int64)
            y, x = np.divmod(self._doubtful.first, width)
            here = (y >= strip.y0) & (y < strip.y1)
            place = (y[here] - strip.y0, np.searchsorted(columns, x[here]))
            wrong[place] = self._doubtful.pixels[here]
            finder.feed(strip.y0, self._union(strip, columns), (given, wrong), columns)
        return finder.finish()

    def _find_undone(self) -> Pieces:
        finder = self._finder(3, lambda pieces: np.ones(len(pieces), np.bool_))
        for number, strip in self._evidence.strips():
            columns = self._evidence.changed_columns(strip)
            kind = self._to_undo(number, strip, columns)
            certainty = certainty_of(at_columns(self._evidence.change, strip, columns))
            whole = self._inside_objects(number, strip)[:, columns]
            finder.feed(strip.y0, kind, (self._rim(strip, columns), certainty, whole), columns)
        return finder.finish()

    def _union(self, strip: Box, columns: Counts) -> NDArray[np.uint8]:
        given = at_columns(self._evidence.given, strip, columns)
        added = at_columns(self._evidence.change, strip, columns) > 0
        return (given | added).astype(np.uint8)

    def _inside_objects(self, number: int, strip: Box) -> Flags:
        assert self._objects is not None
        inside = np.zeros(strip.size, np.bool_)
        labels, _ = self._objects.in_strip(number)
        if len(labels):
            columns = self._evidence.object_columns(strip)
            label, _ = components(self._union(strip, columns))
            inside[:, columns] = _chosen(label, labels)
        return inside

    def _to_undo(self, number: int, strip: Box, columns: Counts) -> NDArray[np.uint8]:
        """Kinds of change, of doubtful pieces and of whole objects only."""
        kind = kind_of(at_columns(self._evidence.change, strip, columns))
        wanted = self._inside_objects(number, strip)[:, columns]
        labels, _ = self._doubtful.in_strip(number)
        if len(labels):
            wanted |= _chosen(components(kind)[0], labels)
        kind[~wanted] = 0
        return kind

    def _rim(self, strip: Box, columns: Counts) -> Flags:
        around = Box(strip.y0 - 1, 0, strip.y1 + 1, strip.x1).clip(self._evidence.size)
        kinds = rim(kind_of(at_columns(self._evidence.change, around, columns)))
        return kinds[strip.y0 - around.y0 :][: strip.height]


def kind_of(change: Changed) -> NDArray[np.uint8]:
    """ADDED, REMOVED or 0."""
    return np.where(change > 0, ADDED, np.where(change < 0, REMOVED, 0)).astype(np.uint8)


def certainty_of(change: Changed) -> Changed:
    """Certainty of changed pixels in whole numbers of ``CERTAINTY_SCALE``; 0 elsewhere."""
    return np.asarray(np.maximum(np.abs(change) - 1, 0), np.int32)


def _chosen(label: NDArray[np.int32], labels: Counts) -> Flags:
    chosen = np.zeros(int(label.max()) + 1, np.bool_)
    chosen[labels] = True
    return np.asarray(chosen[label])


def _report(pieces: Pieces, trust: Floats) -> tuple[Kept, ...]:
    order = np.argsort(-pieces.pixels, kind="stable")
    return tuple(
        Kept(pieces.box(k), int(pieces.pixels[k]), float(trust[k]), bool(pieces.sums[k, 2]))
        for k in order
    )
