"""Connected pieces of an image that is seen a strip at a time.

Pieces are labelled strip by strip and joined where they touch across the line between two strips.
Only pieces that reach the last row seen can still grow; every other one is handed to a rule that
says whether anyone will ask for it, and forgotten otherwise. Memory follows the width of the image
and the number of pieces that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.types import Box

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]


def components(kind: NDArray[Any]) -> tuple[NDArray[np.int32], Counts]:
    """Connected (4 neighbours) pixels of equal value other than 0.

    Runs of equal pixels in a row are found, then joined with those they touch in the row above: the
    work follows the number of runs. (libvips' flood fill takes 8 to 18 times as long.)

    Args:
        kind: (H, W) whole numbers, 0 or more.

    Returns:
        (H, W) labels 1 .. n in the order of their first pixels, 0 where ``kind`` is 0; and the
        first pixel of each, as a flat index.
    """
    begins = np.ones(kind.shape, np.bool_)
    np.not_equal(kind[:, 1:], kind[:, :-1], out=begins[:, 1:])
    every = np.flatnonzero(begins)
    lengths = np.diff(every, append=kind.size)
    values = kind.ravel()[every]
    inside = values > 0
    starts, values = every[inside], values[inside]
    stops = starts + lengths[inside]
    root = group_roots(len(starts), *_runs_that_touch(starts, stops, values, kind.shape[1]))
    is_first = root == np.arange(len(root))
    numbers = np.zeros(len(every), np.int32)
    numbers[inside] = np.cumsum(is_first, dtype=np.int32)[root]
    return np.repeat(numbers, lengths).reshape(kind.shape), starts[is_first]


def _runs_that_touch(
    starts: Counts, stops: Counts, values: NDArray[Any], width: int
) -> tuple[Counts, Counts]:
    """Pairs (run above, run below) of one value that share a column; runs in reading order."""
    begin = np.searchsorted(stops, starts - width, "right")
    counts = np.searchsorted(starts, stops - width, "left") - begin
    below = np.repeat(np.arange(len(starts)), counts)
    above = np.arange(len(below)) + np.repeat(begin - (np.cumsum(counts) - counts), counts)
    same = values[above] == values[below]
    return above[same], below[same]


def group_roots(count: int, first: NDArray[Any], second: NDArray[Any]) -> Counts:
    """Which of 0 .. count - 1 are joined, directly or by way of others.

    Every round hangs groups onto smaller neighbours, which at least halves those that have any.

    Args:
        count: how many there are.
        first: (n,) whole numbers.
        second: (n,) what each of ``first`` is joined with.

    Returns:
        (count,) the smallest member of the group of each.
    """
    root = np.arange(count)
    while len(first):
        one, other = root[first], root[second]
        apart = one != other
        first, second = first[apart], second[apart]
        low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
        np.minimum.at(root, high, low)
        while not np.array_equal(shorter := root[root], root):
            root = shorter
    return root


def rim(label: NDArray[Any]) -> Flags:
    """Pixels of a piece with a neighbour, of four, outside it; the array's border is none."""
    on_rim = np.zeros(label.shape, np.bool_)
    down = label[1:] != label[:-1]
    on_rim[1:] |= down
    on_rim[:-1] |= down
    right = label[:, 1:] != label[:, :-1]
    on_rim[:, 1:] |= right
    on_rim[:, :-1] |= right
    return on_rim & (label > 0)


def bounding_box(mask: NDArray[Any]) -> Box:
    """The smallest box around all of a (h, w) mask that is not 0; an empty one if all is."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return Box(0, 0, 0, 0)
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def bounding_boxes(label: NDArray[np.int32], count: int) -> Counts:
    """(count, 4) y0, x0, y1, x1 of the labels 1 .. count."""
    boxes = np.zeros((count + 1, 4), np.int64)
    boxes[:, :2] = max(label.shape)
    y, x = np.nonzero(label)
    numbers = label[y, x]
    for column, values in ((0, y), (1, x)):
        np.minimum.at(boxes[:, column], numbers, values)
        np.maximum.at(boxes[:, column + 2], numbers, values + 1)
    return boxes[1:]


@dataclass(frozen=True)
class Pieces:
    """What is known of some pieces.

    Attributes:
        kind: (n,) the value that their pixels share.
        first: (n,) their first pixel in reading order, y * width + x.
        boxes: (n, 4) y0, x0, y1, x1.
        pixels: (n,) their sizes.
        sums: (n, k) of what was counted over their pixels.
        members: for each, its (strip, label) pairs, where a strip is the number of a ``feed``.
    """

    kind: NDArray[np.uint8]
    first: Counts
    boxes: Counts
    pixels: Counts
    sums: Counts
    members: Sequence[Sequence[tuple[int, int]]]

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: Counts) -> Pieces:
        """Only those at ``index``."""
        return Pieces(
            self.kind[index],
            self.first[index],
            self.boxes[index],
            self.pixels[index],
            self.sums[index],
            [self.members[i] for i in index],
        )

    def in_strip(self, strip: int) -> tuple[Counts, Counts]:
        """Labels of a strip that belong to one of these pieces, and which."""
        labels, which = np.array(self._by_strip.get(strip, []), np.int64).reshape(-1, 2).T
        return labels, which

    @cached_property
    def _by_strip(self) -> dict[int, list[tuple[int, int]]]:
        pairs: dict[int, list[tuple[int, int]]] = {}
        for i, members in enumerate(self.members):
            for number, label in members:
                pairs.setdefault(number, []).append((label, i))
        return pairs

    def box(self, index: int) -> Box:
        """The bounding box of one."""
        y0, x0, y1, x1 = (int(value) for value in self.boxes[index])
        return Box(y0, x0, y1, x1)


class _Labels(Sequence[Sequence[tuple[int, int]]]):
    """The members of a strip's own pieces, made when asked for: there may be very many."""

    def __init__(self, strip: int, count: int) -> None:
        self._strip = strip
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return [(self._strip, int(index) + 1)]


def _joined(parts: Sequence[Pieces], columns: int) -> Pieces:
    if not parts:
        none = np.zeros(0, np.int64)
        empty = (np.zeros((0, 4), np.int64), none, np.zeros((0, columns), np.int64))
        return Pieces(np.zeros(0, np.uint8), none, *empty, [])
    stacks = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("kind", "first", "boxes", "pixels", "sums")
    )
    kind, first, boxes, pixels, sums = stacks
    return Pieces(kind, first, boxes, pixels, sums, [m for p in parts for m in p.members])


@dataclass
class PieceFinder:
    """Finds pieces in strips that are fed to it from top to bottom.

    Attributes:
        columns: how many quantities are summed over pieces.
        wanted: closed pieces -> (n,) which to keep; kept pieces are what ``finish`` returns.
        width: of the image; 0: that of the strips.
    """

    columns: int
    wanted: Callable[[Pieces], Flags]
    width: int = 0
    _strip: int = field(default=0, init=False)
    _open: Pieces = field(init=False)
    _kept: list[Pieces] = field(default_factory=list, init=False)
    _bottom: NDArray[np.int64] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._open = _joined([], self.columns)

    def feed(
        self,
        y0: int,
        kind: NDArray[np.uint8],
        counted: Sequence[NDArray[Any]],
        at: Counts | None = None,
    ) -> None:
        """Take the next strip.

        Args:
            y0: its first row.
            kind: (h, w) pixels of one piece share a value; 0 belongs to none.
            counted: ``columns`` arrays (h, w) of whole numbers, summed over each piece.
            at: (w,) which columns of the image these are, rising; None: all. What is left out is 0,
                and where some are, the columns next to the gap are 0 too.
        """
        at = np.arange(kind.shape[1]) if at is None else at
        width = self.width or kind.shape[1]
        label, own = self._pieces_of(y0, kind, counted, at, width)
        before = len(self._open)
        above, below = self._touching(label, own, at)
        parent = group_roots(before + len(own), above, before + below)
        merged, number = self._merge(own, parent)
        bottom = np.zeros(width, np.int64)
        on = at[label[-1] > 0]
        bottom[on] = number[before + label[-1][label[-1] > 0] - 1] + 1
        is_open = np.zeros(len(merged), np.bool_)
        is_open[bottom[on] - 1] = True
        self._keep(merged.take(np.flatnonzero(~is_open & self._wanted(merged))))
        place = np.cumsum(is_open)
        bottom[on] = place[bottom[on] - 1]
        self._open, self._bottom = merged.take(np.flatnonzero(is_open)), bottom
        self._strip += 1

    def finish(self) -> Pieces:
        """All wanted pieces, in the order of their first pixels."""
        self._keep(self._open.take(np.flatnonzero(self._wanted(self._open))))
        kept = _joined(self._kept, self.columns)
        return kept.take(np.argsort(kept.first, kind="stable"))

    def _wanted(self, pieces: Pieces) -> Flags:
        return self.wanted(pieces) if len(pieces) else np.zeros(0, np.bool_)

    def _keep(self, pieces: Pieces) -> None:
        if len(pieces):
            self._kept.append(pieces)

    def _pieces_of(
        self,
        y0: int,
        kind: NDArray[np.uint8],
        counted: Sequence[NDArray[Any]],
        at: Counts,
        width: int,
    ) -> tuple[NDArray[np.int32], Pieces]:
        label, first = components(kind)
        count = len(first)
        inside = np.flatnonzero(label)
        numbers = label.ravel()[inside]
        pixels = np.bincount(numbers, minlength=count + 1)[1:]
        sums = np.zeros((count, self.columns), np.int64)
        for column, values in enumerate(counted):
            weights = values.ravel()[inside]
            sums[:, column] = np.bincount(numbers, weights, minlength=count + 1)[1:]
        boxes = bounding_boxes(label, count) + np.array([y0, 0, y0, 0])
        boxes[:, 3] = at[boxes[:, 3] - 1] + 1
        boxes[:, 1] = at[boxes[:, 1]]
        kinds = kind.ravel()[first]
        rows, columns = np.divmod(first, max(len(at), 1))
        first = (rows + y0) * width + at[columns]
        own = Pieces(kinds, first, boxes, pixels, sums, _Labels(self._strip, count))
        return label, own

    def _touching(self, label: NDArray[np.int32], own: Pieces, at: Counts) -> tuple[Counts, Counts]:
        """Open pieces, and the piece of this strip that shares a side with each across the line."""
        if self._bottom is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        line = self._bottom[at]
        on = np.flatnonzero((line > 0) & (label[0] > 0))
        above, below = line[on] - 1, label[0][on].astype(np.int64) - 1
        same = self._open.kind[above] == own.kind[below]
        return above[same], below[same]

    def _merge(self, own: Pieces, parent: Counts) -> tuple[Pieces, Counts]:
        """Open pieces and a strip's own, joined by ``parent``; and the number of each in them."""
        old = self._open
        roots, number = np.unique(parent, return_inverse=True)
        count = len(roots)
        first = np.full(count, np.iinfo(np.int64).max)
        boxes = np.stack([first, first, np.zeros_like(first), np.zeros_like(first)], axis=1)
        pixels = np.zeros(count, np.int64)
        sums = np.zeros((count, self.columns), np.int64)
        np.minimum.at(first, number, np.concatenate([old.first, own.first]))
        both = np.concatenate([old.boxes, own.boxes])
        np.minimum.at(boxes[:, :2], number, both[:, :2])
        np.maximum.at(boxes[:, 2:], number, both[:, 2:])
        np.add.at(pixels, number, np.concatenate([old.pixels, own.pixels]))
        np.add.at(sums, number, np.concatenate([old.sums, own.sums]))
        kind = np.concatenate([old.kind, own.kind])[roots]
        merged = Pieces(kind, first, boxes, pixels, sums, ())
        return replace(merged, members=_Merged(old, own, parent, roots)), number


class _Merged(Sequence[Sequence[tuple[int, int]]]):
    """Members of pieces that were joined, put together when asked for."""

    def __init__(self, old: Pieces, own: Pieces, parent: Counts, roots: Counts) -> None:
        self._old = old
        self._own = own
        self._roots = roots
        self._more: dict[int, list[int]] = {}
        for node in np.flatnonzero(parent != np.arange(len(parent))):
            self._more.setdefault(int(parent[node]), []).append(int(node))

    def __len__(self) -> int:
        return len(self._roots)

    def __getitem__(self, index: Any) -> Any:
        root = int(self._roots[index])
        before = len(self._old)
        found: list[tuple[int, int]] = []
        for node in (root, *self._more.get(root, ())):
            piece = self._old.members[node] if node < before else self._own.members[node - before]
            found.extend(piece)
        return found
