"""Zarr and OME-Zarr arrays by windows; the ``zarr`` extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath
from crispseg.io.image import to_rgb
from crispseg.io.windows import RangedMask, Ranges, needs_extra, windows_of
from crispseg.types import Box, Image, InputError, Mask, Size, mask_scale, scaled_mask

CHUNK = 1024


class ZarrWindows:
    """The first array of a Zarr folder: (y, x), (y, x, c), or OME's (t, c, z, y, x) of one t, z.

    Args:
        path: of an array, or of a group with OME's multiscales.

    Raises:
        InputError: zarr is missing, or there is no such array.
    """

    def __init__(self, path: StrPath) -> None:
        needs_extra("zarr", "zarr", path)
        import zarr  # noqa: PLC0415

        try:
            node: Any = zarr.open(str(path), mode="r")
            if not hasattr(node, "shape"):
                settings = node.attrs.get("ome", node.attrs)
                node = node[settings["multiscales"][0]["datasets"][0]["path"]]
        except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
            raise InputError(f"{path}: holds no Zarr array that can be read: {error}") from None
        self._array = node
        shape = tuple(node.shape)
        while len(shape) > 3 and shape[0] == 1:  # time
            shape = shape[1:]
        self._channels_first = len(shape) == 4 and shape[1] == 1
        if self._channels_first:  # c, z, y, x
            self.size = Size(*shape[-2:])
        elif len(shape) == 2 or (len(shape) == 3 and shape[-1] <= 4):
            self.size = Size(*shape[:2])
        else:
            raise InputError(f"{path}: has shape {node.shape}; (y, x) or (y, x, channel) is needed")
        self.dtype = np.dtype(node.dtype)
        chunks = tuple(node.chunks)[-2:] if self._channels_first or len(shape) == 2 else node.chunks
        self.block = Size(*chunks[-3:][:2]) if len(chunks) > 2 else Size(*chunks)

    def read(self, box: Box) -> NDArray[Any]:
        """(h, w) or (h, w, C)."""
        window = (slice(box.y0, box.y1), slice(box.x0, box.x1))
        if self._channels_first:
            lead = (0,) * (self._array.ndim - 4)
            pixels = np.moveaxis(np.asarray(self._array[(*lead, slice(None), 0, *window)]), 0, -1)
            return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        lead = (0,) * (self._array.ndim - 3 if self._array.ndim > 3 else 0)
        return np.asarray(self._array[(*lead, *window)])


class ZarrImage:
    """A Zarr array as an ImageSource.

    Args:
        path: see ZarrWindows.

    Raises:
        InputError: neither grey nor RGB, or not of 8 or 16 bits.
    """

    def __init__(self, path: StrPath) -> None:
        self._windows = ZarrWindows(path)
        self._path = path
        self.size = self._windows.size
        self.block = self._windows.block
        self.dtype = self.read(Box(0, 0, 1, 1)).dtype
        if self.dtype not in (np.uint8, np.uint16):
            raise InputError(f"{path}: holds {self.dtype}; convert it to 8 or 16 bits first")

    def read(self, box: Box) -> Image:
        """See ImageSource."""
        return np.ascontiguousarray(to_rgb(self._windows.read(box), self._path))

    def valid(self, box: Box) -> None:
        """See ImageSource: all of it."""


class ZarrMask(RangedMask):
    """A Zarr array as a MaskSource.

    Args:
        path: see ZarrWindows.

    Raises:
        InputError: more than one channel, or values that are no mask's.
    """

    def __init__(self, path: StrPath) -> None:
        self._windows = ZarrWindows(path)
        self.size = self._windows.size
        self.block = self._windows.block
        self._ranges = Ranges(self.size)
        for box in windows_of(Box(0, 0, *self.size), self.block, CHUNK**2):
            values = self._windows.read(box)
            if values.ndim != 2:
                raise InputError(f"{path}: has several channels; a mask has one")
            self._ranges.add(box, values)
        try:
            self._scale = mask_scale(self._windows.dtype, *self._ranges.span)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def read(self, box: Box) -> Mask:
        """See MaskSource."""
        return scaled_mask(self._windows.read(box), self._scale)


class ZarrSink:
    """An OME-Zarr group (version 0.5) with the mask as its only level.

    Args:
        folder: that is made.
        size: of the mask.
        kind: dtype.
    """

    def __init__(self, folder: Path, size: Size, kind: str) -> None:
        needs_extra("zarr", "zarr", folder)
        import zarr  # noqa: PLC0415

        group = zarr.open_group(str(folder), mode="w", zarr_format=3)
        axes = [{"name": name, "type": "space"} for name in "yx"]
        scale = [{"type": "scale", "scale": [1.0, 1.0]}]
        levels = [{"path": "0", "coordinateTransformations": scale}]
        multiscales = [{"axes": axes, "datasets": levels}]
        group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
        chunks = (min(CHUNK, size.height), min(CHUNK, size.width))
        self._array = group.create_array(
            "0", shape=tuple(size), chunks=chunks, dtype=np.dtype(kind), dimension_names=["y", "x"]
        )

    takes_blocks = True

    def write(self, box: Box, values: NDArray[Any]) -> None:
        """See MaskSink."""
        self._array[box.slices] = values

    def fill(self, box: Box, value: np.generic) -> None:
        """See MaskSink; chunks that nobody writes are read as 0."""
        if value:
            self._array[box.slices] = value

    def finish(self) -> None:
        """See MaskSink."""

    def abandon(self) -> None:
        """See MaskSink."""
