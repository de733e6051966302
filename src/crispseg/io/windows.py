"""Images and masks read window by window: what the streaming engine asks of a file."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath
from crispseg.types import Box, Image, InputError, Mask, Size

Flags = NDArray[np.bool_]


class ImageSource(Protocol):
    """An image that is read in windows.

    Attributes:
        size: of the image, upright.
        dtype: uint8 or uint16.
    """

    @property
    def size(self) -> Size:
        """Height and width."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""

    def read(self, box: Box) -> Image:
        """(box.height, box.width, 3) RGB."""

    def valid(self, box: Box) -> Flags | None:
        """(box.height, box.width) False where there is no image (nodata); None: all is valid."""


class MaskSource(Protocol):
    """A mask that is read in windows."""

    @property
    def size(self) -> Size:
        """Height and width."""

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
        self.size = Size(*pixels.shape[:2])
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
        self.size = Size(*values.shape)

    def read(self, box: Box) -> Mask:
        """See MaskSource."""
        return self.values[box.slices]


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

    def read(self, box: Box) -> Image:
        """See ImageSource."""
        return self._image.read(box.shift(self._box.y0, self._box.x0))

    def valid(self, box: Box) -> Flags | None:
        """See ImageSource."""
        return self._image.valid(box.shift(self._box.y0, self._box.x0))


def needs_extra(module: str, extra: str, path: StrPath) -> None:
    """Say what to install where a library is missing.

    Raises:
        InputError: ``module`` is not there.
    """
    if find_spec(module) is None:
        raise InputError(
            f"{path}: needs {module}, which is not installed; pip install 'crispseg[{extra}]'"
        )
