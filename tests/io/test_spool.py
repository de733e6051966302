"""Spooled files give the windows of what read_image and read_mask give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from crispseg.io import read_image, read_mask
from crispseg.io.decode import upright
from crispseg.io.spool import SpooledImage, SpooledMask, stored_box
from crispseg.types import Box, InputError, Size

BOXES = [Box(0, 0, 37, 53), Box(3, 5, 11, 40), Box(36, 52, 37, 53)]
RNG = np.random.default_rng(0)


def write(path: Path, mode: str, **options) -> Path:
    channels = len(mode) if mode in ("RGB", "RGBA", "LA", "CMYK") else 1
    pixels = RNG.integers(0, 256, (37, 53, channels), dtype=np.uint8)
    PIL.Image.fromarray(pixels.squeeze(), mode).save(path, **options)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.bmp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK"])
def test_windows_of_photos(tmp_path, monkeypatch, name, mode) -> None:
    monkeypatch.setattr("crispseg.io.spool.BAND_BYTES", 1000)  # several bands
    try:
        path = write(tmp_path / name, mode)
    except OSError:
        pytest.skip(f"{name} holds no {mode}")
    whole = read_image(path)
    source = SpooledImage(path, tmp_path)
    assert source.size == whole.shape[:2]
    for box in BOXES:
        np.testing.assert_array_equal(source.read(box), whole[box.slices])


def test_sixteen_bits_and_floats(tmp_path) -> None:
    for name, kind in (("a", np.uint16), ("b", np.float32)):
        values = RNG.random((20, 30, 3))
        pixels = values.astype(kind) if kind is np.float32 else (values * 65535).astype(kind)
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", pixels)
        source = SpooledImage(tmp_path / name / "x.npy", tmp_path / name)
        box = Box(2, 3, 15, 30)
        assert source.dtype == np.uint16
        whole = read_image(tmp_path / name / "x.npy")
        np.testing.assert_array_equal(source.read(box), whole[box.slices])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photos(tmp_path, orientation) -> None:
    exif = PIL.Image.Exif()
    exif[274] = orientation
    path = write(tmp_path / "a.png", "RGB", exif=exif)
    whole = read_image(path)
    source = SpooledImage(path, tmp_path)
    assert source.size == whole.shape[:2]
    for box in (Box(0, 0, *source.size), Box(3, 5, 11, 30), Box(30, 1, 31, 37)):
        np.testing.assert_array_equal(source.read(box), whole[box.slices])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_box_by_turning_coordinates(orientation) -> None:
    size = Size(5, 7)
    flat = np.arange(35).reshape(size)
    turned = upright(flat, orientation)
    box = Box(1, 2, 4, 5)
    at = stored_box(box, size, orientation)
    assert sorted(flat[at.slices].ravel()) == sorted(turned[box.slices].ravel())


@pytest.mark.parametrize("high", [1, 2, 255])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_windows_of_masks(tmp_path, mode, high) -> None:
    channels = len(mode) if mode != "P" else 1
    pixels = RNG.integers(0, high + 1, (37, 53, channels), dtype=np.uint8)
    if high == 2 and "A" in mode:
        pixels[..., -1] = 7  # an alpha channel that says nothing
    picture = PIL.Image.fromarray(pixels.squeeze(), mode)
    if mode == "P":
        picture.putpalette(bytes(range(30)))
    picture.save(tmp_path / "m.png")
    whole = read_mask(tmp_path / "m.png")
    source = SpooledMask(tmp_path / "m.png", tmp_path)
    for box in BOXES:
        np.testing.assert_array_equal(source.read(box), whole[box.slices])
        assert source.read(box).dtype == np.float32


def test_bad_masks_are_refused_with_their_name(tmp_path) -> None:
    values = np.full((30, 40), 0.5, np.float32)
    values[20, 3] = np.nan
    np.save(tmp_path / "m.npy", values)
    with pytest.raises(InputError, match=r"m\.npy: mask holds NaN"):
        SpooledMask(tmp_path / "m.npy", tmp_path)
    path = write(tmp_path / "cut.png", "RGB")
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(InputError, match="damaged or incomplete"):
        SpooledImage(path, tmp_path)
    assert not list(tmp_path.glob("image*"))
