"""Objects of a label map: connected pieces, who touches whom, and colours that tell them apart."""

from __future__ import annotations

from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispseg.tiling.pieces import components, group_roots
from crispseg.types import Size

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int32]
Labels = NDArray[Any]
"""(H, W) uint8 or uint16."""
Neighbours = list[list[tuple[int, int]]]
"""Of each piece the pieces that it touches, and over how many pairs of pixels."""

DISC = 10
"""Diameter of the disc that joins near pieces of a class (CascadePSP's scene code), in pixels."""


def connected(labels: Labels) -> Numbers:
    """(H, W) int32: the number 0, 1, ... of the piece of one label, 4 neighbours, of each pixel."""
    return components(labels.astype(np.int32) + 1)[0] - 1


def connected_8(mask: Flags) -> Numbers:
    """(H, W) int32: 0 outside, else the number 1, 2, ... of the piece, 8 neighbours."""
    pieces = connected(mask.astype(np.uint8))
    corners = []
    for a, b in (((1, 1), (0, 0)), ((1, 0), (0, 1))):  # diagonal neighbours: below, above
        height, width = mask.shape
        low = (slice(a[0], height - 1 + a[0]), slice(a[1], width - 1 + a[1]))
        high = (slice(b[0], height - 1 + b[0]), slice(b[1], width - 1 + b[1]))
        both = mask[low] & mask[high]
        corners.append(np.stack([pieces[low][both], pieces[high][both]], axis=1))
    # Of all pieces with a pixel in the mask: those of the background are not counted.
    first, second = np.concatenate(corners).T
    roots = group_roots(int(pieces.max()) + 1, first, second).astype(np.int32)
    inside = np.where(mask, roots[pieces], -1)
    return np.append(_ranks(inside[mask]) + 1, np.int32(0))[inside]


def _ranks(numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """(largest + 1,) int32: of each number that occurs, how many smaller ones do."""
    return np.cumsum(np.bincount(numbers.ravel()) > 0, dtype=np.int32) - 1


def disc_reaches(diameter: int) -> list[tuple[int, int, int]]:
    """Rows of OpenCV's elliptic element of this width and height: (dy, first dx, last dx)."""
    radius = diameter // 2
    rows = []
    for y in range(diameter):
        above = max(radius * radius - (y - radius) ** 2, 0)
        reach = round(radius * np.sqrt(above / radius**2))
        last = min(reach, diameter - 1 - radius)
        rows.append((y - radius, -min(reach, radius), last))
    return rows


def dilate_square(mask: Flags, radius: int) -> Flags:
    """(h, w) bool: the squares of 2 ``radius`` + 1 pixels around all that is set, in a few steps.

    What has grown by k pixels is k + 1 wide at least, at a border, and may move by that at once.
    """
    for axis in (0, 1):
        lines, done = mask.swapaxes(0, axis), 0
        while done < radius:
            step = min(done + 1, radius - done)
            wider = lines.copy(order="K")  # rows stay rows
            wider[step:] |= lines[:-step]
            wider[:-step] |= lines[step:]
            lines, done = wider, done + step
        mask = lines.swapaxes(0, axis)
    return mask


def dilate(mask: Flags, rows: list[tuple[int, int, int]]) -> Flags:
    """The pixels from which an element, given by its rows, reaches a pixel of the mask."""
    height, width = mask.shape
    reach = max(max(-a, b) for _, a, b in rows) + 1
    padded = np.pad(mask, ((0, 0), (reach + 1, reach)))
    sums = np.cumsum(padded, axis=1, dtype=np.int32)
    result = np.zeros_like(mask)
    for dy, first, last in rows:
        start, stop = reach + first, reach + last + 1
        hit = sums[:, stop : stop + width] > sums[:, start : start + width]
        top, bottom = max(-dy, 0), min(height, height - dy)
        if top < bottom:
            result[top:bottom] |= hit[top + dy : bottom + dy]
    return result


def erode(mask: Flags, rows: list[tuple[int, int, int]]) -> Flags:
    """The pixels from which the element reaches nothing but the mask, or out of the image."""
    return ~dilate(~mask, rows)


class Borders(NamedTuple):
    """Which pieces touch, and over how many pairs of pixels: three arrays of equal length."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    length: NDArray[np.int64]

    def where(self, kept: Flags) -> Borders:
        """Those of which ``kept`` (n,) is true."""
        return Borders(self.first[kept], self.second[kept], self.length[kept])


def borders(pieces: Numbers) -> Borders:
    """All pairs of touching pieces (4 neighbours), the smaller number first."""
    count = int(pieces.max()) + 1
    codes = []
    for a, b in ((pieces[1:], pieces[:-1]), (pieces[:, 1:], pieces[:, :-1])):
        differ = a != b
        low = np.minimum(a[differ], b[differ]).astype(np.int64)
        codes.append(low * count + np.maximum(a[differ], b[differ]))
    pairs, lengths = np.unique(np.concatenate(codes), return_counts=True)
    return Borders(pairs // count, pairs % count, lengths)


def colour(areas: NDArray[np.int64], touching: Borders, colours: int) -> NDArray[np.int64]:
    """Give touching pieces different colours, or at least those that touch over a long border.

    Large pieces come first and take the lowest colour that costs least; then each piece moves
    where it costs less until none does; what still touches its like is freed by Kempe's chains.
    Planar maps need four colours; this nearly always finds them, and where it does not, the
    shortest borders stay uncoloured.

    Args:
        areas: (n,) pixels of each piece.
        touching: their borders.
        colours: how many there are.

    Returns:
        (n,) colours, 0 .. colours - 1.
    """
    neighbours: Neighbours = [[] for _ in areas]
    for a, b, length in zip(*(v.tolist() for v in touching), strict=True):
        neighbours[a].append((b, length))
        neighbours[b].append((a, length))
    chosen = [-1] * len(areas)
    order = np.argsort(-areas, kind="stable").tolist()
    for _ in range(20):
        before = list(chosen)
        for piece in order:
            chosen[piece] = _cheapest(piece, chosen, neighbours, colours)
        if chosen == before:
            break
    for piece in order:
        if any(chosen[other] == chosen[piece] for other, _ in neighbours[piece]):
            _free(piece, chosen, neighbours, colours)
    return np.array(chosen, np.int64)


def _cheapest(piece: int, chosen: list[int], neighbours: Neighbours, colours: int) -> int:
    """The lowest colour with the shortest border to its like, or the piece's own if as good."""
    costs = [0] * colours
    for other, length in neighbours[piece]:
        if chosen[other] >= 0:
            costs[chosen[other]] += length
    own, least = chosen[piece], min(costs)
    return own if own >= 0 and costs[own] == least else costs.index(least)


def _free(piece: int, chosen: list[int], neighbours: Neighbours, colours: int) -> None:
    """Give a piece a colour that no neighbour has, if swapping two colours elsewhere allows it.

    The neighbours of one colour, and all that hangs together with them in this and another
    colour, swap the two; if that is no neighbour of the other colour, the first is free.
    """
    around = [other for other, _ in neighbours[piece]]
    for wanted, instead in permutations(range(colours), 2):
        chain = {other for other in around if chosen[other] == wanted}
        ends = list(chain)
        while ends:
            for other, _ in neighbours[ends.pop()]:
                if other not in chain and other != piece and chosen[other] in (wanted, instead):
                    chain.add(other)
                    ends.append(other)
        if not any(chosen[other] == instead and other in chain for other in around):
            for other in chain:
                chosen[other] = wanted + instead - chosen[other]
            chosen[piece] = wanted
            return


def nearest_within(
    labels: Labels, members: Flags, reach: int, nothing: int, *, asked: Flags
) -> Labels:
    """The label of a near member, for each pixel; ``nothing`` where none is within reach.

    Members spread by a pixel at a time, in turn to their 4 and to their 8 neighbours.

    Args:
        labels: (H, W).
        members: (H, W) bool, the pixels that spread their label.
        reach: in pixels.
        nothing: a value that is no label.
        asked: (H, W) bool, the pixels to answer for; what others get may be ``nothing``.
    """
    spread = np.where(members, labels.astype(np.int32), nothing)
    size = Size(*labels.shape)
    for step in range(reach):
        if not (asked & (spread == nothing)).any():
            break
        before = spread.copy()
        shifts = [(1, 0), (-1, 0), (0, 1), (0, -1)]
        if step % 2:
            shifts += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
        for dy, dx in shifts:
            to = spread[max(dy, 0) : size.height + min(dy, 0), max(dx, 0) : size.width + min(dx, 0)]
            source = before[
                max(-dy, 0) : size.height + min(-dy, 0), max(-dx, 0) : size.width + min(-dx, 0)
            ]
            np.copyto(to, source, where=to == nothing)
    return spread
