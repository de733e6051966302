"""Objects of a label map: connected pieces, who touches whom, and colours that tell them apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispseg.tiling.pieces import components
from crispseg.types import Size

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int32]
Labels = NDArray[Any]
"""(H, W) uint8 or uint16."""

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
    parents = list(range(int(pieces.max()) + 1))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for first, second in np.unique(np.concatenate(corners), axis=0).tolist():
        parents[max(root(first), root(second))] = min(root(first), root(second))
    roots = np.array([root(i) for i in range(len(parents))])[pieces]
    numbers = np.zeros(mask.shape, np.int32)
    numbers[mask] = np.unique(roots[mask], return_inverse=True)[1] + 1
    return numbers


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
    where it costs less until none does. Planar maps need four colours; this nearly always finds
    them, and where it does not, the shortest borders stay uncoloured.

    Args:
        areas: (n,) pixels of each piece.
        touching: their borders.
        colours: how many there are.

    Returns:
        (n,) colours, 0 .. colours - 1.
    """
    neighbours: list[list[tuple[int, int]]] = [[] for _ in areas]
    for a, b, length in zip(*(v.tolist() for v in touching), strict=True):
        neighbours[a].append((b, length))
        neighbours[b].append((a, length))
    chosen = np.full(len(areas), -1, np.int64).tolist()

    def cheapest(piece: int) -> int:
        costs = [0] * colours
        for other, length in neighbours[piece]:
            if chosen[other] >= 0:
                costs[chosen[other]] += length
        own = chosen[piece]
        if own >= 0 and costs[own] == min(costs):
            return int(own)
        return costs.index(min(costs))

    order = np.argsort(-areas, kind="stable").tolist()
    for piece in order:
        chosen[piece] = cheapest(piece)
    for _ in range(20):
        before = list(chosen)
        for piece in order:
            chosen[piece] = cheapest(piece)
        if chosen == before:
            break
    return np.array(chosen, np.int64)


def nearest_within(labels: Labels, members: Flags, reach: int, nothing: int) -> Labels:
    """The label of a near member, for each pixel; ``nothing`` where none is within reach.

    Members spread by a pixel at a time, in turn to their 4 and to their 8 neighbours.

    Args:
        labels: (H, W).
        members: (H, W) bool, the pixels that spread their label.
        reach: in pixels.
        nothing: a value that is no label.
    """
    spread = np.where(members, labels.astype(np.int32), nothing)
    size = Size(*labels.shape)
    for step in range(reach):
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
