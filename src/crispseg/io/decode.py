"""Files -> arrays as stored: which library opens what, the pixel budget, and honest failures.

libvips decodes everything its wheel can; Pillow decodes what is left (BMP, PNM), and palette files
where a mask needs the indices that libvips expands. The format is told by the first bytes, never by
the name, and only the formats below are tried: no SVG, PDF or PostScript interpreter ever sees a
user's file.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
import PIL.Image
import pyvips
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
)

from crispseg.io.atomic import StrPath
from crispseg.types import InputError, Size

DEFAULT_MAX_PIXELS = 2**28
"""Largest image that is decoded unless the caller asks for more: 268 megapixels."""

_VIPS_LOADERS = {
    "JPEG": "jpegload_source",
    "PNG": "pngload_source",
    "WebP": "webpload_source",
    "TIFF": "tiffload_source",
    "GIF": "gifload_source",
    "HEIF": "heifload_source",
}

_VIPS_FORMATS = {"uchar": "u1", "ushort": "u2", "float": "f4", "double": "f8"} | {
    "char": "i1",
    "short": "i2",
    "uint": "u4",
    "int": "i4",
}

# The plugin classes are called directly: PIL.Image.open warns or fails above a limit of its own.
_PILLOW_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "BMP": BmpImagePlugin.BmpImageFile,
    "PNM": PpmImagePlugin.PpmImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}


class Palette(NamedTuple):
    """A palette image: ``indices`` (H, W) uint8 into ``colours`` (256, 3) and ``alpha`` (256,)."""

    indices: NDArray[np.uint8]
    colours: NDArray[np.uint8]
    alpha: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image file whose header has been read and whose pixels have not.

    Attributes:
        path: as the caller gave it, for messages.
        format: "JPEG", "PNG", ..., told by the file's first bytes.
        size: height and width as stored, before the orientation is applied.
        orientation: the EXIF orientation, 1 (upright) to 8.
        is_palette: whether the pixels are indices into a table of colours.
    """

    path: StrPath
    format: str
    size: Size
    orientation: int
    is_palette: bool
    _handle: Any

    def pixels(self) -> NDArray[Any]:
        """Decode: (H, W) or (H, W, C) as stored, of the file's own dtype; works once.

        C is 2 (grey, alpha), 3 (RGB), 4 (RGB, alpha), or whatever else a TIFF or .npy file holds.
        Palettes are expanded; CMYK and Lab become sRGB; other colour profiles are left alone.

        Raises:
            InputError: the file is damaged or incomplete.
        """
        with _decoding(self.path):
            if isinstance(self._handle, np.ndarray):
                return np.array(self._handle, order="C")  # a copy: the caller owns the result
            if isinstance(self._handle, ImageFile.ImageFile):
                return _pillow_pixels(self._handle)
            return _vips_pixels(self._handle)

    def bands(self, rows: int) -> Iterator[NDArray[Any]]:
        """Decode as ``pixels`` does, ``rows`` rows at a time from the top; works once.

        Memory follows the band where the format is read row by row (JPEG, PNG, TIFF).

        Raises:
            InputError: the file is damaged or incomplete.
        """
        with _decoding(self.path):
            if isinstance(self._handle, np.ndarray):
                yield from (self._handle[y : y + rows] for y in range(0, self.size.height, rows))
                return
            if not isinstance(self._handle, pyvips.Image):
                whole = self.pixels()
                yield from (whole[y : y + rows] for y in range(0, self.size.height, rows))
                return
            image = _without_cmyk(self._handle)
            region = pyvips.Region.new(image)
            kind = _VIPS_FORMATS[image.format]
            for y in range(0, self.size.height, rows):
                count = min(rows, self.size.height - y)
                buffer = region.fetch(0, y, self.size.width, count)
                shape = (count, self.size.width) + ((image.bands,) if image.bands > 1 else ())
                yield np.frombuffer(buffer, kind).reshape(shape)

    def palette(self) -> Palette | None:
        """The indices and colours if this is a palette file, None otherwise.

        Raises:
            InputError: the file is damaged or incomplete.
        """
        if not self.is_palette:
            return None
        with _decoding(self.path), _without_pillow_limit(), open(self.path, "rb") as file:
            image = _PILLOW_PLUGINS[self.format](file)
            if image.mode != "P":  # a table of black and white or of all greys, in order
                return None
            if isinstance(self._handle, pyvips.Image):
                # only to see whether it is whole: Pillow prints about some damage, or overlooks it
                _vips_pixels(self._handle)
            indices = np.array(image, dtype=np.uint8)
            if self.format == "TIFF":  # the only plugin that turns the image by itself
                indices = upright(indices, {6: 8, 8: 6}.get(self.orientation, self.orientation))
            return Palette(np.ascontiguousarray(indices), *_pillow_palette(image))


@contextmanager
def open_stored(path: StrPath, *, max_pixels: int | None) -> Iterator[StoredImage]:
    """Open an image file and read its header; use the result inside the ``with`` block.

    Args:
        path: a regular file.
        max_pixels: refuse larger images before anything is decoded; None for no limit.

    Raises:
        InputError: the file is missing, unreadable, empty, not an image, damaged, or too large.
    """
    with _open_regular(path) as file:
        image_format = _identify(path, file)
        file.seek(0)
        with _decoding(path):
            stored = _read_header(path, image_format, file)
        pixels = stored.size.height * stored.size.width
        if max_pixels is not None and pixels > max_pixels:
            raise InputError(
                f"{path}: {stored.size.width}x{stored.size.height} is {pixels / 1e6:g} megapixels, "
                f"above the limit of {max_pixels / 1e6:g}; raise it with --max-megapixels "
                "(command line) or max_pixels= (Python)"
            )
        yield stored


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """View of ``pixels`` (H, W, ...) as its EXIF orientation (1 to 8) wants it shown."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _open_regular(path: StrPath) -> IO[bytes]:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path}: is a folder, not an image file")
        if not stat.S_ISREG(mode):
            # opening a pipe would wait for a writer, and decoders need to seek
            raise InputError(f"{path}: is not a regular file; save the image to a file first")
        return open(path, "rb", buffering=0)  # unbuffered: libvips shares the file's position
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read: {reason}") from None


def _identify(path: StrPath, file: IO[bytes]) -> str:
    head = file.read(16)
    if not head:
        raise InputError(f"{path}: is empty (0 bytes)")
    starts = {
        b"\xff\xd8\xff": "JPEG",
        b"\x89PNG\r\n\x1a\n": "PNG",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"II+\0": "TIFF",  # BigTIFF
        b"MM\0+": "TIFF",
        b"GIF8": "GIF",
        b"BM": "BMP",
        b"\x93NUMPY": "NPY",
    }
    for magic, name in starts.items():
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return "HEIF"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PNM"
    raise InputError(
        f"{path}: is not an image in a format that can be read "
        "(JPEG, PNG, WebP, TIFF, BMP, GIF, HEIF, PNM, .npy)"
    )


def _read_header(path: StrPath, image_format: str, file: IO[bytes]) -> StoredImage:
    if image_format == "NPY":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim not in (2, 3):
            raise InputError(f"{path}: must hold (H, W) or (H, W, C), not {array.shape}")
        return StoredImage(path, image_format, Size(*array.shape[:2]), 1, False, array)
    if image_format not in _VIPS_LOADERS:
        plugin = _PILLOW_PLUGINS[image_format](file)
        size = Size(plugin.height, plugin.width)
        return StoredImage(path, image_format, size, 1, plugin.mode == "P", plugin)
    source = pyvips.Source.new_from_descriptor(file.fileno())
    # Sequential: rows are decoded once, straight into the result. "error" also stops at the end of
    # a truncated file, where the default fills up with grey.
    image = pyvips.Operation.call(
        _VIPS_LOADERS[image_format], source, access="sequential", fail_on="error"
    )
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    # libvips marks the palettes of PNG and GIF only
    is_palette = image.get_typeof("palette") != 0 or (
        image_format == "TIFF" and _is_palette_tiff(file)
    )
    size = Size(image.height, image.width)
    return StoredImage(path, image_format, size, orientation, is_palette, image)


def _is_palette_tiff(file: IO[bytes]) -> bool:
    """Read the tags of the first page (TIFF 6.0, section 2); libvips does not give these away.

    Raises:
        ValueError: the colour map lies beyond the end of the file; libvips invents another then.
    """
    position = file.tell()  # libvips reads on from here
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    if struct.unpack(order + "H", file.read(2))[0] == 43:  # BigTIFF: 64 bits wide
        start, count_format, entry_format = 8, "Q", "HHQ8s"
    else:
        start, count_format, entry_format = 4, "H", "HHI4s"
    offset_format = order + ("Q" if start == 8 else "I")
    file.seek(start)
    file.seek(*struct.unpack(offset_format, file.read(struct.calcsize(offset_format))))
    (entries,) = struct.unpack(order + count_format, file.read(struct.calcsize("<" + count_format)))
    entry_format = order + entry_format
    is_palette, map_end = False, 0
    for _ in range(entries):
        tag, _type, count, value = struct.unpack(
            entry_format, file.read(struct.calcsize(entry_format))
        )
        if tag == 262:  # PhotometricInterpretation
            is_palette = struct.unpack(order + "H", value[:2]) == (3,)
        elif tag == 320:  # ColorMap: 16-bit numbers
            map_end = struct.unpack(offset_format, value)[0] + 2 * count
    if is_palette and not 0 < map_end <= file.seek(0, os.SEEK_END):
        raise ValueError("the colour map is missing")
    file.seek(position)
    return is_palette


def _without_cmyk(image: Any) -> Any:
    is_other = image.interpretation in ("cmyk", "lab", "labs", "labq")
    return image.colourspace("srgb") if is_other else image


def _vips_pixels(image: Any) -> NDArray[Any]:
    image = _without_cmyk(image)
    # image.numpy() makes a 0-d array of a single grey pixel
    shape = (image.height, image.width) + ((image.bands,) if image.bands > 1 else ())
    return np.asarray(image.numpy()).reshape(shape)


def _pillow_pixels(image: ImageFile.ImageFile) -> NDArray[Any]:
    if image.mode == "I":  # how Pillow gives 16-bit grey
        return np.array(image).astype(np.uint16)
    if image.mode == "P":
        return np.array(image.convert("RGB"))
    if image.mode == "1":
        return np.array(image.convert("L"))
    return np.array(image)


def _pillow_palette(
    image: ImageFile.ImageFile,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The (256, 3) colours, black beyond the file's own, and their (256,) opacity."""
    entries = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(entries)] = entries
    alpha = np.full(256, 255, np.uint8)
    transparency = image.info.get("transparency")
    if isinstance(transparency, bytes):
        alpha[: len(transparency)] = np.frombuffer(transparency, np.uint8)
    elif isinstance(transparency, int):
        alpha[transparency] = 0
    return colours, alpha


_pillow_limit_lock = threading.Lock()


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lift the limit that Pillow's TIFF plugin applies; ours has been checked by then."""
    with _pillow_limit_lock:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _decoding(path: StrPath) -> Iterator[None]:
    """Turn whatever a decoder raises into one line with the path; wraps decoders only."""
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory") from None
    except Exception as error:  # decoders raise anything, from struct.error to tokenize.TokenError
        # str() of a pyvips.Error names our own call; what went wrong is in its detail, if anywhere
        text = error.detail if isinstance(error, pyvips.Error) else str(error)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        reason = f" ({lines[0]})" if lines else ""
        raise InputError(
            f"{path}: cannot be decoded; the file is damaged or incomplete{reason}"
        ) from None
