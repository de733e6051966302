import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import ImageOps

from crispseg.io import image_size, read_image, read_mask, write_image
from crispseg.types import InputError, Size


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes | None, extra: bytes = b""
) -> bytes:
    """A PNG file written out by hand; without ``rows`` its data breaks off at once."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    )
    if rows is None:
        return head + extra + struct.pack(">I", 9999) + b"IDAT" + b"\x78\x9c"
    return head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def grey16_tiff(order: str, values: NDArray[np.uint16]) -> bytes:
    """A one-strip 16-bit grey TIFF in byte order "<" or ">", written out by hand."""
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8)]
    tags += [(277, 1), (278, height), (279, values.size * 2)]
    data = values.astype(order + "u2").tobytes()
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(data))
    return head + data + struct.pack(order + "H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.tif", {"compression": "tiff_adobe_deflate"}),
        ("a.webp", {"lossless": True}),
        ("a.bmp", {}),
        ("a.ppm", {}),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (31, 27), (20000, 3), (3, 16000)])
def test_lossless_files_come_back_exactly(
    tmp_path: Path, name: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    if name == "a.webp" and max(size) > 16383:
        pytest.skip("WebP ends at 16383 pixels")
    expected = photo(*size)
    PIL.Image.fromarray(expected).save(tmp_path / name, **options)
    result = read_image(tmp_path / name)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert result.flags.writeable
    np.testing.assert_array_equal(result, expected)
    assert image_size(tmp_path / name) == Size(*size)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (20000, 3)])
def test_jpeg_agrees_with_opencv(tmp_path: Path, progressive: bool, size: tuple[int, int]) -> None:
    path = tmp_path / "a.jpg"
    smooth = cv2.GaussianBlur(photo(*size), (9, 9), 3).reshape(*size, 3)
    PIL.Image.fromarray(smooth).save(path, progressive=progressive, quality=90)
    expected = cv2.imread(str(path))[:, :, ::-1]
    np.testing.assert_allclose(read_image(path).astype(int), expected, atol=3)
    assert image_size(path) == Size(*size)


def test_the_content_tells_the_format_not_the_name(tmp_path: Path) -> None:
    expected = photo(5, 7)
    PIL.Image.fromarray(expected).save(tmp_path / "bmp", format="BMP")
    (tmp_path / "bmp").rename(tmp_path / "odd name [page=3] é.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "odd name [page=3] é.jpg"), expected)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    expected = photo(3, 4)
    write_image(path, expected)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize(
    ("depth", "row", "expected"),
    [
        (1, b"\xa0", [255, 0, 255]),
        (2, b"\x1b", [0, 85, 170]),
        (4, b"\x0f\x80", [0, 255, 136]),
        (8, b"\x00\x07\xff", [0, 7, 255]),
        (16, b"\x00\x07\x12\x34\xff\xff", [7, 0x1234, 0xFFFF]),
    ],
)
def test_grey_png_of_every_depth(
    tmp_path: Path, depth: int, row: bytes, expected: list[int]
) -> None:
    (tmp_path / "a.png").write_bytes(png(3, 1, depth, 0, b"\0" + row))
    result = read_image(tmp_path / "a.png")
    assert result.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert result.tolist() == [[[value] * 3 for value in expected]]


def test_alpha_is_dropped_and_the_colours_beneath_it_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rgba = rng.integers(0, 65536, (6, 5, 4), dtype=np.uint16)
    rgba[:2, :, 3] = 0
    cv2.imwrite(str(tmp_path / "rgba16.png"), rgba[:, :, [2, 1, 0, 3]])
    np.testing.assert_array_equal(read_image(tmp_path / "rgba16.png"), rgba[:, :, :3])
    grey_alpha = b"\0" + bytes.fromhex("0102 0000 abcd ffff")
    (tmp_path / "la16.png").write_bytes(png(2, 1, 16, 4, grey_alpha))
    result = read_image(tmp_path / "la16.png")
    assert result.dtype == np.uint16
    assert result.tolist() == [[[0x0102] * 3, [0xABCD] * 3]]


def test_a_palette_is_expanded(tmp_path: Path) -> None:
    paletted = PIL.Image.fromarray(photo(20, 30)).quantize(16)
    for name in ("a.png", "a.tif", "a.bmp", "a.gif"):
        paletted.save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name), paletted.convert("RGB"))


def test_interlaced_png(tmp_path: Path) -> None:
    expected = photo(19, 23)
    pyvips.Image.new_from_array(expected).pngsave(str(tmp_path / "a.png"), interlace=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_both_byte_orders(tmp_path: Path, order: str) -> None:
    values = np.random.default_rng(2).integers(0, 65536, (4, 7), dtype=np.uint16)
    (tmp_path / "a.tif").write_bytes(grey16_tiff(order, values))
    expected = np.repeat(values[:, :, np.newaxis], 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)


def test_only_the_first_page_of_a_tiff_is_read(tmp_path: Path) -> None:
    pages = [photo(8, 9, seed) for seed in range(3)]
    first, *others = map(PIL.Image.fromarray, pages)
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pages[0])


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_becomes_srgb(tmp_path: Path, name: str) -> None:
    flat = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    PIL.Image.fromarray(flat).convert("CMYK").save(tmp_path / name)
    result = read_image(tmp_path / name)
    assert result.dtype == np.uint8
    # a press profile is applied, so the colour is near, not equal; inverted it would be far off
    np.testing.assert_allclose(result.astype(int), flat, atol=45)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, name: str, orientation: int) -> None:
    path = tmp_path / name
    exif = PIL.Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if name == "a.webp" else {}
    blocks = np.kron(photo(2, 3), np.ones((16, 16, 1), np.uint8))  # survive JPEG compression
    PIL.Image.fromarray(blocks).save(path, exif=exif, **options)
    with PIL.Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored), dtype=int)
    result = read_image(path)
    assert result.shape == expected.shape
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result.astype(int), expected, atol=3 if name == "a.jpg" else 0)
    assert image_size(path) == expected.shape[:2]


def test_float_files_become_16_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(3).random((5, 6, 3), dtype=np.float32)
    cv2.imwrite(str(tmp_path / "a.tif"), values[:, :, ::-1])
    np.save(tmp_path / "a.npy", values)
    for name in ("a.tif", "a.npy"):
        result = read_image(tmp_path / name)
        assert result.dtype == np.uint16
        np.testing.assert_allclose(result / 65535, values, atol=1 / 65535)


@pytest.mark.parametrize("bad", [1.5, -0.1, np.nan, np.inf])
def test_floats_outside_0_1_are_refused(tmp_path: Path, bad: float) -> None:
    values = np.full((2, 2), 0.5, np.float32)
    values[1, 0] = bad
    PIL.Image.fromarray(values).save(tmp_path / "a.tif")
    wanted = (
        "floats that span .* scale them" if np.isfinite(bad) else "NaN or infinity; replace them"
    )
    with pytest.raises(InputError, match=rf"a\.tif: holds {wanted}"):
        read_image(tmp_path / "a.tif")


def test_npy_images(tmp_path: Path) -> None:
    expected = photo(4, 5)
    np.save(tmp_path / "rgb.npy", np.asfortranarray(expected))
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.npy"), expected)
    np.save(tmp_path / "grey.npy", expected[:, :, 0])
    assert read_image(tmp_path / "grey.npy").shape == (4, 5, 3)
    assert image_size(tmp_path / "grey.npy") == Size(4, 5)
    for array, message in [
        (np.zeros((2, 2, 5), np.uint8), "has 5 channels"),
        (np.zeros((2, 2, 2, 2), np.uint8), r"must hold \(H, W\)"),
        (np.zeros((2, 2), np.bool_), "uint8 or uint16, not bool"),
        (np.array([[object()]]), "cannot be decoded"),
    ]:
        np.save(tmp_path / "bad.npy", array, allow_pickle=True)
        with pytest.raises(InputError, match=message) as caught:
            read_image(tmp_path / "bad.npy")
        assert str(caught.value).startswith(str(tmp_path / "bad.npy"))


def test_many_bands_are_refused(tmp_path: Path) -> None:
    pyvips.Image.black(5, 5, bands=7).tiffsave(str(tmp_path / "a.tif"))
    with pytest.raises(InputError, match="has 7 channels; grey or RGB is needed"):
        read_image(tmp_path / "a.tif")


def test_unusable_paths_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello\nworld")
    (tmp_path / "drawing.png").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    os.mkfifo(tmp_path / "pipe.png")
    for path, message in {
        tmp_path / "missing.png": "no such file",
        tmp_path: "is a folder",
        tmp_path / "text.png" / "a.png": "cannot be read",
        tmp_path / "empty.jpg": r"is empty \(0 bytes\)",
        tmp_path / "text.png": "is not an image in a format that can be read",
        tmp_path / "drawing.png": "is not an image in a format that can be read",
        tmp_path / "pipe.png": "is not a regular file",
        Path("/dev/null"): "is not a regular file",
        tmp_path / ("x" * 300): "cannot be read",
        tmp_path / "nul\0byte": "cannot be read",
    }.items():
        for read in (read_image, read_mask, image_size):
            with pytest.raises(InputError, match=message) as caught:
                read(path)
            assert str(caught.value).startswith(str(path))
            assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything, whatever the mode says")
def test_a_file_without_read_permission(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", photo(2, 2))
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "tif", "lzw.tif", "webp", "bmp", "gif", "ppm", "npy"]
)
def test_truncated_files_fail_instead_of_turning_grey(
    tmp_path: Path, suffix: str, kept: float, palette: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a.{suffix}"
    pixels = photo(90, 110)
    image = PIL.Image.fromarray(pixels)
    if suffix == "npy":
        np.save(path, pixels)
    elif palette and suffix not in ("jpg", "webp", "ppm"):
        image.quantize(64).save(path, compression="tiff_lzw" if suffix == "lzw.tif" else None)
    else:
        image.save(path, **({"compression": "tiff_lzw"} if suffix == "lzw.tif" else {}))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match="damaged or incomplete"):
            read(path)
    assert capfd.readouterr() == ("", "")


def test_palette_files_without_their_last_bytes_fail_as_image_and_as_mask(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PIL.Image.fromarray(photo(20, 30)).quantize(16).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match="damaged or incomplete"):
            read(path)


def test_a_huge_header_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    for colour in (0, 2, 3):
        palette = b"\0\0\0\x03PLTE\0\0\0" + struct.pack(">I", zlib.crc32(b"PLTE\0\0\0"))
        path.write_bytes(png(40000, 40000, 8, colour, None, palette if colour == 3 else b""))
        assert image_size(path) == Size(40000, 40000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for read in (read_image, read_mask):
            with pytest.raises(
                InputError,
                match=r"40000x40000 is 1600 megapixels, above the limit of 268\.435; "
                r"raise it with --max-megapixels \(command line\) or max_pixels=",
            ):
                read(path)
            with pytest.raises(InputError, match="damaged or incomplete"):
                read(path, max_pixels=1_600_000_000)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 200 * 1024 * (1 if sys.platform == "linux" else 1024)
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:33])  # not even the start of the data
    with pytest.raises(InputError, match=r"cut\.png: cannot be decoded"):
        read_image(tmp_path / "cut.png")


def test_the_limit_counts_pixels(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp"):
        write = PIL.Image.fromarray(photo(10, 11))
        write.save(tmp_path / name)
        assert read_image(tmp_path / name, max_pixels=110).shape == (10, 11, 3)
        with pytest.raises(InputError, match="above the limit"):
            read_image(tmp_path / name, max_pixels=109)
        with pytest.raises(InputError, match="above the limit"):
            read_mask(tmp_path / name, max_pixels=109)


def test_pillows_own_limit_does_not_interfere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paletted = PIL.Image.fromarray(photo(20, 30)).quantize(16)
    names = ["a.png", "a.tif", "a.bmp", "a.gif"]
    for name in names:
        paletted.save(tmp_path / name)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    for name in names:
        assert read_image(tmp_path / name).shape == (20, 30, 3)
        assert read_mask(tmp_path / name).shape == (20, 30)
    assert PIL.Image.MAX_IMAGE_PIXELS == 10


def test_no_torch_and_nothing_on_stderr(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(png(3, 1, 8, 0, b"\0abc")[:-14] + b"spoilt checksum")
    script = (
        "import sys, crispseg.io\n"
        "assert 'torch' not in sys.modules\n"
        "try: crispseg.io.read_image(sys.argv[1])\n"
        "except crispseg.types.InputError: print('refused')\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "bad.png")]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "refused\n", "")


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    PIL.Image.fromarray(photo(9, 9)).save(tmp_path / "a.jpg")
    PIL.Image.fromarray(photo(9, 9)).quantize(4).save(tmp_path / "a.tif")
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        read_image(tmp_path / "a.jpg")
        image_size(tmp_path / "a.jpg")
        read_mask(tmp_path / "a.tif")
    assert len(os.listdir("/dev/fd")) <= before + 2


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff", "a.webp", "A.PNG", "a.jpg", "a.jpeg"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_write_image(tmp_path: Path, name: str, dtype: type[np.generic]) -> None:
    image = np.kron(photo(3, 2), np.ones((16, 16, 1))).astype(dtype)
    if dtype == np.uint16:
        image = image * 257
    before = image.copy()
    write_image(tmp_path / name, image)
    np.testing.assert_array_equal(image, before)
    if name.lower().endswith((".webp", ".jpg", ".jpeg")) and dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    with PIL.Image.open(tmp_path / name) as check:
        assert check.format == {"p": "PNG", "t": "TIFF", "w": "WEBP", "j": "JPEG"}[name[2].lower()]
    result = read_image(tmp_path / name)
    assert result.dtype == image.dtype
    np.testing.assert_allclose(
        result.astype(int), image, atol=4 if name.endswith(("jpg", "jpeg")) else 0
    )


def test_write_image_refuses(tmp_path: Path) -> None:
    image = photo(2, 2)
    for path, array, message in [
        (tmp_path / "a.xyz", image, r"must end in one of \.png, "),
        (tmp_path / "a.npy", image, r"must end in one of \.png, "),
        (tmp_path / "no" / "a.png", image, "does not exist"),
        (tmp_path, image, "is a folder"),
        (tmp_path / "a.png", image[:, :, 0], "must have shape"),
        (tmp_path / "a.jpg", np.zeros((1, 65536, 3), np.uint8), r"a\.jpg: cannot be written"),
    ]:
        with pytest.raises(InputError, match=message):
            write_image(path, array)
    assert list(tmp_path.iterdir()) == []
