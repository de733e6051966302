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
Flags = NDArray[np.uint8]
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
        return self.right / np.where(self.pixels > 0, self.pixels, np.nan)


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
        part = edges[:, start : end + 2 * largest]  # row 0 lies ``largest`` above the image
        places = ((part[0] | part[1]) != 0).reshape(-1).nonzero()[0]
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
        if valid is not None:  # nothing beyond the image is valid
            bands &= valid[y0:y1, first:last]
        if valid is None or columns.stop < width:
            bands &= _first_bits(columns.stop - columns.start, bands.shape[2])
        yield Strip(slice(y0, y1), columns, bands)


def _comparable(values: NDArray[Any]) -> NDArray[Any]:
    """The same as bytes if it is bool: bytes are compared faster."""
    return values.view(np.uint8) if values.dtype == np.bool_ else values


def _mark_differences(one: NDArray[Any], other: NDArray[Any] | int, out: Flags) -> None:
    """Write where integers differ from others or from one number: not 0, but any that is not."""
    if one.dtype == np.uint8 and (isinstance(other, int) or other.dtype == np.uint8):
        np.bitwise_xor(one, other, out=out)  # in less than half the time of a comparison
    else:
        np.not_equal(one, other, out=out.view(np.bool_))


def _strip_rows(width: int) -> int:
    return max(STRIP_ROWS, STRIP_PIXELS // max(width, 1))


def _edges(truth: NDArray[Any], above: int, void: int | None) -> tuple[Words, Words | None]:
    """Pixels that differ from a neighbour beside them, and from one above or below.

    Returns:
        (2, above + H + above, words), empty outside the image; (H, words) pixels that are not
        void, None if void is none of its numbers.
    """
    truth = _comparable(truth)
    if void is not None and not _holds(truth, void):
        void = None
    height, width = truth.shape
    words = -(-(width + above) // WORD_PX)
    pitch = WORD_PX * words
    edges = np.zeros((2, height + 2 * above, words), np.uint64)
    valid = None if void is None else np.empty((height, words), np.uint64)
    step = max(1, min(PACKED_PIXELS // pitch, height))
    padded = np.empty((step + 1, pitch), truth.dtype)  # each operation below is one long row
    padded[:, width:] = void or 0
    flags, sides = np.empty((2, step * pitch), np.uint8)
    for y0 in range(0, height, step):
        part = truth[y0 : y0 + step + 1]  # and the first row of the next
        padded[: len(part), :width] = part
        values = padded[: len(part)].reshape(-1)
        rows = min(step, height - y0)
        size, inner = rows * pitch, (len(part) - 1) * pitch
        _mark_differences(values[1:size], values[: size - 1], flags[: size - 1])
        flags[width - 1 : size : pitch] = 0  # beyond is no neighbour, nor is the next row
        flags[pitch - 1 : size : pitch] = 0
        sides[0] = flags[0]
        np.bitwise_or(flags[1:size], flags[: size - 1], out=sides[1:size])
        place = slice(above + y0, above + y0 + rows)
        edges[0, place] = _packed(sides[:size], words)
        _mark_differences(values[pitch:], values[:inner], flags[:inner])
        flags[inner:size] = 0
        below = _packed(flags[:size], words)
        edges[1, place] |= below
        edges[1, above + y0 + 1 : above + y0 + rows + 1] |= below
        if valid is not None and void is not None:
            _mark_differences(values[:size], void, flags[:size])
            valid[y0 : y0 + rows] = _packed(flags[:size], words)
    return edges, valid


def _holds(values: NDArray[Any], number: int) -> bool:
    """Whether the type of integers can hold a number."""
    limits = np.iinfo(values.dtype)
    return bool(limits.min <= number <= limits.max)


def _spread(edges: Words, radii: Sequence[int]) -> Words:
    """Bands of the rows in the middle of two planes with a margin of the largest radius.

    Returns:
        (radii, rows, words).
    """
    rows = edges.shape[1] - 2 * max(radii)
    bands = np.zeros((len(radii), rows, edges.shape[2]), np.uint64)
    planes, waiting = list(bands), {0: edges[1]}
    for reach_px, sights in enumerate(_sights(tuple(radii)), 1):
        wider = _to_both_sides(edges if reach_px < max(radii) else edges[1:])
        if reach_px == 1:  # later they are so wide that both copies cover them
            wider[-1] |= edges[1]
        waiting[reach_px] = wider[-1]
        for shorter_px, places in sights.items():
            seen = edges[0] | waiting[shorter_px]
            for number, y in places:
                np.bitwise_or(planes[number], seen[y : y + rows], out=planes[number])
        edges = wider
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
    """Where (h, w) values differ from each of the others, as (h, words); beyond w, anything."""
    height, width = one.shape
    flags = np.empty((height, WORD_PX * words), np.uint8)
    for other in others:
        _mark_differences(one, other, flags[:, :width])
        yield _packed(flags.reshape(-1), words)


@lru_cache(maxsize=64)
def _first_bits(width: int, words: int) -> Words:
    """(words,), the first ``width`` bits set; not to be changed."""
    flags = (np.arange(WORD_PX * words) < width).view(np.uint8)
    return _packed(flags, words).reshape(words)


def _packed(flags: Flags, words: int) -> Words:
    """(h * 64 words,) -> (h, words); a bit is set where a flag is not 0."""
    packed: Words = np.packbits(flags, bitorder="little").view(np.uint64).reshape(-1, words)
    return packed


def _count(bands: Words) -> NDArray[np.int64]:
    """(n, rows, words) -> (n,) numbers of pixels."""
    ones = np.bitwise_count(bands.reshape(len(bands), -1))
    return np.asarray(ones.sum(axis=1, dtype=np.int64))
