"""Bands along the edges of masks and label maps, eight pixels to a byte. NumPy only.

A pixel belongs to the band of radius r if the ellipse of 2 r + 1 around it holds two different
values: there OpenCV's morphological gradient with ``MORPH_ELLIPSE`` is not 0, for a label map the
gradient of at least one class. The ellipse is no disc (each of its rows reaches round(sqrt(r^2 -
dy^2)) far), so that for r above 1 a Euclidean distance transform gives other bands. What follows
gives the same ones: the ellipse holds two values exactly if it holds two neighbours, left and
right or above and below, that differ, because a staircase within it joins any two of its pixels.
So the few places where neighbours differ are spread over all pixels that see both of them, row by
row, in words of bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crispseg.types import InputError

Bits = NDArray[np.uint8]
STRIP_ROWS, STRIP_BYTES = 128, 1 << 15  # the least of a strip: what stays in the cache
WORD_BYTES = 8


class Strip(NamedTuple):
    """The bands of some rows, where there are any.

    Attributes:
        rows: of the image.
        columns: of the image; begins at a multiple of 8.
        bands: (radii, rows, bytes) uint8, contiguous, a whole number of 8-byte words in a row;
            the highest bit of a byte is its leftmost pixel, bits beyond the columns are 0.
    """

    rows: slice
    columns: slice
    bands: Bits


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
    for strip in find_bands(truth, [radius]):
        width = strip.columns.stop - strip.columns.start
        band[strip.rows, strip.columns] = np.unpackbits(strip.bands[0], axis=1, count=width)
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
    each, place = np.unique(radii, return_inverse=True)
    pixels = np.zeros(len(each), np.int64)
    right = np.zeros((len(masks), len(each)), np.int64)
    for rows, columns, bands in find_bands(truth, each.tolist()):
        part = truth[rows, columns]
        if void is not None:
            np.bitwise_and(bands, _pack(np.not_equal(part, void), bands.shape[2]), out=bands)
        pixels += _count(bands)
        for number, mask in enumerate(masks):
            wrong = _pack(_differ(mask[rows, columns], part), bands.shape[2])
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
    height, width = truth.shape
    across, down = _steps(truth)
    row_used = _dilated(np.any(across | down, axis=1), largest)
    strip_rows = _strip_rows(width)
    for y0 in range(0, height, strip_rows):
        y1 = min(y0 + strip_rows, height)
        if not row_used[y0:y1].any():
            continue
        halo = slice(max(y0 - largest, 0), min(y1 + largest, height))
        used = np.flatnonzero(np.any(across[halo] | down[halo], axis=0))
        reach = largest // 8 + 1
        first = max(int(used[0]) - reach, 0)
        last = min(int(used[-1]) + reach + 1, across.shape[1])
        last += -(last - first) % WORD_BYTES
        near_across, near_down = (
            _cut(step, y0, y1, first, last, largest) for step in (across, down)
        )
        bands = _spread(near_across, near_down, radii, y1 - y0)
        inside = np.arange(8 * first, 8 * last) < width
        bands &= np.packbits(inside)
        yield Strip(slice(y0, y1), slice(8 * first, min(8 * last, width)), bands)


def _strip_rows(width: int) -> int:
    return max(STRIP_ROWS, STRIP_BYTES * 8 // max(width, 1))


def _steps(truth: NDArray[Any]) -> tuple[Bits, Bits]:
    """Where a pixel differs from its right neighbour, and from the one below: (H, bytes)."""
    height, width = truth.shape
    across, down = np.zeros((2, height, -(-width // 8)), np.uint8)
    strip_rows = _strip_rows(width)
    for y0 in range(0, height, strip_rows):
        y1 = min(y0 + strip_rows, height)
        part = truth[y0 : y1 + 1]
        packed = np.packbits(_differ(part[: y1 - y0, 1:], part[: y1 - y0, :-1]), axis=1)
        across[y0:y1, : packed.shape[1]] = packed
        packed = np.packbits(_differ(part[1:], part[:-1]), axis=1)
        down[y0 : y0 + len(packed)] = packed
    return across, down


def _spread(across: Bits, down: Bits, radii: Sequence[int], rows: int) -> Bits:
    """Bands of the rows in the middle of two pieces with a margin of the largest radius.

    A pixel of row y sees the pair (x, x + 1) of row y + dy if both lie within the reach of that
    row of its ellipse, and the pair of rows y + dy and y + dy + 1 if x lies within the shorter
    reach of both. ``wide`` and ``tall`` hold the pairs, spread over one reach after the other.
    """
    largest = max(radii)
    side = largest // 8 + 1
    by_reach: dict[int, list[tuple[int, int, bool]]] = {}
    for number, radius in enumerate(radii):
        reach = ellipse_reach(radius)
        for dy in range(-radius, radius + 1):
            by_reach.setdefault(reach[abs(dy)], []).append((number, dy, True))
            if dy < radius:
                shorter = reach[max(abs(dy), abs(dy + 1))]
                by_reach.setdefault(shorter, []).append((number, dy, False))
    wide_shifts, tall_shifts = _Shifts(across, side), _Shifts(down, side)
    tall = tall_shifts.by(0).copy()
    wide = np.zeros_like(tall)
    bands = np.zeros((len(radii), rows, tall.shape[1]), np.uint8)
    for reach_px in range(largest + 1):
        if reach_px:
            wide |= wide_shifts.by(reach_px)
            wide |= wide_shifts.by(1 - reach_px)
            tall |= tall_shifts.by(reach_px)
            tall |= tall_shifts.by(-reach_px)
        for number, dy, is_wide in by_reach.get(reach_px, ()):
            source = wide if is_wide else tall
            bands[number] |= source[largest + dy : largest + dy + rows]
    return bands


def ellipse_reach(radius: int) -> list[int]:
    """How far the rows dy = 0 .. r of OpenCV's ellipse of 2 r + 1 reach to either side."""
    squares = (radius * radius - dy * dy for dy in range(radius + 1))
    return [round(radius * math.sqrt(square * (1 / radius**2))) for square in squares]


class _Shifts:
    """Rows of bits moved sideways by any number of pixels.

    Args:
        bits: (rows, bytes + 2 * side), what lies at the sides counts as well.
        side: bytes that the result has less at each side.
    """

    def __init__(self, bits: Bits, side: int) -> None:
        self.side = side
        self.moved = {0: bits}

    def by(self, pixels: int) -> Bits:
        """Moved to the right, or to the left where negative."""
        whole, rest = divmod(pixels, 8)
        bits = self.moved[0]
        if rest not in self.moved:
            self.moved[rest] = bits >> np.uint8(rest)
            self.moved[rest][:, 1:] |= bits[:, :-1] << np.uint8(8 - rest)
        begin = self.side - whole
        return self.moved[rest][:, begin : begin + bits.shape[1] - 2 * self.side]


def _cut(bits: Bits, y0: int, y1: int, first: int, last: int, margin: int) -> Bits:
    """Rows y0 - margin .. y1 + margin, bytes first .. last with room at the sides; 0 outside."""
    side = margin // 8 + 1
    out = np.zeros((y1 - y0 + 2 * margin, last - first + 2 * side), np.uint8)
    top, bottom = max(y0 - margin, 0), min(y1 + margin, len(bits))
    left, right = max(first - side, 0), min(last + side, bits.shape[1])
    out[top - y0 + margin : bottom - y0 + margin, left - first + side : right - first + side] = (
        bits[top:bottom, left:right]
    )
    return out


def _differ(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    if one.dtype == np.bool_ == other.dtype:  # bytes are compared faster than bools
        one, other = one.view(np.uint8), other.view(np.uint8)
    return np.asarray(np.not_equal(one, other))


def _pack(flags: NDArray[np.bool_], length: int) -> Bits:
    """(h, w) bool -> (h, length) bytes."""
    out = np.zeros((len(flags), length), np.uint8)
    packed = np.packbits(flags, axis=1)
    out[:, : packed.shape[1]] = packed
    return out


def _count(bands: Bits) -> NDArray[np.int64]:
    """(n, rows, bytes) -> (n,) numbers of pixels."""
    ones = np.bitwise_count(bands.reshape(len(bands), -1).view(np.uint64))
    return np.asarray(ones.sum(axis=1, dtype=np.int64))


def _dilated(flags: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """Whether one of the ``margin`` flags before or behind is set, or the one itself."""
    near = np.convolve(flags, np.ones(2 * margin + 1, np.int32))
    return np.asarray(near[margin : margin + len(flags)] > 0)
