"""Bands along the edges of masks and label maps, 64 pixels to a word. NumPy only.

A pixel belongs to the band of radius r if the ellipse of 2 r + 1 around it holds two different
values: there OpenCV's morphological gradient with ``MORPH_ELLIPSE`` is not 0, for a label map the
gradient of at least one class. The ellipse is no disc (each of its rows reaches round(sqrt(r^2 -
dy^2)) far), so that for r above 1 a Euclidean distance transform gives other bands. What follows
gives the same ones: the ellipse holds two values exactly if it holds two neighbours, left and
right or above and below, that differ, because a staircase within it joins any two of its pixels.
So the few places where neighbours differ are spread over all pixels that see both of them, row by
row, in words of bits.

Pixel x is bit x % 64 of word x // 64. Before the words of each row lie a few empty ones, its
margin, so that rows behind one another can be moved sideways as one long row of bits: what leaves
a row does not come as far as the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispseg.types import InputError

Words = NDArray[np.uint64]
WORD_PX = 64
ONE, LAST = np.uint64(1), np.uint64(WORD_PX - 1)
STRIP_ROWS, STRIP_PIXELS = 128, 1 << 18  # the least of a strip: what stays in the cache
PACKED_PIXELS = 1 << 17  # of flags at a time, before they are bits


class Strip(NamedTuple):
    """The bands of some rows, where there are any.

    Attributes:
        rows: of the image.
        columns: of the image; begins at a multiple of 64.
        bands: (radii, rows, margin + words) uint64, contiguous; bits of the margin, and those
            beyond the columns, mean nothing.
        margin: number of words.
    """

    rows: slice
    columns: slice
    bands: Words
    margin: int


class BandCounts(NamedTuple):
    """Pixels in bands, exactly.

    Attributes:
        pixels: (radii,) int64, pixels of each band that count.
        right: (masks, radii) int64, those of them that a mask has as the truth has them.
    """

    pixels: NDArray[np.int64]
    right: NDArray[np.int64]

    def shares(self) -> NDArray[np.float64]:
        """(masks, radii), right pixels of the band's; NaN where it has none."""
        shares = np.full(self.right.shape, np.nan)
        np.divide(self.right, self.pixels, out=shares, where=self.pixels > 0)
        return shares


def boundary_band(truth: NDArray[Any], radius: int) -> NDArray[np.bool_]:
    """The pixels within whose elliptic element of 2 r + 1 the truth has more than one value.

    What lies outside the image does not count.

    Args:
        truth: (H, W) bool or integers.
        radius: 1 or more, in pixels.

    Returns:
        (H, W) bool.
    """
    band = np.zeros(truth.shape, np.bool_)
    for rows, columns, (found,), margin in find_bands(truth, [radius]):
        octets = found[:, margin:].astype("<u8").view(np.uint8)
        width = columns.stop - columns.start
        band[rows, columns] = np.unpackbits(octets, axis=1, count=width, bitorder="little")
    return band


def count_bands(
    masks: Sequence[NDArray[Any]],
    truth: NDArray[Any],
    radii: Sequence[int],
    *,
    void: int | None = None,
) -> BandCounts:
    """How many pixels lie in the truth's bands, and how many of them each mask has right.

    Args:
        masks: (H, W) bool or integers each.
        truth: (H, W) of the same kind.
        radii: 1 or more, in pixels, of each band.
        void: value of the truth whose pixels do not count; it makes edges all the same.

    Raises:
        InputError: a mask of another size.
    """
    for mask in masks:
        if mask.shape != truth.shape:
            raise InputError(f"the mask is {mask.shape} but the truth is {truth.shape}")
    each = sorted(set(radii))
    place = [each.index(radius) for radius in radii]
    pixels = np.zeros(len(each), np.int64)
    right = np.zeros((len(masks), len(each)), np.int64)
    for rows, columns, bands, margin in find_bands(truth, each):
        part = truth[rows, columns]
        np.bitwise_and(bands, _valid_words(part, void, margin, bands.shape[2]), out=bands)
        pixels += _count(bands)
        for number, mask in enumerate(masks):
            wrong = _pack(mask[rows, columns], part, margin, bands.shape[2])
            right[number] -= _count(bands & wrong)
    return BandCounts(pixels[place], (right + pixels)[:, place])


def find_bands(truth: NDArray[Any], radii: Sequence[int]) -> Iterator[Strip]:
    """The bands of several radii at once, strip by strip; pixels in no strip are in no band.

    Args:
        truth: (H, W) bool or integers.
        radii: 1 or more, in pixels.
    """
    if min(radii) < 1:
        raise InputError(f"a band's radius must be 1 or more, not {min(radii)}")
    largest = max(radii)
    margin = -(-largest // WORD_PX)
    height, width = truth.shape
    planes = _steps(truth, largest, margin)
    strip_rows = _strip_rows(width)
    for y0 in range(0, height, strip_rows):
        y1 = min(y0 + strip_rows, height)
        halo = slice(y0, y1 + 2 * largest)  # the planes begin ``largest`` rows above the image
        used = np.flatnonzero(np.bitwise_or.reduce(planes[:, halo], axis=(0, 1)))
        if not used.size:
            continue
        first = max(int(used[0]) - margin, margin)
        last = min(int(used[-1]) + margin + 1, planes.shape[2])
        x0, x1 = (WORD_PX * (word - margin) for word in (first, last))
        bands = _spread(np.ascontiguousarray(planes[:, halo, first - margin : last]), radii)
        yield Strip(slice(y0, y1), slice(x0, min(x1, width)), bands, margin)


def _strip_rows(width: int) -> int:
    return max(STRIP_ROWS, STRIP_PIXELS // max(width, 1))


def _steps(truth: NDArray[Any], above: int, margin: int) -> Words:
    """Where a pixel differs from its right neighbour, and from the one below.

    Returns:
        (2, above + H + above, margin + words); empty in the margin and outside the image.
    """
    height, width = truth.shape
    words = margin - (-width // WORD_PX)
    planes = np.zeros((2, height + 2 * above, words), np.uint64)
    strip_rows = _strip_rows(width)
    for y0 in range(0, height, strip_rows):
        part = truth[y0 : y0 + strip_rows + 1]
        rows = part[:strip_rows]
        packed = _pack(rows[:, 1:], rows[:, :-1], margin, words)
        planes[0, above + y0 : above + y0 + len(packed)] = packed
        packed = _pack(part[1:], part[:-1], margin, words)
        planes[1, above + y0 : above + y0 + len(packed)] = packed
    return planes


def _spread(steps: Words, radii: Sequence[int]) -> Words:
    """Bands of the rows in the middle of two planes with a margin of the largest radius.

    ``seen`` holds the pairs of each plane, spread over one reach after the other.

    Returns:
        (radii, rows, margin + words); bits of the margin mean nothing.
    """
    largest = max(radii)
    rows = steps.shape[1] - 2 * largest
    seen = steps
    bands = np.zeros((len(radii), rows, steps.shape[2]), np.uint64)
    for reach_px, sights in enumerate(_sights(tuple(radii))):
        if reach_px == 1:
            seen = _to_both_sides(steps)
            seen[1] |= steps[1]
            seen[0] = steps[0] | _moved_right(steps[0])
        elif reach_px:  # what was spread already is so wide that both copies cover it
            seen = _to_both_sides(seen)
        for number, dy, plane in sights:
            bands[number] |= seen[plane, largest + dy : largest + dy + rows]
    return bands


@lru_cache(maxsize=64)
def _sights(radii: tuple[int, ...]) -> list[list[tuple[int, int, int]]]:
    """Of each reach 0 .. max(radii): which radius sees how far below which plane's pairs.

    A pixel of row y sees the pair (x, x + 1) of row y + dy (plane 0) if both lie within the reach
    of that row of its ellipse, and the pair of rows y + dy and y + dy + 1 (plane 1) if x lies
    within the shorter reach of both.

    Returns:
        For each reach a list of (index of the radius, dy, plane).
    """
    sights: list[list[tuple[int, int, int]]] = [[] for _ in range(max(radii) + 1)]
    for number, radius in enumerate(radii):
        reach = ellipse_reach(radius)
        for dy in range(-radius, radius + 1):
            if reach[abs(dy)]:  # a reach of 0 holds no two pixels beside each other
                sights[reach[abs(dy)]].append((number, dy, 0))
            if dy < radius:
                sights[reach[max(abs(dy), abs(dy + 1))]].append((number, dy, 1))
    return sights


def ellipse_reach(radius: int) -> list[int]:
    """How far the rows dy = 0 .. r of OpenCV's ellipse of 2 r + 1 reach to either side."""
    squares = (radius * radius - dy * dy for dy in range(radius + 1))
    return [round(radius * math.sqrt(square * (1 / radius**2))) for square in squares]


def _moved_right(rows: Words) -> Words:
    """Every bit one pixel further to the right."""
    bits = rows.reshape(-1)
    out = bits << ONE
    out[1:] |= bits[:-1] >> LAST
    return out.reshape(rows.shape)


def _to_both_sides(rows: Words) -> Words:
    """Every bit twice, one pixel further to the left and to the right."""
    bits = rows.reshape(-1)
    out = bits << ONE
    moved = bits >> ONE
    out |= moved
    np.right_shift(bits[:-1], LAST, out=moved[1:])
    out[1:] |= moved[1:]
    np.left_shift(bits[1:], LAST, out=moved[:-1])
    out[:-1] |= moved[:-1]
    return out.reshape(rows.shape)


def _pack(one: NDArray[Any], other: NDArray[Any] | int, margin: int, words: int) -> Words:
    """Where (h, w) values differ, as (h, words), of which the first ``margin`` are empty."""
    if isinstance(other, np.ndarray) and one.dtype == np.bool_ == other.dtype:
        one, other = one.view(np.uint8), other.view(np.uint8)  # bytes are compared faster
    height, width = one.shape
    begin = WORD_PX * margin
    step = max(1, PACKED_PIXELS // (WORD_PX * words))
    flags = np.zeros((min(step, height), WORD_PX * words), np.bool_)
    out = np.empty((height, words), np.uint64)
    for y0 in range(0, height, step):
        rows = slice(y0, min(y0 + step, height))
        some = flags[: rows.stop - y0]
        second = other[rows] if isinstance(other, np.ndarray) else other
        np.not_equal(one[rows], second, out=some[:, begin : begin + width])
        octets = np.packbits(some.reshape(-1), bitorder="little")
        out[rows] = octets.view("<u8").reshape(-1, words)
    return out


def _valid_words(part: NDArray[Any], void: int | None, margin: int, words: int) -> Words:
    """Pixels of the image that are not void, as ``_pack`` has them; without void one row."""
    if void is not None:
        return _pack(part, void, margin, words)
    return _pack(np.ones((1, part.shape[1]), np.uint8), 0, margin, words)


def _count(bands: Words) -> NDArray[np.int64]:
    """(n, rows, words) -> (n,) numbers of pixels."""
    ones = np.bitwise_count(bands.reshape(len(bands), -1))
    return np.asarray(ones.sum(axis=1, dtype=np.int64))
