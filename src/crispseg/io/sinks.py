"""Masks written from top to bottom, whatever their size: PNG, .npy, GeoTIFF, Zarr."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath, atomic_path, check_target
from crispseg.io.raster import BLOCK, GeoGrid, RasterSink
from crispseg.io.zarrays import ZarrSink
from crispseg.types import Box, InputError, Size

SINK_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".zarr")
"""What ``open_sink`` can write."""

LARGEST_PNG = 2**31 - 1


class MaskSink(Protocol):
    """What a mask is written to from top to bottom.

    Attributes:
        takes_blocks: whether boxes may be a part of the columns; otherwise they are whole rows.
    """

    @property
    def takes_blocks(self) -> bool:
        """See the class."""

    def write(self, box: Box, values: NDArray[Any]) -> None:
        """Write (box.height, box.width) values."""

    def fill(self, box: Box, value: np.generic) -> None:
        """Write one value; the box is whole blocks, or ends at the border."""

    def finish(self) -> None:
        """No more follows."""

    def abandon(self) -> None:
        """Close without finishing."""


@contextmanager
def open_sink(
    path: StrPath, size: Size, kind: str, grid: GeoGrid | None = None, *, labels: bool = False
) -> Iterator[MaskSink]:
    """Give a sink for a mask; the file appears when the block ends without exception.

    Args:
        path: ends in one of SINK_SUFFIXES.
        size: of the mask.
        kind: dtype, "u1"; also "u2" and "f4" but to .png, and "?" to .npy.
        grid: for GeoTIFF.
        labels: values are numbers of classes, for GeoTIFF.

    Raises:
        InputError: the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".zarr":
        with _atomic_folder(Path(path)) as folder:
            yield from _filled(ZarrSink(folder, size, kind))
        return
    with atomic_path(path) as temporary:
        if suffix == ".png":
            yield from _filled(PngSink(temporary, size))
        elif suffix == ".npy":
            yield from _filled(NpySink(temporary, size, kind))
        else:
            yield from _filled(RasterSink(temporary, size, kind, grid, labels=labels))


def check_sink(path: StrPath, size: Size | None = None) -> None:
    """Make sure that ``open_sink`` can write ``path``; call it before long work.

    Raises:
        InputError: another suffix, no such folder, not writable, too large for the format.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SINK_SUFFIXES:
        raise InputError(
            f"{path}: an image of this size is written to one of {', '.join(SINK_SUFFIXES)}"
        )
    if suffix == ".zarr":
        if Path(path).is_file() or not Path(path).parent.is_dir():
            raise InputError(f"{path}: must be a new folder, or a Zarr array, in a folder there is")
        return
    check_target(path)
    if size and suffix == ".png" and max(size) > LARGEST_PNG:
        raise InputError(f"{path}: PNG ends at {LARGEST_PNG} pixels a side; write a .tif")


def _filled(sink: MaskSink) -> Iterator[MaskSink]:
    try:
        yield sink
    except BaseException:
        sink.abandon()
        raise
    sink.finish()


@contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.crispseg")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class BandWriter:
    """Collects rows into bands as high as a GeoTIFF's tiles, so that each is compressed once.

    Args:
        sink: what gets the bands.
        size: of the mask.
        kind: its dtype.
    """

    def __init__(self, sink: MaskSink, size: Size, kind: str) -> None:
        self._sink = sink
        self._size = size
        self._band = np.zeros((min(BLOCK, size.height), size.width), kind)
        self._top = 0
        self._blocks: list[np.generic | None] = []
        self._start_band()

    def write(self, box: Box, values: NDArray[Any]) -> None:
        """Take the next rows, or, inside a band, the next columns of its next rows."""
        for part in self._in_bands(box):
            self._band[self._at(part)] = values[part.y0 - box.y0 : part.y1 - box.y0]
            for column in range(part.x0 // BLOCK, -(-part.x1 // BLOCK)):
                self._blocks[column] = None
            self._end_of(part)

    def fill(self, box: Box, value: np.generic) -> None:
        """The same of one value; blocks that hold nothing else are known to be flat."""
        for part in self._in_bands(box):
            self._band[self._at(part)] = value
            for column in range(part.x0 // BLOCK, -(-part.x1 // BLOCK)):
                whole = part.x0 <= column * BLOCK and part.x1 >= min(
                    (column + 1) * BLOCK, self._size.width
                )
                if not whole or (part.y0 > self._top and self._blocks[column] != value):
                    self._blocks[column] = None
                else:
                    self._blocks[column] = value
            self._end_of(part)

    def finish(self) -> None:
        """Hand on what is left; the sink stays open."""
        if self._top < self._size.height:
            self._flush(self._size.height)

    def _in_bands(self, box: Box) -> Iterator[Box]:
        y = box.y0
        while y < box.y1:
            bottom = min(self._top + len(self._band), box.y1)
            if bottom < box.y1 and box.x1 < self._size.width:
                raise ValueError(f"columns {box.x0} to {box.x1} of rows of more than one band")
            yield Box(y, box.x0, bottom, box.x1)
            y = bottom

    def _at(self, part: Box) -> tuple[slice, slice]:
        return part.shift(-self._top, 0).slices

    def _end_of(self, part: Box) -> None:
        if part.y1 == self._top + len(self._band) and part.x1 == self._size.width:
            self._flush(part.y1)

    def _start_band(self) -> None:
        self._blocks = [None] * -(-self._size.width // BLOCK)

    def _flush(self, bottom: int) -> None:
        whole = Box(self._top, 0, bottom, self._size.width)
        for box, value in self._runs(whole):
            if value is None:
                self._sink.write(box, self._band[: box.height, box.x0 : box.x1])
            else:
                self._sink.fill(box, value)
        self._top = bottom
        self._start_band()

    def _runs(self, band: Box) -> Iterator[tuple[Box, np.generic | None]]:
        """Columns of equal value, and those between; one box where the sink wants whole rows."""
        if not self._sink.takes_blocks:
            yield band, None
            return
        start = 0
        for column in range(1, len(self._blocks) + 1):
            value = self._blocks[start]
            if column == len(self._blocks) or self._blocks[column] != value:
                x1 = min(column * BLOCK, band.x1)
                yield Box(band.y0, start * BLOCK, band.y1, x1), value
                start = column


class _FileSink:
    """What PNG and .npy share."""

    _file: IO[bytes]
    takes_blocks = False

    def write(self, box: Box, values: NDArray[Any]) -> None:
        """See MaskSink."""
        raise NotImplementedError

    def fill(self, box: Box, value: np.generic) -> None:
        """See MaskSink."""
        self.write(box, np.full(box.size, value))

    def abandon(self) -> None:
        """See MaskSink."""
        self._file.close()


class PngSink(_FileSink):
    """8-bit grey PNG (RFC 2083), compressed row by row.

    Args:
        path: of the file.
        size: of the mask.
    """

    def __init__(self, path: Path, size: Size) -> None:
        self._file = open(path, "wb")  # noqa: SIM115
        self._deflate = zlib.compressobj(6)
        self._file.write(b"\x89PNG\r\n\x1a\n")
        header = struct.pack(">IIBBBBB", size.width, size.height, 8, 0, 0, 0, 0)
        self._chunk(b"IHDR", header)

    def write(self, box: Box, values: NDArray[Any]) -> None:
        """See MaskSink."""
        rows = np.zeros((box.height, box.width + 1), np.uint8)  # each row begins with "no filter"
        rows[:, 1:] = values
        self._data(self._deflate.compress(rows.tobytes()))

    def finish(self) -> None:
        """See MaskSink."""
        self._data(self._deflate.flush())
        self._chunk(b"IEND", b"")
        self._file.close()

    def _data(self, content: bytes) -> None:
        if content:
            self._chunk(b"IDAT", content)

    def _chunk(self, name: bytes, content: bytes) -> None:
        checksum = zlib.crc32(name + content)
        self._file.write(struct.pack(">I", len(content)) + name + content)
        self._file.write(struct.pack(">I", checksum))


class NpySink(_FileSink):
    """A .npy file.

    Args:
        path: of the file.
        size: of the mask.
        kind: dtype.
    """

    def __init__(self, path: Path, size: Size, kind: str) -> None:
        self._file = open(path, "wb")  # noqa: SIM115
        self._kind = np.dtype(kind)
        header = {"descr": self._kind.str, "fortran_order": False, "shape": tuple(size)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, box: Box, values: NDArray[Any]) -> None:
        """See MaskSink."""
        self._file.write(np.ascontiguousarray(values, self._kind).tobytes())

    def finish(self) -> None:
        """See MaskSink."""
        self.abandon()
