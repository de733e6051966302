"""Which reader opens which file: images and masks of any size as sources of windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crispseg.io.atomic import StrPath
from crispseg.io.decode import open_stored
from crispseg.io.raster import RasterImage, RasterMask, has_rasterio
from crispseg.io.spool import SpooledImage, SpooledMask
from crispseg.io.windows import ImageSource, MaskSource, needs_extra
from crispseg.io.zarrays import ZarrImage, ZarrMask
from crispseg.types import Box, Image, InputError, Size

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm")
WINDOWED_SUFFIXES = (".zarr", *SLIDE_SUFFIXES)
"""Files that only the streaming engine reads."""


def open_image(path: StrPath, folder: Path) -> ImageSource:
    """Open an image for reading in windows.

    Args:
        path: anything ``read_image`` reads; GeoTIFF, COG, BigTIFF; a Zarr folder; a whole slide.
        folder: where pixels of formats without windows are kept.

    Raises:
        InputError: the file cannot be read, or needs an extra that is missing.
    """
    suffix = Path(path).suffix.lower()
    if Path(path).is_dir() or suffix == ".zarr":
        return ZarrImage(path)
    if suffix in SLIDE_SUFFIXES:
        return SlideImage(path)
    if _is_raster(path):
        return RasterImage(path)
    return SpooledImage(path, folder)


def open_mask(path: StrPath, folder: Path) -> MaskSource:
    """Open a mask for reading in windows; see ``open_image``.

    Raises:
        InputError: the file cannot be read, holds no mask, or needs an extra that is missing.
    """
    if Path(path).is_dir() or Path(path).suffix.lower() == ".zarr":
        return ZarrMask(path)
    if _is_raster(path):
        return RasterMask(path)
    return SpooledMask(path, folder)


def is_georeferenced(path: StrPath) -> bool:
    """Whether a file is a raster with a place on the earth, or a nodata value."""
    if not Path(path).is_file() or not has_rasterio() or not _is_raster(path):
        return False
    grid = RasterImage(path).grid
    return grid.is_placed or grid.nodata is not None


def _is_raster(path: StrPath) -> bool:
    """TIFF that GDAL reads as libvips does: upright, no palette, no transparency to expand."""
    with open_stored(path, max_pixels=None) as stored:
        plain = stored.orientation == 1 and not stored.is_palette
        if stored.format != "TIFF" or not plain:
            return False
    return has_rasterio()


class SlideImage:
    """A whole slide in a vendor's format as an ImageSource, by openslide (the ``wsi`` extra).

    Args:
        path: of the slide.

    Raises:
        InputError: openslide is missing, or cannot read the file.
    """

    def __init__(self, path: StrPath) -> None:
        needs_extra("openslide", "wsi", path)
        import openslide  # noqa: PLC0415

        self._error = openslide.OpenSlideError
        self._path = path
        try:
            self._slide = openslide.OpenSlide(str(path))
        except (OSError, self._error) as error:
            raise InputError(f"{path}: cannot be read as a whole slide: {error}") from None
        width, height = self._slide.dimensions
        self.size = Size(height, width)
        self.dtype = np.dtype(np.uint8)
        self.block = Size(512, 512)

    def read(self, box: Box) -> Image:
        """See ImageSource; what the scanner left out is white."""
        try:
            window = self._slide.read_region((box.x0, box.y0), 0, (box.width, box.height))
        except self._error as error:
            raise InputError(f"{self._path}: cannot be read: {error}") from None
        pixels = np.asarray(window)
        alpha = pixels[:, :, 3:].astype(np.uint16)
        white = (pixels[:, :, :3] * alpha + 255 * (255 - alpha)) // 255
        return white.astype(np.uint8)

    def valid(self, box: Box) -> None:
        """See ImageSource: all of it."""
