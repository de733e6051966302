import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from crispseg.io import MASK_SUFFIXES, check_output, read_image, read_mask, write_mask
from crispseg.types import InputError

LEVELS = np.array([[0, 1, 2], [127, 128, 255]], np.uint8)
SHAPE = np.array([[0, 1, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]], np.uint8)


def save(path: Path, array: NDArray[Any], **options: Any) -> Path:
    PIL.Image.fromarray(array).save(path, **options)
    return path


def assert_mask(path: Path, expected: NDArray[Any]) -> None:
    result = read_mask(path)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, expected, atol=1e-7)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp", "a.gif", "a.pgm"])
def test_grey_levels_are_divided_by_255(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name == "a.webp" else {}
    assert_mask(save(tmp_path / name, LEVELS, **options), LEVELS / 255)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.gif"])
@pytest.mark.parametrize("high", [1, 255])
def test_0_and_1_means_the_same_as_0_and_255(tmp_path: Path, name: str, high: int) -> None:
    assert_mask(save(tmp_path / name, SHAPE * np.uint8(high)), SHAPE)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.gif", "a.pbm"])
def test_one_bit_files(tmp_path: Path, name: str) -> None:
    assert_mask(save(tmp_path / name, SHAPE.astype(bool)), SHAPE)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_files(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 256, 65535, 32768]], np.uint16)
    assert_mask(save(tmp_path / name, values), values / 65535)


def test_jpeg_masks(tmp_path: Path) -> None:
    blocks = np.kron(SHAPE, np.full((16, 16), 255, np.uint8))
    result = read_mask(save(tmp_path / "a.jpg", blocks, quality=95))
    np.testing.assert_allclose(result, blocks / 255, atol=0.02)


def test_the_largest_of_the_colours_counts(tmp_path: Path) -> None:
    rgb = np.array([[[0, 0, 0], [255, 0, 0], [0, 200, 10], [1, 2, 3]]], np.uint8)
    opaque = np.dstack([rgb, np.full((1, 4), 255, np.uint8)])
    expected = np.array([[0, 255, 200, 3]]) / 255
    assert_mask(save(tmp_path / "rgb.png", rgb), expected)
    assert_mask(save(tmp_path / "rgb.bmp", rgb), expected)
    assert_mask(save(tmp_path / "rgb.tif", rgb), expected)
    assert_mask(save(tmp_path / "rgba.png", opaque), expected)


def test_the_alpha_of_a_cut_out_is_the_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    assert_mask(save(tmp_path / "a.png", rgba), rgba[:, :, 3] / 255)
    assert_mask(save(tmp_path / "a.webp", rgba, lossless=True), rgba[:, :, 3] / 255)
    grey_alpha = PIL.Image.fromarray(rgba).convert("LA")
    grey_alpha.save(tmp_path / "la.png")
    assert_mask(tmp_path / "la.png", rgba[:, :, 3] / 255)
    deep = rng.integers(0, 65536, (5, 7, 4), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert_mask(tmp_path / "deep.png", deep[:, :, 3] / 65535)


def paletted(indices: NDArray[np.uint8], palette: list[int]) -> PIL.Image.Image:
    image = PIL.Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette(palette)
    return image


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.gif"])
def test_palettes(tmp_path: Path, name: str) -> None:
    indices = np.array([[0, 1, 2, 7]], np.uint8)
    # label colours: what is not index 0 is object, grey, dark and void entries included
    labels = [0, 0, 0, 128, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 128, 128]
    paletted(indices, labels).save(tmp_path / name)
    assert_mask(tmp_path / name, np.array([[0, 1, 1, 1]]))
    greys = [200, 200, 200, 0, 0, 0, 50, 50, 50] + [0] * 12 + [255, 255, 255]
    paletted(indices, greys).save(tmp_path / name)
    assert_mask(tmp_path / name, np.array([[200, 0, 50, 255]]) / 255)


def test_the_transparency_of_a_palette_is_an_alpha_channel(tmp_path: Path) -> None:
    image = paletted(np.array([[0, 1, 2, 2]], np.uint8), [255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0, 51]))
    assert_mask(tmp_path / "a.png", np.array([[1, 0, 0.2, 0.2]]))
    image.save(tmp_path / "b.png", transparency=2)
    assert_mask(tmp_path / "b.png", np.array([[1, 1, 0, 0]]))
    image.save(tmp_path / "c.png", transparency=bytes([255, 255, 255]))
    assert_mask(tmp_path / "c.png", np.array([[0, 1, 1, 1]]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_exif_orientation_is_not_applied(tmp_path: Path, name: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[274] = orientation
    save(tmp_path / name, SHAPE, exif=exif, **({"lossless": True} if name == "a.webp" else {}))
    assert_mask(tmp_path / name, SHAPE)
    if orientation >= 5:
        assert read_image(tmp_path / name).shape == (4, 3, 3)
    if name != "a.webp":
        paletted(SHAPE, [9, 0, 0, 0, 9, 0]).save(tmp_path / name, exif=exif)
        assert_mask(tmp_path / name, SHAPE)


def test_float_tiff(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((3, 5), dtype=np.float32)
    assert_mask(save(tmp_path / "a.tif", values), values)
    for bad, message in ((np.nan, "NaN"), (1.01, "must lie in"), (-1, "must lie in")):
        values[1, 1] = bad
        with pytest.raises(InputError, match=rf"a\.tif: .*{message}"):
            read_mask(save(tmp_path / "a.tif", values))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (SHAPE.astype(bool), SHAPE),
        (SHAPE.astype(np.int64), SHAPE),
        (LEVELS, LEVELS / 255),
        (LEVELS[:, :, np.newaxis] / 255, LEVELS / 255),
        (np.asfortranarray(LEVELS / np.float32(255)), LEVELS / 255),
        (np.float16([[0, 0.5]]), np.array([[0, 0.5]])),
    ],
)
def test_npy_masks(tmp_path: Path, array: NDArray[Any], expected: NDArray[Any]) -> None:
    np.save(tmp_path / "a.npy", array)
    assert_mask(tmp_path / "a.npy", expected)
    read_mask(tmp_path / "a.npy")[:] = 0.25  # the result is the caller's own, not the file
    assert_mask(tmp_path / "a.npy", expected)


def test_bad_npy_masks(tmp_path: Path) -> None:
    for array, message in [
        (np.array([[np.nan]]), "NaN"),
        (np.array([[-1, 1]]), "integer mask"),
        (np.array([["a"]]), "bool, integer or float"),
        (np.zeros((0, 4)), r"a\.npy"),
        (np.zeros(4), r"must hold \(H, W\)"),
        (np.array([[None]]), "cannot be decoded"),
    ]:
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        with pytest.raises(InputError, match=message) as caught:
            read_mask(tmp_path / "a.npy")
        assert str(caught.value).startswith(str(tmp_path / "a.npy"))


@pytest.mark.parametrize("suffix", [s for s in MASK_SUFFIXES if s != ".npy"])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (1, 3000)])
def test_write_mask_stores_255_times_the_probability(
    tmp_path: Path, suffix: str, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(2)
    mask = cv2.GaussianBlur(rng.random(size, dtype=np.float32), (0, 0), 2).reshape(size)
    before = mask.copy()
    path = tmp_path / f"out{suffix}"
    write_mask(path, mask)
    with PIL.Image.open(path) as stored:
        assert stored.mode == ("RGB" if suffix == ".webp" else "L")  # WebP has no grey
        values = np.asarray(stored.convert("L"))
    near = 4 if suffix in (".jpg", ".jpeg") else 0
    np.testing.assert_allclose(values.astype(int), np.rint(mask * 255), atol=near)
    np.testing.assert_allclose(read_mask(path), mask, atol=(near + 0.5001) / 255)
    np.testing.assert_array_equal(mask, before)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp"])
def test_binary_masks_are_0_and_255_split_above_one_half(tmp_path: Path, suffix: str) -> None:
    mask = np.float32([[0, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 1]])
    write_mask(tmp_path / f"out{suffix}", mask, binary=True)
    with PIL.Image.open(tmp_path / f"out{suffix}") as stored:
        assert np.asarray(stored.convert("L")).tolist() == [[0, 0, 255, 255]]
    write_mask(tmp_path / f"out{suffix}", np.zeros_like(mask), binary=True)
    assert read_mask(tmp_path / f"out{suffix}").max() == 0


def test_npy_keeps_every_bit(tmp_path: Path) -> None:
    mask = np.random.default_rng(3).random((5, 4), dtype=np.float32)
    write_mask(tmp_path / "a.npy", mask)
    stored = np.load(tmp_path / "a.npy")
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, mask)
    write_mask(tmp_path / "a.npy", mask, binary=True)
    stored = np.load(tmp_path / "a.npy")
    assert stored.dtype == np.bool_
    np.testing.assert_array_equal(stored, mask > 0.5)


@pytest.mark.parametrize("check", [check_output, lambda path: write_mask(path, np.eye(2))])
def test_bad_outputs_are_refused_and_nothing_is_left(tmp_path: Path, check: Any) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder.png").mkdir()
    for name, message in {
        "out.xyz": r"the name must end in one of \.png, ",
        "out": r"the name must end in one of \.png, ",
        "folder.png": "is a folder",
        ".": "is a folder",
        "missing/out.png": "does not exist; create it first",
        "file/out.png": "is a file, not a folder",
    }.items():
        path = os.path.join(tmp_path, name)
        with pytest.raises(InputError, match=message) as caught:
            check(path)
        assert str(caught.value).startswith(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.png"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.webp"
    write_mask(path, np.eye(3, dtype=np.float32))
    old = path.read_bytes()
    for bad, message in [
        (np.full((2, 2), np.nan, np.float32), "NaN"),
        (np.zeros((2, 20000), np.float32), r"out\.webp: cannot be written"),  # WebP ends at 16383
    ]:
        with pytest.raises(InputError, match=message):
            write_mask(path, bad)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.webp"]


def test_check_output_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(b"old")
    check_output(tmp_path / "out.png")
    check_output(tmp_path / "new.PNG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").read_bytes() == b"old"
