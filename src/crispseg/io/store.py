"""Large arrays on disk, written strip by strip: a strip is there whole, or not at all.

A folder holds one file for each strip of rows. In it, every plane is cut into blocks of columns and
``BLOCK_ROWS`` rows, each compressed by itself, so that a window is read without the rest; a block
of one value is only that value. A strip's file appears under its name after it has reached the
disk, so whatever kills a run, the strips that are there are right, and the run goes on behind the
last of them.
"""

from __future__ import annotations

import json
import os
import zlib
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath
from crispseg.types import Box, InputError, Size

Array = NDArray[Any]

BLOCK_ROWS = 64


@dataclass(frozen=True, slots=True)
class Block:
    """Where a part of one plane lies in a strip's file.

    Attributes:
        plane: name of the plane.
        y0: first row, counted from the strip's.
        y1: behind the last row.
        x0: first column.
        x1: behind the last column.
        offset: first byte; with ``length`` 0 the block is ``value`` everywhere.
        length: compressed bytes.
        value: of a block that is all the same.
    """

    plane: str
    y0: int
    y1: int
    x0: int
    x1: int
    offset: int
    length: int
    value: float


@dataclass(frozen=True)
class Strip:
    """A finished strip: rows y0..y1-1, and its blocks by plane, in the order of columns."""

    path: Path
    y0: int
    y1: int
    blocks: Mapping[str, Sequence[Block]]

    def within(self, plane: str, box: Box) -> Iterator[Block]:
        """The blocks of a plane that meet a window."""
        blocks = self.blocks.get(plane, ())
        if not blocks:
            return
        last = blocks[max(bisect_right(blocks, box.x0, key=lambda block: block.x0) - 1, 0)]
        start = bisect_left(blocks, last.x0, key=lambda block: block.x0)
        for i in range(start, len(blocks)):
            block = blocks[i]
            if block.x0 >= box.x1:
                return
            if block.y0 + self.y0 < box.y1 and block.y1 + self.y0 > box.y0:
                yield block


class StripStore:
    """Planes of one size, written in strips from top to bottom and read in windows.

    Args:
        folder: is made if missing. Strips that are in it already count as written.
        size: of the planes.
        planes: name -> dtype.
        cache_bytes: how much of what has been read is kept for the next window.

    Raises:
        InputError: the folder cannot be used, or holds a damaged strip.
    """

    def __init__(
        self, folder: StrPath, size: Size, planes: Mapping[str, str], cache_bytes: int = 32 << 20
    ) -> None:
        self.folder = Path(folder)
        self.size = size
        self.planes = {name: np.dtype(kind) for name, kind in planes.items()}
        self._cache: OrderedDict[tuple[int, Block], Array] = OrderedDict()
        self._cached_bytes = 0
        self._cache_bytes = cache_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.folder.glob("*.tmp"):
            left_over.unlink()
        self.strips: list[Strip] = []
        while (path := self._path(len(self.strips))).exists():
            self.strips.append(_read_index(path))

    @property
    def rows_done(self) -> int:
        """How many rows from the top are on disk."""
        return self.strips[-1].y1 if self.strips else 0

    def begin(self, y0: int, y1: int) -> StripWriter:
        """Start the next strip; use it in a ``with`` block, whose end puts it on disk."""
        if y0 != self.rows_done or not y0 < y1 <= self.size.height:
            raise ValueError(f"rows {self.rows_done} follow, not {y0}..{y1}")
        return StripWriter(self, self._path(len(self.strips)), y0, y1)

    def read(self, plane: str, box: Box) -> Array:
        """(box.height, box.width) of one plane; rows must have been written.

        Raises:
            InputError: a strip has been damaged on disk.
        """
        result = np.empty(box.size, self.planes[plane])
        for strip in self._strips_of(box):
            for block in strip.within(plane, box):
                y0, y1 = max(box.y0, strip.y0 + block.y0), min(box.y1, strip.y0 + block.y1)
                x0, x1 = max(box.x0, block.x0), min(box.x1, block.x1)
                target = result[y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0]
                if block.length == 0:
                    target[:] = block.value
                else:
                    inside = Box(y0, x0, y1, x1).shift(-strip.y0 - block.y0, -block.x0)
                    target[:] = self._block(strip, block)[inside.slices]
        return result

    def constant(self, plane: str, box: Box) -> float | None:
        """The one value of a plane in ``box``, if its blocks say so without being decoded."""
        found: set[float] = set()
        for strip in self._strips_of(box):
            for block in strip.within(plane, box):
                if block.length:
                    return None
                found.add(block.value)
        return found.pop() if len(found) == 1 else None

    def extras(self) -> list[str]:
        """Names of the bytes that were kept with the last strip."""
        return [n for n in self.strips[-1].blocks if n not in self.planes] if self.strips else []

    def extra(self, name: str) -> bytes:
        """Bytes that were kept with the last strip; ``name`` is one of ``extras``."""
        strip = self.strips[-1]
        [block] = strip.blocks[name]
        try:
            return zlib.decompress(_read_bytes(strip.path, block))
        except (OSError, zlib.error):
            raise damaged(strip.path) from None

    def _strips_of(self, box: Box) -> Iterator[Strip]:
        start = bisect_right(self.strips, box.y0, key=lambda strip: strip.y0) - 1
        for strip in self.strips[max(start, 0) :]:
            if strip.y0 >= box.y1:
                return
            yield strip

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.strip"

    def _block(self, strip: Strip, block: Block) -> Array:
        key = (strip.y0, block)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        try:
            raw = zlib.decompress(_read_bytes(strip.path, block))
            kind = self.planes[block.plane]
            values = np.frombuffer(raw, kind).reshape(block.y1 - block.y0, block.x1 - block.x0)
        except (OSError, zlib.error, ValueError):
            raise damaged(strip.path) from None
        self._cache[key] = values
        self._cached_bytes += values.nbytes
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return values


class StripWriter:
    """One strip on its way to disk; made by ``StripStore.begin``."""

    def __init__(self, store: StripStore, path: Path, y0: int, y1: int) -> None:
        self._store = store
        self._path = path
        self._rows = (y0, y1)
        self._temporary = path.with_suffix(".tmp")
        self._file: IO[bytes] | None = None
        self._blocks: list[Block] = []

    def __enter__(self) -> Self:
        self._file = open(self._temporary, "wb")
        return self

    def add(self, plane: str, x0: int, values: Array) -> None:
        """Add the columns from ``x0`` of a plane, (y1 - y0, n)."""
        values = np.ascontiguousarray(values, self._store.planes[plane])
        first = values.flat[0]
        x1 = x0 + values.shape[1]
        if (values == first).all():
            self.fill(plane, x0, x1, first.item())
            return
        for y0 in range(0, len(values), BLOCK_ROWS):
            part = values[y0 : y0 + BLOCK_ROWS]
            offset, length = self._append(part.tobytes())
            self._blocks.append(Block(plane, y0, y0 + len(part), x0, x1, offset, length, 0))

    def fill(self, plane: str, x0: int, x1: int, value: float) -> None:
        """Add the columns from ``x0`` to ``x1`` - 1 of a plane, all the same."""
        height = self._rows[1] - self._rows[0]
        self._blocks.append(Block(plane, 0, height, x0, x1, 0, 0, value))

    def keep(self, name: str, content: bytes) -> None:
        """Keep bytes with this strip; only those of the last strip can be read again."""
        offset, length = self._append(content)
        self._blocks.append(Block(name, 0, 0, 0, 0, offset, length, 0))

    def _append(self, content: bytes) -> tuple[int, int]:
        assert self._file
        offset = self._file.tell()
        return offset, self._file.write(zlib.compress(content, 1))

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        assert self._file
        try:
            if kind is None:
                self._commit(self._file)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _commit(self, file: IO[bytes]) -> None:
        blocks = [astuple(block) for block in self._blocks]
        index = {"rows": list(self._rows), "blocks": blocks}
        content = json.dumps(index).encode()
        file.write(content)
        file.write(len(content).to_bytes(8, "little"))
        file.write(zlib.crc32(content).to_bytes(8, "little"))
        put_on_disk(file)
        os.replace(self._temporary, self._path)
        sync_folder(self._path.parent)
        self._store.strips.append(_read_index(self._path))


def put_on_disk(file: IO[bytes]) -> None:
    """Close a file after its bytes have reached the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged(path: Path) -> InputError:
    """The error for a file of a run that is not what the run wrote."""
    return InputError(f"{path}: is damaged; begin again with --restart")


def _read_index(path: Path) -> Strip:
    try:
        with open(path, "rb") as file:
            file.seek(-16, os.SEEK_END)
            end = file.tell()
            length, checksum = (int.from_bytes(file.read(8), "little") for _ in range(2))
            file.seek(end - length)
            content = file.read(length)
        if zlib.crc32(content) != checksum:
            raise ValueError
        index = json.loads(content)
        blocks: dict[str, list[Block]] = {}
        for plane, *rest in index["blocks"]:
            blocks.setdefault(plane, []).append(Block(plane, *rest))
        y0, y1 = index["rows"]
        return Strip(path, y0, y1, blocks)
    except (OSError, ValueError, KeyError, TypeError):
        raise damaged(path) from None


def _read_bytes(path: Path, block: Block) -> bytes:
    with open(path, "rb") as file:
        file.seek(block.offset)
        return file.read(block.length)
