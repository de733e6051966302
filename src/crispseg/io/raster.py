"""GeoTIFF, COG and BigTIFF by windows, with their grid; by rasterio (GDAL), the ``geo`` extra.

rasterio reads and writes windows fastest of the libraries that were measured, and keeps coordinate
system, transform and nodata. GDAL's block cache is a twentieth of the machine's memory unless it
is told otherwise: here it is ``Cache.bytes``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath
from crispseg.io.image import to_rgb
from crispseg.io.mask import colour_values
from crispseg.io.windows import Flags, RangedMask, Ranges, needs_extra, windows_of
from crispseg.types import Box, Image, InputError, Mask, Size, mask_scale, scaled_mask

BLOCK = 512
SCAN_PX = 1 << 21
SMALLEST_OVERVIEW = 256


class Cache:
    """GDAL's block cache: one for the whole process."""

    bytes = 64 << 20


@dataclass(frozen=True)
class GeoGrid:
    """Where a raster lies on the earth, and which value says that it does not.

    Attributes:
        crs: coordinate reference system as WKT; None: unknown.
        transform: a, b, c, d, e, f with x = a * column + b * row + c, y = d * column + e * row + f
            of a pixel's upper left corner.
        nodata: value of pixels that are none; None: there is no such value.
    """

    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    nodata: float | None

    @property
    def is_placed(self) -> bool:
        """Whether it says more than rows and columns."""
        return self.crs is not None or self.transform != (1, 0, 0, 0, 1, 0)


def has_rasterio() -> bool:
    """Whether the ``geo`` extra is installed."""
    return find_spec("rasterio") is not None


class _Dataset:
    """An open raster; closed with the object."""

    def __init__(self, path: StrPath) -> None:
        needs_extra("rasterio", "geo", path)
        import rasterio  # noqa: PLC0415

        self.path = path
        with _reading(path), _environment(threads="ALL_CPUS"):
            self._file = rasterio.open(path)  # decodes on so many from now on
        self.size = Size(self._file.height, self._file.width)
        self.count: int = self._file.count
        height, width = self._file.block_shapes[0]
        self.block = Size(min(height, self.size.height), min(width, self.size.width))
        self._dtype = np.result_type(*self._file.dtypes)

    def bands(self, box: Box) -> NDArray[Any]:
        """(h, w, C), or (h, w) of a single band."""
        pixels = np.empty((*box.size, self.count), self._dtype)
        with _reading(self.path), _environment():  # GDAL interleaves faster than NumPy
            self._file.read(window=_window(box), out=np.moveaxis(pixels, -1, 0))
        return pixels[:, :, 0] if self.count == 1 else pixels

    def flags(self, box: Box) -> Flags | None:
        """False where nodata or a mask says that there is no pixel; None: nothing says so."""
        from rasterio.enums import MaskFlags  # noqa: PLC0415

        if all(flags == [MaskFlags.all_valid] for flags in self._file.mask_flag_enums):
            return None
        with _reading(self.path), _environment():
            return np.asarray(self._file.dataset_mask(window=_window(box)) > 0)

    @property
    def grid(self) -> GeoGrid:
        """Where it lies."""
        crs = self._file.crs
        return GeoGrid(
            crs.to_wkt() if crs else None, tuple(self._file.transform)[:6], self._file.nodata
        )


class RasterImage:
    """A raster as an ImageSource: grey or RGB, uint8, uint16 or floats in [0, 1].

    Args:
        path: of the file.

    Raises:
        InputError: rasterio is missing, the file cannot be read, other bands or dtypes.
    """

    def __init__(self, path: StrPath) -> None:
        self._dataset = _Dataset(path)
        self.size = self._dataset.size
        self.block = self._dataset.block
        self.grid = self._dataset.grid
        self._path = path
        if self._dataset.count > 4:
            raise InputError(
                f"{path}: has {self._dataset.count} channels; choose three of them first, as in "
                "gdal_translate -b 1 -b 2 -b 3"
            )
        sample = self.read(Box(0, 0, 1, 1))
        self.dtype = sample.dtype
        if self.dtype not in (np.uint8, np.uint16):
            raise InputError(f"{path}: holds {self.dtype}; convert it to 8 or 16 bits first")

    def read(self, box: Box) -> Image:
        """See ImageSource."""
        return np.ascontiguousarray(to_rgb(self._dataset.bands(box), self._path))

    def valid(self, box: Box) -> Flags | None:
        """See ImageSource."""
        return self._dataset.flags(box)


class RasterMask(RangedMask):
    """A raster as a MaskSource; nodata counts as outside the object.

    Args:
        path: of the file.

    Raises:
        InputError: rasterio is missing, the file cannot be read, values that are no mask's.
    """

    def __init__(self, path: StrPath) -> None:
        self._dataset = _Dataset(path)
        self.size = self._dataset.size
        self.block = self._dataset.block
        self.grid = self._dataset.grid
        self._path = path
        self._ranges = Ranges(self.size)
        for box in windows_of(Box(0, 0, *self.size), self.block, SCAN_PX):
            self._ranges.add(box, self._values(box))
        kind = self._values(Box(0, 0, 1, 1)).dtype
        try:
            self._scale = mask_scale(kind, *self._ranges.span)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def read(self, box: Box) -> Mask:
        """See MaskSource."""
        return scaled_mask(self._values(box), self._scale)

    def _values(self, box: Box) -> NDArray[Any]:
        values = colour_values(self._dataset.bands(box), self._path)
        flags = self._dataset.flags(box)
        if flags is None:
            return values
        return np.where(flags, values, values.dtype.type(0))


def bands_of(size: Size, pixels: int) -> Iterator[Box]:
    """Whole rows from top to bottom, as many at once as have at most ``pixels``."""
    rows = max(pixels // size.width, 1)
    for y0 in range(0, size.height, rows):
        yield Box(y0, 0, min(y0 + rows, size.height), size.width)


class RasterSink:
    """A tiled, compressed GeoTIFF with overviews, written by windows.

    Args:
        path: a file that may be overwritten.
        size: of the mask.
        kind: "u1", "u2" or "f4".
        grid: where it lies; None: nowhere.
        labels: values are numbers of classes, which overviews must not average.
    """

    def __init__(
        self, path: Path, size: Size, kind: str, grid: GeoGrid | None, *, labels: bool = False
    ) -> None:
        needs_extra("rasterio", "geo", path)
        import rasterio  # noqa: PLC0415

        self._path = path
        self._size = size
        self._labels = labels
        self._written: list[tuple[Box, int]] = []
        self._empty = grid.nodata if grid is not None and grid.nodata is not None else 0
        options: dict[str, Any] = {}
        if grid is not None:
            options |= {"transform": rasterio.Affine(*grid.transform), "nodata": grid.nodata}
            options |= {"crs": rasterio.CRS.from_wkt(grid.crs)} if grid.crs else {}
        with _environment():
            self._file = rasterio.open(
                *(path, "w"),
                driver="GTiff",
                height=size.height,
                width=size.width,
                count=1,
                dtype=np.dtype(kind).name,
                tiled=True,
                blockxsize=BLOCK,
                blockysize=BLOCK,
                compress="deflate",
                bigtiff="IF_SAFER",
                sparse_ok=True,
                **options,
            )

    def write(self, box: Box, values: NDArray[Any]) -> None:
        """Write (box.height, box.width) values."""
        with _writing(self._path), _environment():
            self._file.write(values, 1, window=_window(box))
        self._written.append((box, zlib.crc32(np.ascontiguousarray(values).data)))

    takes_blocks = True

    def fill(self, box: Box, value: np.generic) -> None:
        """Write one value; blocks that are not in the file are read as nodata, or 0."""
        if value != self._empty:
            self.write(box, np.full(box.size, value))

    def finish(self) -> None:
        """Make the overviews and close; read back what was written.

        GDAL does not always say that a disk is full when it closes a file.

        Raises:
            InputError: the file does not hold what was written.
        """
        import rasterio  # noqa: PLC0415
        from rasterio.enums import Resampling  # noqa: PLC0415
        from rasterio.errors import RasterioIOError  # noqa: PLC0415

        with _writing(self._path), _environment():
            self._file.close()
            factors = overview_factors(self._size)
            if factors:
                sparse = rasterio.Env(SPARSE_OK_OVERVIEW=True)
                with sparse, rasterio.open(self._path, "r+") as file:
                    way = Resampling.nearest if self._labels else Resampling.average
                    file.build_overviews(factors, way)
            with rasterio.open(self._path) as file:
                for box, checksum in self._written:
                    if zlib.crc32(file.read(1, window=_window(box)).data) != checksum:
                        raise RasterioIOError("it does not hold what was written")

    def abandon(self) -> None:
        """Close without finishing."""
        with _environment():
            self._file.close()


def without_nodata(values: NDArray[Any], valid: Flags | None, nodata: int | None) -> NDArray[Any]:
    """Values with ``nodata`` where there is no image and, unless it is 0, nowhere else."""
    if nodata is None:
        return values
    if nodata:
        values = np.where(values == nodata, values.dtype.type(nodata - 1), values)
    return values if valid is None else np.where(valid, values, values.dtype.type(nodata))


def overview_factors(size: Size) -> list[int]:
    """2, 4, 8, ... while the overview is larger than one small tile."""
    factors = []
    factor = 2
    while max(size) // factor >= SMALLEST_OVERVIEW:
        factors.append(factor)
        factor *= 2
    return factors


def _window(box: Box) -> Any:
    from rasterio.windows import Window  # noqa: PLC0415

    return Window(box.x0, box.y0, box.width, box.height)


@contextmanager
def _environment(*, threads: str = "1") -> Iterator[None]:
    """GDAL's options; with more threads the order of written blocks would be left to chance."""
    import warnings  # noqa: PLC0415

    import rasterio  # noqa: PLC0415
    from rasterio.errors import NotGeoreferencedWarning  # noqa: PLC0415

    options = {"GDAL_CACHEMAX": Cache.bytes, "GDAL_NUM_THREADS": threads}
    with rasterio.Env(**options), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def _reading(path: StrPath) -> Iterator[None]:
    from rasterio.errors import RasterioError  # noqa: PLC0415

    try:
        yield
    except (RasterioError, OSError) as error:
        cause = error.__cause__ or error
        raise InputError(f"{path}: cannot be read: {cause}") from None


@contextmanager
def _writing(path: StrPath) -> Iterator[None]:
    from rasterio.errors import RasterioError  # noqa: PLC0415

    try:
        yield
    except RasterioError as error:
        cause = error.__cause__ or error
        raise InputError(f"{path}: cannot be written ({cause}); is the disk full?") from None
