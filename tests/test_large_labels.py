"""Segmentation of large files: the labels of memory, the grid kept, resumed after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import rasterio
import tifffile
import torch
from rasterio import Affine

from crispseg.batch import segment_files
from crispseg.io.journal import run_folder
from crispseg.large_labels import segment_large
from crispseg.pipeline import segment_file
from crispseg.segmenters.base import Inference
from crispseg.segmenters.modules import ModuleNetwork
from crispseg.segmenters.network import NetworkSegmenter
from crispseg.types import InputError
from segmenters.small import CLASSES, photo, small_net

HEIGHT, WIDTH = 150, 230
GRID = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500000, 0, -0.5, 4100000)}


def segmenter(**options) -> NetworkSegmenter:
    network = ModuleNetwork(small_net(), num_classes=4, class_names=CLASSES, device="cpu")
    return NetworkSegmenter(network, Inference(tile_size=64, **options), batch_size=2)


def raster(path: Path, pixels: np.ndarray, **options) -> Path:
    shape = {"count": 3, "height": HEIGHT, "width": WIDTH}
    with rasterio.open(path, "w", driver="GTiff", dtype="uint8", **shape, **GRID, **options) as f:
        f.write(np.moveaxis(pixels, -1, 0))
    return path


def stop(done: int, _: int) -> None:
    if done == 8:  # a row of tiles has five
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "options"),
    [("out.tif", {}), ("out.png", {"blend": "equal"}), ("out.npy", {"flip": True})],
)
def test_the_labels_are_those_of_memory(tmp_path, options, name) -> None:
    pixels = photo(HEIGHT, WIDTH)
    image = raster(tmp_path / "photo.tif", pixels)
    output = tmp_path / name
    summary = segment_file(image, output, segmenter=segmenter(**options))
    values = segmenter(**options).probabilities(pixels)
    top = np.sort(values, axis=0)[-2:]
    clear = top[1] - top[0] > 1e-5  # sums in another order
    assert clear.mean() > 0.9  # this small network is torn between two in some
    written = np.load(output) if name == "out.npy" else np.asarray(PIL.Image.open(output))
    np.testing.assert_array_equal(written[clear], values.argmax(axis=0)[clear])
    assert summary.pixels == tuple(np.bincount(written.ravel(), minlength=4))
    assert len(np.unique(written)) == 4
    assert not run_folder(output).exists()


def test_grid_and_nodata_are_kept_and_nothing_is_run_without_an_image(tmp_path) -> None:
    pixels = np.maximum(photo(HEIGHT, WIDTH), 1)
    pixels[:, :100] = 0
    image = raster(tmp_path / "photo.tif", pixels, nodata=0)
    runs = []
    segment_large(image, tmp_path / "o.tif", segmenter(), progress=lambda *n: runs.append(n))
    with tifffile.TiffFile(tmp_path / "o.tif") as file:
        page = file.pages[0]
        written = page.asarray()
        assert page.geotiff_tags["ProjectedCSTypeGeoKey"] == 32633
        assert page.tags["ModelTiepointTag"].value[3:5] == (500000, 4100000)
        assert page.nodata == 255  # 0 is a class
    assert (written[:, :100] == 255).all()
    assert (written[:, 100:] < 4).all()
    whole = []
    segment_large(
        raster(tmp_path / "b.tif", np.maximum(pixels, 1)),
        tmp_path / "c.tif",
        segmenter(),
        progress=lambda *n: whole.append(n),
    )
    assert 0 < runs[-1][1] < whole[-1][1]


def test_stopped_it_goes_on_with_the_same_bytes(tmp_path) -> None:
    image = raster(tmp_path / "photo.tif", photo(HEIGHT, WIDTH))
    segment_large(image, tmp_path / "whole.tif", segmenter())

    with pytest.raises(KeyboardInterrupt):
        segment_large(image, tmp_path / "out.tif", segmenter(), progress=stop)
    assert not (tmp_path / "out.tif").exists()
    with pytest.raises(InputError, match="begun with another tiles"):
        segment_large(image, tmp_path / "out.tif", segmenter(flip=True))
    seen = []
    segment_large(image, tmp_path / "out.tif", segmenter(), progress=lambda *n: seen.append(n[0]))
    assert seen[0] == 6
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_folders_of_rasters_are_streamed_as_one_file_is(tmp_path) -> None:
    image = raster(tmp_path / "photo.tif", photo(HEIGHT, WIDTH))
    alone = segment_file(image, tmp_path / "alone.tif", segmenter=segmenter())
    jobs = [(image, tmp_path / "out.tif"), (tmp_path / "none.tif", tmp_path / "none_out.tif")]
    done, failed = segment_files(jobs, segmenter())
    assert done.result == alone
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "alone.tif").read_bytes()
    assert "none.tif" in str(failed.error)
    refused = next(segment_files([(image, tmp_path / "small.tif")], segmenter(), max_pixels=999))
    assert "max_pixels" in str(refused.error)


def test_networks_in_half_precision_and_on_other_devices_are_told_apart(tmp_path) -> None:
    image = raster(tmp_path / "photo.tif", photo(HEIGHT, WIDTH))

    half = segmenter()
    half.network.module.head.register_buffer("halves", torch.ones(3, dtype=torch.bfloat16))
    with pytest.raises(KeyboardInterrupt):
        segment_large(image, tmp_path / "out.tif", half, progress=stop)
    with pytest.raises(InputError, match="begun with another model"):
        segment_large(image, tmp_path / "out.tif", segmenter())
    half.network.device = "cuda:0"
    with pytest.raises(InputError, match="begun with another device"):
        segment_large(image, tmp_path / "out.tif", half)


def test_several_scales_are_for_memory_only(tmp_path) -> None:
    image = raster(tmp_path / "photo.tif", photo(HEIGHT, WIDTH))
    with pytest.raises(InputError, match="leave out --scales"):
        segment_large(image, tmp_path / "out.tif", segmenter(scales=(0.5, 1.0)))
