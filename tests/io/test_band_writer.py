"""Rows on their way to a file: whole rows or parts, flat or not, end up where they belong."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import crispseg.io.sinks as sinks
from crispseg.io.raster import GeoGrid
from crispseg.io.sinks import BandWriter, open_sink
from crispseg.types import Box, Size

SIZE = Size(1100, 1300)


class Recorder:
    """A sink that remembers what came, and how."""

    def __init__(self, takes_blocks: bool) -> None:
        self.takes_blocks = takes_blocks
        self.values = np.full(SIZE, 7, np.uint8)
        self.written = 0

    def write(self, box: Box, values: np.ndarray) -> None:
        self.values[box.slices] = values
        self.written += values.size

    def fill(self, box: Box, value: np.generic) -> None:
        self.values[box.slices] = value

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


def picture() -> np.ndarray:
    """Flat but for a noisy square; 255 from row 512 on in the last columns."""
    values = np.zeros(SIZE, np.uint8)
    values[300:700, 530:900] = np.random.default_rng(0).integers(0, 256, (400, 370))
    values[512:, 1024:] = 255
    return values


def feed(writer: BandWriter, values: np.ndarray, heights: list[int], cuts: list[int]) -> None:
    """In parts: rows of ``heights`` in turn, cut at columns; what is flat is filled."""
    y0, turn = 0, 0
    while y0 < SIZE.height:
        y1 = min(y0 + heights[turn % len(heights)], SIZE.height)
        for x0, x1 in pairwise(cuts):
            part = values[y0:y1, x0:x1]
            if (part == part[0, 0]).all():
                writer.fill(Box(y0, x0, y1, x1), part[0, 0])
            else:
                writer.write(Box(y0, x0, y1, x1), part)
        y0, turn = y1, turn + 1
    writer.finish()


@pytest.mark.parametrize("takes_blocks", [True, False])
@pytest.mark.parametrize(
    ("heights", "cuts"),
    [
        ([512], [0, 512, 1024, 1300]),
        ([100, 412], [0, 512, 1024, 1300]),  # rows of a band in several pieces
        ([64], [0, 700, 1300]),  # parts that end inside a block
        ([300, 77, 600], [0, 1300]),  # whole rows may cross bands
    ],
)
def test_parts_and_fills_are_put_together(takes_blocks, heights, cuts) -> None:
    sink, values = Recorder(takes_blocks), picture()
    feed(BandWriter(sink, SIZE, "u1"), values, heights, cuts)
    np.testing.assert_array_equal(sink.values, values)
    if not takes_blocks:
        assert sink.written == values.size
    elif len(cuts) == 4:  # only the middle columns of the first two bands are not flat
        assert sink.written == 1024 * 512


@pytest.mark.parametrize(
    ("name", "nodata"), [("m.tif", None), ("m.tif", 9), ("m.png", None), ("m.npy", None)]
)
def test_what_is_only_filled_is_read_back(tmp_path, monkeypatch, name, nodata) -> None:
    """With a nodata value, blocks that are left out would be read as that, not as 0."""
    values, path = picture(), tmp_path / name
    values[values == 9] = 8
    grid = GeoGrid(None, (1, 0, 0, 0, 1, 0), nodata) if nodata else None
    with open_sink(path, SIZE, "u1", grid) as sink:
        feed(BandWriter(sink, SIZE, "u1"), values, [128], [0, 512, 1024, 1300])
    if name == "m.tif":
        import tifffile

        read = tifffile.imread(path)
    elif name == "m.png":
        from PIL import Image

        read = np.asarray(Image.open(path))
    else:
        read = np.load(path)
    np.testing.assert_array_equal(read, values)


def test_a_band_is_as_high_as_a_block_of_the_file() -> None:
    assert len(BandWriter(Recorder(True), SIZE, "u1")._band) == sinks.BLOCK
