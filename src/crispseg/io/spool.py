"""Files that can only be decoded from top to bottom, as sources of windows.

PNG, JPEG, WebP and HEIF know no windows. They are decoded once, a band of rows at a time, into a
file of plain pixels beside the result, and windows are read from that: disk instead of memory, and
a run that goes on after a kill need not decode again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath
from crispseg.io.decode import DEFAULT_MAX_PIXELS, open_stored, upright
from crispseg.io.image import to_rgb
from crispseg.io.mask import colour_values, values_of_palette
from crispseg.io.store import damaged, put_on_disk
from crispseg.io.windows import RangedMask, Ranges
from crispseg.types import (
    Box,
    Image,
    InputError,
    Mask,
    Size,
    mask_scale,
    scaled_mask,
)

BAND_BYTES = 8 << 20


class RawFile:
    """Plain pixels in a file: (H, W) or (H, W, C), row by row.

    Args:
        path: as ``RawWriter`` has written it.
        shape: of the array.
        kind: its dtype.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        self._shape = shape
        self._kind = kind

    def read(self, box: Box) -> NDArray[Any]:
        """(box.height, box.width[, C])."""
        pixel = self._kind.itemsize * int(np.prod(self._shape[2:], dtype=np.int64))
        result = np.empty((*box.size, *self._shape[2:]), self._kind)
        rows = result.reshape(box.height, -1).view(np.uint8)
        for i, y in enumerate(range(box.y0, box.y1)):
            start = (y * self._shape[1] + box.x0) * pixel
            content = os.pread(self._descriptor, box.width * pixel, start)
            if len(content) != box.width * pixel:
                raise damaged(self._path)
            rows[i] = np.frombuffer(content, np.uint8)
        return result

    def __del__(self) -> None:
        os.close(self._descriptor)


class RawWriter:
    """Writes a RawFile that is there whole or not at all; use it in a ``with`` block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_suffix(".tmp")
        self._file: IO[bytes] = open(self._temporary, "wb")  # noqa: SIM115

    def __enter__(self) -> RawWriter:
        return self

    def add(self, rows: NDArray[Any]) -> None:
        """Append rows."""
        self._file.write(np.ascontiguousarray(rows).data)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            put_on_disk(self._file)
            os.replace(self._temporary, self._path)
        else:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


class SpooledImage:
    """Any photo that ``read_image`` reads, as an ImageSource; the same pixels.

    Args:
        path: of the photo.
        folder: where its pixels are kept; what an earlier run has kept there is used again.

    Raises:
        InputError: as ``read_image``, but for the number of pixels.
    """

    def __init__(self, path: StrPath, folder: Path) -> None:
        with open_stored(path, max_pixels=None) as stored:
            self._stored, self._orientation = stored.size, stored.orientation
            turned = stored.orientation >= 5
            self.size = Size(*reversed(stored.size)) if turned else stored.size
            self.block = Size(self.size.height, 1) if turned else Size(1, self.size.width)
            spool = folder / "image.raw"
            if not spool.exists():
                with RawWriter(spool) as raw:
                    for band in stored.bands(rows_of(stored.size.width * 3)):
                        raw.add(to_rgb(band, path))
        depth = spool.stat().st_size // (self.size.height * self.size.width * 3)
        self.dtype = np.dtype({1: np.uint8, 2: np.uint16}[depth])
        self._raw = RawFile(spool, (*self._stored, 3), self.dtype)

    def read(self, box: Box) -> Image:
        """See ImageSource."""
        window = self._raw.read(stored_box(box, self._stored, self._orientation))
        return np.ascontiguousarray(upright(window, self._orientation))

    def valid(self, box: Box) -> None:
        """See ImageSource: a photo is valid everywhere."""


class SpooledMask(RangedMask):
    """Any mask that ``read_mask`` reads, as a MaskSource; the same values.

    Args:
        path: of the mask.
        folder: where its pixels are kept.

    Raises:
        InputError: as ``read_mask``, but for the number of pixels.
    """

    def __init__(self, path: StrPath, folder: Path) -> None:
        with open_stored(path, max_pixels=None) as stored:
            self.size = stored.size
            self.block = Size(1, self.size.width)
            colours = _Plane(folder / "mask.raw", self.size)
            alphas = _Plane(folder / "alpha.raw", self.size)
            if stored.is_palette:
                if self.size.height * self.size.width > DEFAULT_MAX_PIXELS:
                    raise InputError(f"{path}: is too large for a palette; save it as grey")
                palette = stored.palette()
                bands = iter([values_of_palette(palette)] if palette else [stored.pixels()])
            else:
                bands = stored.bands(rows_of(stored.size.width))
            with RawWriter(colours.path) as raw, RawWriter(alphas.path) as alpha:
                for band in bands:
                    values = colour_values(band, path)
                    colours.note(values)
                    raw.add(values)
                    if band.ndim == 3 and band.shape[2] in (2, 4):
                        alphas.note(band[:, :, -1])
                        alpha.add(band[:, :, -1])
        low, high = alphas.ranges.span
        chosen = alphas if low < high else colours
        assert chosen.kind
        self._ranges = chosen.ranges
        try:
            self._scale = mask_scale(chosen.kind, *self._ranges.span)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        self._raw = RawFile(chosen.path, tuple(self.size), chosen.kind)

    def read(self, box: Box) -> Mask:
        """See MaskSource."""
        return scaled_mask(self._raw.read(box), self._scale)


class _Plane:
    """The dtype and range of what goes into a file."""

    def __init__(self, path: Path, size: Size) -> None:
        self.path = path
        self.kind: np.dtype[Any] | None = None
        self.ranges = Ranges(size)
        self._top = 0

    def note(self, values: NDArray[Any]) -> None:
        self.kind = values.dtype
        bottom = self._top + len(values)
        self.ranges.add(Box(self._top, 0, bottom, values.shape[1]), values)
        self._top = bottom


def rows_of(bytes_each: int) -> int:
    """How many rows of so many bytes are decoded at once."""
    return max(BAND_BYTES // bytes_each, 1)


def stored_box(box: Box, stored: Size, orientation: int) -> Box:
    """Where an upright box lies in the file, whose rows and columns an EXIF orientation turns."""
    y0, x0, y1, x1 = box.y0, box.x0, box.y1, box.x1
    height, width = reversed(stored) if orientation >= 5 else stored
    if orientation in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    return Box(x0, y0, x1, y1) if orientation >= 5 else Box(y0, x0, y1, x1)
