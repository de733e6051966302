"""Rasters, Zarr and slides by windows, and what is written, read back by other libraries."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import rasterio
import tifffile
import zarr
from rasterio import Affine

from crispseg.io import read_image, read_mask, sources
from crispseg.io.raster import GeoGrid, RasterImage, RasterMask, overview_factors
from crispseg.io.sinks import check_sink, open_sink
from crispseg.io.sources import SlideImage, is_georeferenced, open_image, open_mask
from crispseg.io.spool import SpooledImage
from crispseg.io.zarrays import ZarrImage, ZarrMask
from crispseg.types import Box, InputError, Size

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (90, 130, 3), dtype=np.uint8)
BOXES = [Box(0, 0, 90, 130), Box(13, 40, 77, 41), Box(89, 100, 90, 130)]
TRANSFORM = Affine(0.5, 0, 500000, 0, -0.5, 4100000)
GRID = {"crs": "EPSG:32633", "transform": TRANSFORM}


def raster(path, pixels, **options) -> None:
    bands = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None]
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 32, "blockysize": 32}
    profile |= {"height": bands.shape[1], "width": bands.shape[2], "count": len(bands)}
    with rasterio.open(path, "w", **profile, dtype=bands.dtype, **GRID, **options) as file:
        file.write(bands)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [0, 3, 4])
def test_raster_windows_are_those_of_read_image(tmp_path, kind, channels) -> None:
    pixels = RNG.random((90, 130, channels or 1))
    pixels = pixels.astype(kind) if kind is np.float32 else (pixels * 250).astype(kind)
    raster(tmp_path / "a.tif", pixels if channels else pixels[:, :, 0])
    whole = read_image(tmp_path / "a.tif")
    source = open_image(tmp_path / "a.tif", tmp_path)
    assert isinstance(source, RasterImage)
    assert source.dtype == whole.dtype
    for box in BOXES:
        np.testing.assert_array_equal(source.read(box), whole[box.slices])
    assert source.grid.transform == tuple(TRANSFORM)[:6]
    assert rasterio.CRS.from_wkt(source.grid.crs).to_epsg() == 32633


def test_nodata_and_alpha_say_where_there_is_an_image(tmp_path) -> None:
    pixels = PIXELS.copy()
    pixels[pixels == 7] = 8
    pixels[10:20, 30:50] = 7
    raster(tmp_path / "n.tif", pixels, nodata=7)
    inside = np.ones((90, 130), bool)
    inside[10:20, 30:50] = False
    source = RasterImage(tmp_path / "n.tif")
    np.testing.assert_array_equal(source.valid(BOXES[0]), inside)
    assert source.grid.nodata == 7
    raster(tmp_path / "p.tif", pixels)
    assert RasterImage(tmp_path / "p.tif").valid(BOXES[0]) is None
    assert is_georeferenced(tmp_path / "p.tif")
    PIL.Image.fromarray(PIXELS).save(tmp_path / "plain.tif")
    assert not is_georeferenced(tmp_path / "plain.tif")


@pytest.mark.parametrize("high", [1, 255, 60000])
def test_raster_masks_are_scaled_by_all_their_values(tmp_path, high) -> None:
    values = RNG.integers(0, 2, (90, 130)).astype(np.uint16 if high > 255 else np.uint8)
    values[80, 3] = high
    raster(tmp_path / "m.tif", values)
    source, whole = open_mask(tmp_path / "m.tif", tmp_path), read_mask(tmp_path / "m.tif")
    assert isinstance(source, RasterMask)
    for box in BOXES:
        np.testing.assert_array_equal(source.read(box), whole[box.slices])
    assert source.read(BOXES[0]).dtype == np.float32


@pytest.mark.parametrize("kind", ["u1", "f4"])
def test_a_written_raster_is_read_back_by_other_libraries(tmp_path, kind) -> None:
    size = Size(700, 900)
    values = RNG.integers(0, 256, size).astype(kind) / (255 if kind == "f4" else 1)
    values = values.astype(kind)
    crs = rasterio.CRS.from_epsg(32633).to_wkt()
    grid = GeoGrid(crs, tuple(TRANSFORM)[:6], 255.0)
    with open_sink(tmp_path / "o.tif", size, kind, grid) as sink:
        for y in range(0, 700, 100):
            sink.write(Box(y, 0, y + 100, 900), values[y : y + 100])
    with tifffile.TiffFile(tmp_path / "o.tif") as file:
        page = file.pages[0]
        np.testing.assert_array_equal(page.asarray(), values)
        assert (page.is_tiled, page.compression.name, len(file.pages)) == (True, "ADOBE_DEFLATE", 2)
        assert page.geotiff_tags["ProjectedCSTypeGeoKey"] == 32633
        assert page.tags["ModelTiepointTag"].value[3:5] == (500000, 4100000)
        assert page.tags["ModelPixelScaleTag"].value[:2] == (0.5, 0.5)
        assert page.nodata == 255
    assert overview_factors(size) == [2]


@pytest.mark.parametrize("empty", [0, 7])
def test_overviews_of_empty_parts_read_as_such_and_take_no_room(tmp_path, empty) -> None:
    size, path = Size(2048, 3072), tmp_path / "o.tif"
    grid = GeoGrid(None, (1.0, 0, 0, 0, 1.0, 0), float(empty) or None)
    values = np.full(size, empty, np.uint8)
    values[512:1024, 1024:1536] = RNG.integers(8, 256, (512, 512))
    with open_sink(path, size, "u1", grid) as sink:
        for y in range(0, 2048, 512):
            for x in range(0, 3072, 512):
                box = Box(y, x, y + 512, x + 512)
                if (values[box.slices] == empty).all():
                    sink.fill(box, np.uint8(empty))
                else:
                    sink.write(box, values[box.slices])
    assert path.stat().st_size < 512 * 512 * 1.5  # the one block, which is noise, and its overviews
    with rasterio.open(path, overview_level=0) as file:
        sums = values.reshape(1024, 2, 1536, 2).astype(np.int64).sum(axis=(1, 3))
        np.testing.assert_array_equal(file.read(1), (sums + 2) // 4)


def test_png_and_npy_are_read_back_by_pillow_and_numpy(tmp_path) -> None:
    values = RNG.integers(0, 256, (33, 47), dtype=np.uint8)
    for name, kind in (("o.png", "u1"), ("o.npy", "f4")):
        with open_sink(tmp_path / name, Size(33, 47), kind) as sink:
            sink.write(Box(0, 0, 20, 47), values[:20])
            sink.write(Box(20, 0, 33, 47), values[20:])
    with PIL.Image.open(tmp_path / "o.png") as picture:
        picture.verify()
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "o.png")), values)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), values.astype(np.float32))


def test_zarr_in_and_out(tmp_path) -> None:
    with open_sink(tmp_path / "o.zarr", Size(90, 130), "u1") as sink:
        sink.write(Box(0, 0, 90, 130), PIXELS[:, :, 0])
    group = zarr.open_group(tmp_path / "o.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][:], PIXELS[:, :, 0])
    assert group.attrs["ome"]["multiscales"][0]["axes"][0]["name"] == "y"
    mask = open_mask(tmp_path / "o.zarr", tmp_path)
    assert isinstance(mask, ZarrMask)
    np.testing.assert_array_equal(mask.read(BOXES[1]) * 255, PIXELS[BOXES[1].slices][:, :, 0])
    for name, pixels in (("a.zarr", PIXELS), ("b.zarr", np.moveaxis(PIXELS, -1, 0)[None, :, None])):
        array = zarr.create_array(tmp_path / name, shape=pixels.shape, dtype="u1")
        array[:] = pixels
        source = open_image(tmp_path / name, tmp_path)
        assert isinstance(source, ZarrImage)
        for box in BOXES:
            np.testing.assert_array_equal(source.read(box), PIXELS[box.slices])


def test_slides_are_read_in_windows(tmp_path) -> None:
    pixels = RNG.integers(0, 256, (700, 800, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(256, 256), photometric="rgb")
    source = SlideImage(tmp_path / "s.tif")
    box = Box(100, 250, 420, 799)
    np.testing.assert_array_equal(source.read(box), pixels[box.slices])
    (tmp_path / "no.svs").write_bytes(b"no slide")
    with pytest.raises(InputError, match="whole slide"):
        open_image(tmp_path / "no.svs", tmp_path)


def test_what_is_no_plain_tiff_goes_by_libvips(tmp_path) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6
    PIL.Image.fromarray(PIXELS).save(tmp_path / "t.tif", exif=exif)
    source = open_image(tmp_path / "t.tif", tmp_path)
    assert isinstance(source, SpooledImage)
    assert source.size == (130, 90)


def test_a_missing_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("crispseg.io.windows.find_spec", lambda name: None)
    (tmp_path / "a.zarr").mkdir()
    for path, extra in (("a.zarr", "zarr"), ("a.svs", "wsi")):
        with pytest.raises(InputError, match=rf"crispseg\[{extra}\]"):
            sources.open_image(tmp_path / path, tmp_path)
    with (
        pytest.raises(InputError, match=r"crispseg\[geo\]"),
        open_sink(tmp_path / "o.tif", Size(2, 2), "u1"),
    ):
        pass
    assert not (tmp_path / "o.tif").exists()


def test_a_corrupted_tile_is_one_line(tmp_path) -> None:
    pixels = RNG.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    raster(tmp_path / "a.tif", pixels, compress="deflate")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        offset = file.pages[0].dataoffsets[5]
    content[offset : offset + 40] = struct.pack("40s", b"x" * 40)
    (tmp_path / "a.tif").write_bytes(content)
    source = RasterImage(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: cannot be read"):
        source.read(Box(0, 0, 128, 128))


def test_outputs_are_checked_before_the_work(tmp_path) -> None:
    with pytest.raises(InputError, match=r"\.png, \.tif"):
        check_sink(tmp_path / "o.jpg")
    with pytest.raises(InputError, match="PNG ends at"):
        check_sink(tmp_path / "o.png", Size(10, 2**31))
    with pytest.raises(InputError, match="must be a new folder"):
        check_sink(tmp_path / "no" / "o.zarr")


def test_io_needs_none_of_the_extras_to_import() -> None:
    code = "import crispseg.io.sources, crispseg.io.sinks, sys; " + (
        "sys.exit(any(n in sys.modules for n in ('rasterio', 'zarr', 'openslide', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
