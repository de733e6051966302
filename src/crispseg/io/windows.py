"""Images and masks read window by window: what the streaming engine asks of a file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath
from crispseg.types import Box, Image, InputError, Mask, Size, scaled_value

Flags = NDArray[np.bool_]


class ImageSource(Protocol):
    """An image that is read in windows.

    Attributes:
        size: of the image, upright.
        dtype: uint8 or uint16.
        block: the pieces in which the file is decoded; windows of whole pieces cost least.
    """

    @property
    def size(self) -> Size:
        """Height and width."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""

    @property
    def block(self) -> Size:
        """Height and width of the pieces in which the file is decoded."""

    def read(self, box: Box) -> Image:
        """(box.height, box.width, 3) RGB."""

    def valid(self, box: Box) -> Flags | None:
        """(box.height, box.width) False where there is no image (nodata); None: all is valid."""


class MaskSource(Protocol):
    """A mask that is read in windows."""

    @property
    def size(self) -> Size:
        """Height and width."""

    @property
    def block(self) -> Size:
        """Height and width of the pieces in which the file is decoded."""

    def constant(self, box: Box) -> float | None:
        """The one value of a window, if it is known without reading it."""

    def read(self, box: Box) -> Mask:
        """(box.height, box.width) float32 in [0, 1]."""


class ArrayImage:
    """An image in memory as a source.

    Args:
        pixels: (H, W, 3) uint8 or uint16.
        valid: (H, W) bool; None: everywhere.
    """

    def __init__(self, pixels: Image, valid: Flags | None = None) -> None:
        self.pixels = pixels
        self.size = self.block = Size(*pixels.shape[:2])
        self.dtype = pixels.dtype
        self._valid = valid

    def read(self, box: Box) -> Image:
        """See ImageSource."""
        return self.pixels[box.slices]

    def valid(self, box: Box) -> Flags | None:
        """See ImageSource."""
        return None if self._valid is None else self._valid[box.slices]


class ArrayMask:
    """A mask in memory as a source.

    Args:
        values: (H, W) float32 in [0, 1].
    """

    def __init__(self, values: Mask) -> None:
        self.values = values
        self.size = self.block = Size(*values.shape)
        self._ranges = Ranges(self.size)
        self._ranges.add(Box(0, 0, *self.size), values)

    def read(self, box: Box) -> Mask:
        """See MaskSource."""
        return self.values[box.slices]

    def constant(self, box: Box) -> float | None:
        """See MaskSource."""
        return self._ranges.constant(box)


class CroppedImage:
    """A part of an ImageSource as an ImageSource.

    Args:
        image: the whole.
        box: which part.
    """

    def __init__(self, image: ImageSource, box: Box) -> None:
        self._image = image
        self._box = box
        self.size = box.size
        self.dtype = image.dtype
        self.block = image.block

    def read(self, box: Box) -> Image:
        """See ImageSource."""
        return self._image.read(box.shift(self._box.y0, self._box.x0))

    def valid(self, box: Box) -> Flags | None:
        """See ImageSource."""
        return self._image.valid(box.shift(self._box.y0, self._box.x0))


CELL = 256
"""Side of the cells of which ``Ranges`` knows the range."""


class Ranges:
    """The range of values in every cell of a plane, so that flat parts need not be read again.

    Nothing is known before every pixel has been added, in any order and any windows.

    Args:
        size: of the plane.
    """

    def __init__(self, size: Size) -> None:
        cells = (-(-size.height // CELL), -(-size.width // CELL))
        self._low = np.full(cells, np.inf)
        self._high = np.full(cells, -np.inf)

    def add(self, box: Box, values: NDArray[Any]) -> None:
        """Take the (box.height, box.width) values of a window."""
        rows, columns = _cells(box)
        tops, lefts = (
            np.maximum(np.arange(cells.start, cells.stop) * CELL - first, 0)
            for cells, first in ((rows, box.y0), (columns, box.x0))
        )
        ends = [*tops[1:], box.height]
        for known, choose in ((self._low, np.minimum), (self._high, np.maximum)):
            # whole rows first: NumPy then works on many columns at once
            lines = [choose.reduce(values[y0:y1]) for y0, y1 in zip(tops, ends, strict=True)]
            found = choose.reduceat(np.stack(lines), lefts, axis=1)
            # minimum and maximum hand on NaN
            known[rows, columns] = choose(known[rows, columns], found)

    @property
    def span(self) -> tuple[float, float]:
        """Least and largest value of all."""
        return float(self._low.min()), float(self._high.max())

    def constant(self, box: Box) -> float | None:
        """The one value of all cells that a window touches, if there is one."""
        cells = _cells(box)
        low, high = self._low[cells].min(), self._high[cells].max()
        return float(low) if low == high else None


class RangedMask:
    """A MaskSource that knows its ranges and what its values are divided by."""

    _ranges: Ranges
    _scale: float

    def constant(self, box: Box) -> float | None:
        """See MaskSource."""
        return scaled_value(self._ranges.constant(box), self._scale)


def _cells(box: Box) -> tuple[slice, slice]:
    return (
        slice(box.y0 // CELL, -(-box.y1 // CELL)),
        slice(box.x0 // CELL, -(-box.x1 // CELL)),
    )


def windows_of(area: Box, block: Size, pixels: int) -> Iterator[Box]:
    """Windows of whole blocks that cover an area row by row, so that each is decoded once.

    Args:
        area: what to cover.
        block: of the file, counted from its corner.
        pixels: about how many each may have, unless a block has more.
    """
    square = int(pixels**0.5)
    wide = block.width * max(min(square, area.width) // block.width, 1)
    high = block.height * max(pixels // (min(wide, area.width) * block.height), 1)
    for y in range(area.y0 // high * high, area.y1, high):
        for x in range(area.x0 // wide * wide, area.x1, wide):
            y1, x1 = min(y + high, area.y1), min(x + wide, area.x1)
            yield Box(max(y, area.y0), max(x, area.x0), y1, x1)


def needs_extra(module: str, extra: str, path: StrPath) -> None:
    """Say what to install where a library is missing.

    Raises:
        InputError: ``module`` is not there.
    """
    if find_spec(module) is None:
        raise InputError(
            f"{path}: needs {module}, which is not installed; pip install 'crispseg[{extra}]'"
        )
