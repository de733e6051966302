"""Bilinear enlarging, a window at a time, without a second full image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.windows import MaskSource
from crispseg.types import Box, InputError, Mask, Size


@dataclass(frozen=True, slots=True)
class Part:
    """That an array is only a part of a larger one.

    Attributes:
        whole: size of the larger one.
        box: which part.
    """

    whole: Size
    box: Box


def bilinear_source(whole: Size, size: Size, box: Box) -> Box:
    """The part of an array of size ``whole`` that ``bilinear_window`` reads for ``box``."""
    if whole == size:
        return box
    y0, y1 = _bilinear_span(whole.height, size.height, box.y0, box.y1)
    x0, x1 = _bilinear_span(whole.width, size.width, box.x0, box.x1)
    return Box(y0, x0, y1, x1)


def bilinear_reach(whole: Size, size: Size, source: Box) -> Box:
    """The part of an array resized to ``size`` outside of which ``source`` has no weight.

    Args:
        whole: size of the array.
        size: of the resized array.
        source: inside ``whole``.

    Returns:
        A box around all such pixels, a pixel or two wider.
    """
    spans = (
        (math.floor((first - 0.5) * out / length) - 1, math.ceil((last + 0.5) * out / length) + 1)
        for first, last, out, length in (
            (source.y0, source.y1, size.height, whole.height),
            (source.x0, source.x1, size.width, whole.width),
        )
    )
    (y0, y1), (x0, x1) = spans
    return Box(y0, x0, y1, x1).clip(size)


def bilinear_window(
    array: NDArray[Any], size: Size, box: Box, part: Part | None = None, out: Mask | None = None
) -> NDArray[np.float32]:
    """The part ``box`` of ``array`` resized to ``size``, without making the rest.

    Pixel centres map as with ``align_corners=False``; equal to the same window of PyTorch's
    bilinear interpolation to about 1e-6 of the range. Nothing is averaged when sizes shrink.

    Args:
        array: (..., h, w), any numbers; the last two axes are resized.
        size: of the resized array.
        box: inside ``size``.
        part: ``array`` is only this part of what is resized; it holds ``bilinear_source``.
        out: takes the result if it is given; of its shape, in any layout.

    Returns:
        (..., box.height, box.width) float32; the same bits whether a part or the whole is given.
    """
    shape = Size(*array.shape[-2:])
    whole, held = (part.whole, part.box) if part else (shape, Box(0, 0, *shape))
    if size == (2 * whole.height, 2 * whole.width):
        top, bottom = max(box.y0 // 2 - 1, held.y0), min(-(-box.y1 // 2) + 1, held.y1)
        rows = array[..., top - held.y0 : bottom - held.y0, :]
        # in the layout of the result, so that the larger of both steps is one along memory
        room = None if out is None else np.empty_like(out, shape=(*rows.shape[:-1], box.width))
        wide = _doubled_along(rows, -1, (box.x0, box.x1), held.x0, room)
        return _doubled_along(wide, -2, (box.y0, box.y1), top, out)
    result = np.empty((*array.shape[:-2], *box.size), np.float32) if out is None else out
    if whole == size:
        result[...] = array[..., *box.shift(-held.y0, -held.x0).slices]
        return result
    y, y_next, fy = _bilinear_taps(whole.height, size.height, box.y0, box.y1)
    x, x_next, fx = _bilinear_taps(whole.width, size.width, box.x0, box.x1)
    x, x_next = x - held.x0, x_next - held.x0
    each = max(BILINEAR_BAND_PX // box.width, 1)
    for top in range(0, box.height, each):
        lines = slice(top, top + each)
        first = y[top]
        rows = array[..., first - held.y0 : y_next[lines][-1] + 1 - held.y0, :]
        near = _mixed(rows.take(x, axis=-1), rows.take(x_next, axis=-1), fx)
        low, high = near.take(y[lines] - first, axis=-2), near.take(y_next[lines] - first, axis=-2)
        result[..., lines, :] = _mixed(low, high, fy[lines, None])
    return result


BILINEAR_BAND_PX = 1 << 17
"""How much ``bilinear_window`` makes at once: what fits a CPU's cache takes a third of the time."""


def _mixed(near: NDArray[Any], far: NDArray[Any], share: NDArray[np.float32]) -> Mask:
    """Between two arrays: near + (far - near) * share, float32."""
    near, far = near.astype(np.float32, copy=False), far.astype(np.float32, copy=False)
    far -= near
    far *= share
    far += near
    return far


def _doubled_along(
    array: NDArray[Any], axis: int, span: tuple[int, int], held: int, out: Mask | None = None
) -> NDArray[np.float32]:
    """``bilinear_window`` at twice the size along one axis, with slices only.

    Pixel 2 i lies a quarter of a pixel before pixel i of the whole, 2 i + 1 as much behind it.

    Args:
        array: with the pixels from ``held`` on along the axis.
        axis: -1 or -2.
        span: the first pixel of the result, and that behind the last.
        held: see above.
        out: takes the result if it is given.
    """
    first, last = span[0] // 2, -(-span[1] // 2)
    before, behind = max(first - 1, held), min(last + 1, held + array.shape[axis])
    lines = array.swapaxes(axis, -1)[..., before - held : behind - held]
    lines = lines.astype(np.float32, copy=False)
    quarter = lines[..., 1:] - lines[..., :-1]
    quarter *= np.float32(0.25)
    begin, end = int(before == first), last - first - int(behind == last)
    start = first - before
    pixels = lines[..., start : start + last - first]
    fits = span[0] % 2 == span[1] % 2 == 0
    if out is None or not fits:
        shape = list(array.shape)
        shape[axis] = 2 * (last - first)
        result = np.empty(shape, np.float32).swapaxes(axis, -1)
    else:
        result = out.swapaxes(axis, -1)
    result[..., 0], result[..., -1] = lines[..., 0], lines[..., -1]  # where the array ends
    evens, odds = result[..., 2 * begin :: 2], result[..., 1 : 2 * end : 2]
    np.subtract(pixels[..., begin:], quarter[..., : last - first - begin], out=evens)
    np.add(pixels[..., :end], quarter[..., start : start + end], out=odds)
    found = result[..., span[0] - 2 * first : span[1] - 2 * first].swapaxes(axis, -1)
    if out is None or fits:
        return found
    out[...] = found
    return out


def _bilinear_taps(
    length: int, out: int, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    source = (np.arange(start, stop) + 0.5) * (length / out) - 0.5
    source = np.clip(source, 0, length - 1)
    low = np.floor(source).astype(np.int64)
    return low, np.minimum(low + 1, length - 1), (source - low).astype(np.float32)


def _bilinear_span(length: int, out: int, start: int, stop: int) -> tuple[int, int]:
    """From the first to behind the last of ``_bilinear_taps``, in the same arithmetic."""
    first, last = (
        min(max((pixel + 0.5) * (length / out) - 0.5, 0), length - 1) for pixel in (start, stop - 1)
    )
    return int(first), min(int(last) + 2, length)


class EnlargedMask:
    """A mask of lower resolution as a MaskSource of a higher one; nothing enlarged is kept.

    Args:
        mask: of lower resolution.
        size: what it is enlarged to, bilinearly.
    """

    def __init__(self, mask: MaskSource, size: Size) -> None:
        self._mask = mask
        self.size = size
        height, width = (
            max(side * whole // own, 1)
            for side, whole, own in zip(mask.block, size, mask.size, strict=True)
        )
        self.block = Size(height, width)

    def constant(self, box: Box) -> float | None:
        """See MaskSource."""
        return self._mask.constant(bilinear_source(self._mask.size, self.size, box))

    def read(self, box: Box) -> Mask:
        """See MaskSource."""
        source = bilinear_source(self._mask.size, self.size, box)
        part = Part(self._mask.size, source)
        return bilinear_window(self._mask.read(source), self.size, box, part)


def fitting_mask(mask: MaskSource, size: Size, names: tuple[object, object]) -> MaskSource:
    """A mask at the image's size; one of lower resolution is enlarged window by window.

    Args:
        mask: to fit.
        size: of the image.
        names: of mask and image, for the message.

    Raises:
        InputError: other proportions, or a larger mask.
    """
    if mask.size == size:
        return mask
    height, width = mask.size
    # one of the two was rounded to whole pixels
    fits = abs(height * size.width - width * size.height) <= max(size)
    if not fits or height > size.height or width > size.width:
        raise InputError(
            f"{names[0]} is {width}x{height} but {names[1]} is {size.width}x{size.height} "
            "(width x height); a smaller mask must have the image's proportions"
        )
    return EnlargedMask(mask, size)
