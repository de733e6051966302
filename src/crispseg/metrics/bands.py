"""Bands along the edges of masks and label maps, 64 pixels to a word. NumPy only.

A pixel belongs to the band of radius r if the ellipse of 2 r + 1 around it holds two different
values: there OpenCV's morphological gradient with ``MORPH_ELLIPSE`` is not 0, for a label map the
gradient of at least one class. The ellipse is no disc (each of its rows reaches round(sqrt(r^2 -
dy^2)) far), so that for r above 1 a Euclidean distance transform gives other bands. What follows
gives the same ones: the ellipse holds two values exactly if it holds two neighbours, left and
right or above and below, that differ, because a staircase within it joins any two of its pixels.
So the few places where neighbours differ are spread over all pixels that see both of them, row by
row, in words of bits.

Pixel x is bit x % 64 of word x // 64. The words of a row end in at least as many empty bits as the
largest radius, so that rows behind one another can be moved sideways as one long row of bits: what
leaves a row does not come as far as the next.
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
STRIP_ROWS, STRIP_PIXELS = 128, 1 << 18
PACKED_PIXELS = 1 << 18  # of flags at a time, before they are bits
FEW_WORDS = 16  # of a row, which may be empty without much harm


class Strip(NamedTuple):
    """The bands of a box of the image; together, the boxes hold all bands.

    Attributes:
        rows: of the image.
        columns: of the image; begins at a multiple of 64.
        bands: (radii, rows, words) uint64, contiguous; empty beyond the columns.
    """

    rows: slice
    columns: slice
    bands: Words


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
    for rows, columns, (found,) in find_bands(truth, [radius]):
        octets = found.astype("<u8").view(np.uint8)
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
    masks, truth = [_comparable(mask) for mask in masks], _comparable(truth)
    each = sorted(set(radii))
    pixels = np.zeros(len(each), np.int64)
    right = np.zeros((len(masks), len(each)), np.int64)
    for rows, columns, bands in find_bands(truth, each, void=void):
        pixels += _count(bands)
        parts = [mask[rows, columns] for mask in masks]
        for number, wrong in enumerate(_differences(truth[rows, columns], parts, bands.shape[2])):
            right[number] -= _count(bands & wrong)
    right += pixels
    place = [each.index(radius) for radius in radii]
    return BandCounts(pixels.take(place), right.take(place, axis=1))


def find_bands(
    truth: NDArray[Any], radii: Sequence[int], *, void: int | None = None
) -> Iterator[Strip]:
    """The bands of several radii at once, box by box; pixels in no box are in no band.

    Args:
        truth: (H, W) bool or integers.
        radii: 1 or more, in pixels.
        void: value of the truth whose pixels are in no band; it makes edges all the same.
    """
    if min(radii) < 1:
        raise InputError(f"a band's radius must be 1 or more, not {min(radii)}")
    height, width = truth.shape
    largest = max(radii)
    margin = -(-largest // WORD_PX)
    edges, valid = _edges(truth, largest, void)
    strip_rows = _strip_rows(width)
    for start in range(0, height, strip_rows):
        end = min(start + strip_rows, height)
        sides, ends = edges[:, start : end + 2 * largest]  # row 0 lies ``largest`` above the image
        places = ((sides | ends) != 0).reshape(-1).nonzero()[0]
        if not places.size:
            continue
        words = edges.shape[2]
        y0 = max(start, start + int(places[0]) // words - 2 * largest)
        y1 = min(end, start + int(places[-1]) // words + 1)
        first, last = 0, words
        if words > FEW_WORDS:
            used = places % words
            first, last = max(int(used.min()) - margin, 0), int(used.max()) + 1 + margin
        columns = slice(WORD_PX * first, min(WORD_PX * last, width))
        last += margin  # space for what leaves the next row
        near = edges[:, y0 : y1 + 2 * largest, first:last]
        bands = _spread(np.ascontiguousarray(near), radii)
        inside = _first_bits(columns.stop - columns.start, bands.shape[2])
        bands &= inside if valid is None else valid[y0:y1, first:last] & inside
        yield Strip(slice(y0, y1), columns, bands)


def _comparable(values: NDArray[Any]) -> NDArray[Any]:
    """The same as bytes if it is bool: bytes are compared faster."""
    return values.view(np.uint8) if values.dtype == np.bool_ else values


def _strip_rows(width: int) -> int:
    return max(STRIP_ROWS, STRIP_PIXELS // max(width, 1))


def _edges(truth: NDArray[Any], above: int, void: int | None) -> tuple[Words, Words | None]:
    """Pixels that differ from a neighbour beside them, and from one above or below.

    Returns:
        (2, above + H + above, words), empty outside the image; (H, words) pixels that are not
        void, None without void.
    """
    truth = _comparable(truth)
    height, width = truth.shape
    words = -(-(width + above) // WORD_PX)
    edges = np.zeros((2, height + 2 * above, words), np.uint64)
    valid = None if void is None else np.empty((height, words), np.uint64)
    step = max(1, PACKED_PIXELS // (WORD_PX * words))
    flags = np.zeros((2 if void is None else 3, min(step, height), WORD_PX * words), np.bool_)
    for y0 in range(0, height, step):
        part = truth[y0 : y0 + step + 1]  # and the first row of the next
        rows = min(step, height - y0)
        some = flags[:, :rows]
        np.not_equal(part[:rows, 1:], part[:rows, :-1], out=some[0, :, : width - 1])
        np.not_equal(part[1:], part[:-1], out=some[1, : len(part) - 1, :width])
        some[1, len(part) - 1 :] = False
        if void is not None:
            np.not_equal(part[:rows], void, out=some[2, :, :width])
        packed = _packed(some)
        edges[:, above + y0 : above + y0 + rows] = packed[:2]
        if valid is not None:
            valid[y0 : y0 + rows] = packed[2]
    edges[0] |= _moved_right(edges[0])
    edges[1, 1:] |= edges[1, :-1].copy()
    return edges, valid


def _spread(edges: Words, radii: Sequence[int]) -> Words:
    """Bands of the rows in the middle of two planes with a margin of the largest radius.

    Returns:
        (radii, rows, words).
    """
    rows = edges.shape[1] - 2 * max(radii)
    bands = np.zeros((len(radii), rows, edges.shape[2]), np.uint64)
    planes, waiting = list(bands), {0: edges[1]}
    for reach_px, sights in enumerate(_sights(tuple(radii)), 1):
        if reach_px == 1:
            edges = edges.copy()
            edges[1] |= _to_both_sides(edges[1])
        else:  # what was spread already is so wide that both copies cover it
            edges = _to_both_sides(edges)
        waiting[reach_px] = edges[1]
        for shorter_px, places in sights.items():
            seen = edges[0] | waiting[shorter_px]
            for number, y in places:
                np.bitwise_or(planes[number], seen[y : y + rows], out=planes[number])
    return bands


@lru_cache(maxsize=64)
def _sights(radii: tuple[int, ...]) -> list[dict[int, list[tuple[int, int]]]]:
    """Of each reach 1 .. max(radii): where which radius sees edges that were spread so far.

    The rows dy and dy + 1 of an ellipse reach a and b, a >= b. A pixel sees two neighbours in row
    dy if both lie within a of it; and one in row dy with one in row dy + 1 if it lies within b.
    With the edge between rows dy - 1 and dy, of which it sees more than b, both are looked up in
    row dy.

    Returns:
        For each reach a a dict: reach b -> list of (index of the radius, first row of the planes).
    """
    largest = max(radii)
    sights: list[dict[int, list[tuple[int, int]]]] = [{} for _ in range(largest)]
    for number, radius in enumerate(radii):
        reach = ellipse_reach(radius)
        for dy in range(1 - radius, radius):
            places = sights[reach[abs(dy)] - 1].setdefault(reach[abs(dy) + 1], [])
            places.append((number, largest + dy))
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
    out, moved = bits << ONE, bits >> ONE
    out |= moved
    before, after, carried = bits[:-1], bits[1:], moved[1:]
    later, earlier = out[1:], out[:-1]
    later |= np.right_shift(before, LAST, out=carried)
    earlier |= np.left_shift(after, LAST, out=carried)
    return out.reshape(rows.shape)


def _differences(one: NDArray[Any], others: Sequence[NDArray[Any]], words: int) -> Iterator[Words]:
    """Where (h, w) values differ from each of the others, as (h, words)."""
    height, width = one.shape
    flags = np.zeros((height, WORD_PX * words), np.bool_)
    for other in others:
        np.not_equal(one, other, out=flags[:, :width])
        yield _packed(flags)


@lru_cache(maxsize=64)
def _first_bits(width: int, words: int) -> Words:
    """(words,), the first ``width`` bits set; not to be changed."""
    return _packed(np.arange(WORD_PX * words) < width)


def _packed(flags: NDArray[np.bool_]) -> Words:
    """(n, h, 64 words) -> (n, h, words)."""
    octets = np.packbits(flags.reshape(-1), bitorder="little")
    return octets.view(np.uint64).reshape(*flags.shape[:-1], flags.shape[-1] // WORD_PX)


def _count(bands: Words) -> NDArray[np.int64]:
    """(n, rows, words) -> (n,) numbers of pixels."""
    ones = np.bitwise_count(bands.reshape(len(bands), -1))
    return np.asarray(ones.sum(axis=1, dtype=np.int64))
