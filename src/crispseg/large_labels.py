"""Segmentation of files of any size, in bounded memory; ``pipeline.segment_file`` comes here.

open by windows -> run tile by tile into a folder beside the output -> write the labels

Tiles are merged in whole numbers, which no order changes; in memory they are merged in float32, so
a pixel may get another label there where two classes are equally likely to six digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io import image_size
from crispseg.io.journal import RunFolder, check_unchanged, fingerprint, honest, run_folder
from crispseg.io.raster import GeoGrid, bands_of
from crispseg.io.sinks import SINK_SUFFIXES, BandWriter, check_sink, open_sink
from crispseg.io.sources import WINDOWED_SUFFIXES, is_georeferenced, open_image
from crispseg.io.store import StripStore
from crispseg.io.windows import ImageSource
from crispseg.large import IN_MEMORY_PIXELS, add_weights
from crispseg.runtime.memory import give_back_unused_memory, keep_freed_memory
from crispseg.segmenters.base import Labels, Progress, label_dtype
from crispseg.segmenters.network import NetworkSegmenter
from crispseg.tiling.blend import Values
from crispseg.tiling.stream import Grid, TileStream
from crispseg.types import Box, InputError, Size

FORMAT = 1
"""Of the run folder; raised when an older one can no longer be gone on with."""
WRITE_PX = 1 << 21


@dataclass(frozen=True)
class LabelSummary:
    """What a segmentation has found.

    Attributes:
        size: of the image.
        pixels: of each class; pixels without an image belong to none.
    """

    size: Size
    pixels: tuple[int, ...]


def summary_of_labels(labels: Labels, num_classes: int) -> LabelSummary:
    """The same account of labels in memory."""
    counts = np.bincount(labels.ravel(), minlength=num_classes)
    return LabelSummary(Size(*labels.shape), tuple(counts[:num_classes].tolist()))


def is_large_photo(image: Path, output: Path, *, restart: bool, max_pixels: int | None) -> bool:
    """Whether a segmentation is for ``segment_large``, and not to be done in memory.

    Raises:
        InputError: an image that cannot be read.
    """
    if max_pixels is not None and not image.is_dir() and prod(image_size(image)) > max_pixels:
        return False  # what reads it in memory refuses it
    if restart or run_folder(output).exists():
        return True
    suffix = output.suffix.lower()
    if image.is_dir() or image.suffix.lower() in WINDOWED_SUFFIXES or suffix == ".zarr":
        return True
    if suffix not in SINK_SUFFIXES:
        return False
    return prod(image_size(image)) > IN_MEMORY_PIXELS or is_georeferenced(image)


def segment_large(
    image: Path,
    output: Path,
    segmenter: NetworkSegmenter,
    *,
    restart: bool = False,
    progress: Progress | None = None,
) -> LabelSummary:
    """Segment from file to file in bounded memory.

    Interrupted in any way, the same call goes on where it stopped, at most one row of tiles back,
    and ends with the same bytes.

    Args:
        image: any size, any format of ``io.sources``.
        output: one of ``io.sinks.SINK_SUFFIXES``; a GeoTIFF keeps the image's grid. Pixels without
            an image get its nodata value, or, where that is a class, the largest number.
        segmenter: sees the image at its own scale, in tiles.
        restart: throw away what an earlier run has left.
        progress: called with (network runs done, network runs in all).

    Raises:
        InputError: files that cannot be read or written; a segmenter that needs the whole image; a
            run that was begun with something else; no space left on the disk.
    """
    way = segmenter.inference
    if way.tile_size is None or way.scales != (1.0,) or way.long_side or way.short_side:
        raise InputError(
            f"{image}: an image of this size is segmented in tiles at its own scale; leave out "
            "--scales and --tile-size 0"
        )
    check_sink(output)
    keep_freed_memory()
    subject = {
        "format": FORMAT,
        "image": fingerprint(image),
        "model": _digest(segmenter),
        "device": segmenter.network.device,
        "tiles": [way.tile_size, way.overlap, way.blend, way.flip, way.pad],
        "kind of output": output.suffix.lower(),
    }
    with honest(output), RunFolder(output, subject, restart=restart) as folder:
        return _Run(image, output, segmenter, folder.path).run(progress)


class _Run:
    def __init__(self, image: Path, output: Path, segmenter: NetworkSegmenter, folder: Path):
        self.inputs = {image: fingerprint(image)}
        self.output = output
        self.segmenter = segmenter
        self.image: ImageSource = open_image(image, folder)
        self.size = self.image.size
        check_sink(output, self.size)
        self.kind: np.dtype[np.uint8 | np.uint16] = np.dtype(label_dtype(segmenter.num_classes))
        if output.suffix.lower() == ".png" and self.kind != np.uint8:
            raise InputError(f"{output}: so many classes need 16 bits; write a .tif")
        self.grid: GeoGrid | None = getattr(self.image, "grid", None)
        self.void = self._void()
        self.store = StripStore(folder / "labels", self.size, {"label": self.kind.str})

    def run(self, progress: Progress | None) -> LabelSummary:
        way = self.segmenter.inference
        assert way.tile_size
        tile = Size(way.tile_size, way.tile_size)
        grid = Grid(self.size, tile, way.overlap, way.margin_px, way.ramp_px)
        selected = np.zeros((len(grid.tops), len(grid.lefts)), np.bool_)
        for place in np.ndindex(selected.shape):
            valid = self.image.valid(grid.tile((place[0], place[1])))
            selected[place] = valid is None or valid.any()
        done, total = int(selected[: len(self.store.strips)].sum()), int(selected.sum())

        def count(_: Box) -> None:
            nonlocal done
            done += 1
            give_back_unused_memory()
            if progress:
                progress(done, total)

        stream = TileStream(
            grid,
            selected,
            self._predict,
            lambda box: np.zeros((self.segmenter.num_classes, *box.size), np.float32),
            self._finish,
            batch_size=self.segmenter.batch_size,
            flat=lambda _: {"label": self.void},
            after_tile=count,
        )
        for _ in stream.run(self.store):
            check_unchanged(self.inputs)
        return self._write()

    def _predict(self, boxes: Sequence[Box]) -> list[Values]:
        return self.segmenter.predict([self.image.read(box) for box in boxes])

    def _finish(self, box: Box, values: Values) -> dict[str, NDArray[Any]]:
        labels = values.argmax(axis=0).astype(self.kind)
        valid = self.image.valid(box)
        if valid is not None:
            labels[~valid] = self.void
        return {"label": labels}

    def _write(self) -> LabelSummary:
        check_unchanged(self.inputs)
        counts = np.zeros(256**self.kind.itemsize, np.int64)
        grid = self.grid
        if grid and grid.nodata is not None:
            grid = replace(grid, nodata=self.void)
        with open_sink(self.output, self.size, self.kind.str, grid, labels=True) as sink:
            writer = BandWriter(sink, self.size, self.kind.str)
            for box, labels in self._rows():
                counts += np.bincount(labels.ravel(), minlength=len(counts))
                writer.write(box, labels)
            writer.finish()
        return LabelSummary(self.size, tuple(counts[: self.segmenter.num_classes].tolist()))

    def _rows(self) -> Iterator[tuple[Box, Labels]]:
        for box in bands_of(self.size, WRITE_PX):
            yield box, self.store.read("label", box)

    def _void(self) -> int:
        """What pixels without an image get: the image's nodata value, if that is no class."""
        largest = int(256**self.kind.itemsize - 1)
        nodata = self.grid.nodata if self.grid else None
        if nodata is None or nodata != int(nodata):
            return largest
        return int(nodata) if self.segmenter.num_classes <= nodata <= largest else largest


def _digest(segmenter: NetworkSegmenter) -> str:
    """What tells a network from any other, as far as can be told from outside."""
    network = segmenter.network
    digest = hashlib.sha256(repr((network.source, network.class_names)).encode())
    module = getattr(network, "module", None)
    if module is not None:
        add_weights(digest, module)
    elif Path(network.source).is_file():
        digest.update(repr(fingerprint(network.source)).encode())
    return digest.hexdigest()
