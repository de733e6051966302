"""Decoded pixels on disk, mapped into memory: workers share them, nothing is decoded twice.

A cache is a folder of two files: ``pixels.bin``, bytes one after another, and ``index.json``, which
says where each item lies in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from crispseg.types import InputError

Kind = Literal["cutout", "background", "pair", "found"]
CHANNELS: dict[Kind, int] = {"cutout": 4, "background": 3, "pair": 4, "found": 1}
VERSION = 1


@dataclass(frozen=True, slots=True)
class Item:
    """Where one picture lies in the cache.

    Attributes:
        kind: "cutout" (RGB and alpha), "background" (RGB), "pair" (RGB and true mask) or "found"
            (the mask of some network of the pair of the same source and name).
        name: the original file name.
        group: what must not be divided between training and test: the sequence, or the name.
        split: "train" or "test".
        offset: first byte in the pixel array.
        height: rows.
        width: columns.
        source: the data set it comes from.
    """

    kind: Kind
    name: str
    group: str
    split: str
    offset: int
    height: int
    width: int
    source: str = ""


class CacheWriter:
    """Writes pictures one after another: ``with CacheWriter(folder) as writer: writer.add(...)``.

    The cache becomes valid when the block ends, and not at all if it ends by an exception.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._items: list[Item] = []
        self._offset = 0

    def __enter__(self) -> Self:
        (self._folder / "index.json").unlink(missing_ok=True)  # pixels without an index: no cache
        self._raw = (self._folder / "pixels.part").open("wb")
        return self

    def add(
        self,
        kind: Kind,
        name: str,
        pixels: NDArray[np.uint8],
        *,
        group: str,
        split: str,
        source: str = "",
    ) -> None:
        """Append one (H, W, C) uint8 picture; C is that of ``CHANNELS``.

        Raises:
            InputError: wrong number of channels or dtype.
        """
        if pixels.ndim != 3 or pixels.shape[2] != CHANNELS[kind] or pixels.dtype != np.uint8:
            raise InputError(
                f"{name}: a {kind} must be (H, W, {CHANNELS[kind]}) uint8, "
                f"not {pixels.shape} {pixels.dtype}"
            )
        height, width = pixels.shape[:2]
        self._raw.write(np.ascontiguousarray(pixels).data)
        self._items.append(Item(kind, name, group, split, self._offset, height, width, source))
        self._offset += pixels.size

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._raw.close()
        raw = self._folder / "pixels.part"
        if kind is not None:
            raw.unlink()
            return
        raw.replace(self._folder / "pixels.bin")
        index = {"version": VERSION, "items": [asdict(item) for item in self._items]}
        temporary = self._folder / "index.json.part"
        temporary.write_text(json.dumps(index, indent=1))
        temporary.replace(self._folder / "index.json")


class PixelCache:
    """Reads a cache. Opened files survive a fork, so that workers share the pages.

    Raises:
        InputError: the folder holds no finished cache of this version.
    """

    def __init__(self, folder: Path) -> None:
        try:
            index = json.loads((folder / "index.json").read_text())
        except FileNotFoundError:
            raise InputError(
                f"{folder} is not a prepared cache (no index.json); "
                "make one with recipes/prepare_lite_data.py"
            ) from None
        if index["version"] != VERSION:
            raise InputError(f"{folder} was made by another version; prepare it again")
        self.folder = folder
        self.items = tuple(Item(**item) for item in index["items"])
        self._pixels = np.memmap(folder / "pixels.bin", np.uint8, mode="r")

    def __reduce__(self) -> tuple[type[PixelCache], tuple[Path]]:
        # a spawned worker maps the file again instead of receiving its bytes
        return PixelCache, (self.folder,)

    def select(self, kind: Kind, split: str, without: Iterable[str] = ()) -> tuple[Item, ...]:
        """Items of one kind and split whose group is not in ``without``, in stored order."""
        out = set(without)
        return tuple(
            i for i in self.items if i.kind == kind and i.split == split and i.group not in out
        )

    def pixels(self, item: Item) -> NDArray[np.uint8]:
        """The (H, W, C) uint8 picture, a read-only view."""
        shape = (item.height, item.width, CHANNELS[item.kind])
        stop = item.offset + int(np.prod(shape))
        return np.asarray(self._pixels[item.offset : stop]).reshape(shape)
