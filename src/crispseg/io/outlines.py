"""Polygons in and out: regions of interest, and the outlines of a mask of any size as GeoJSON.

By rasterio and shapely, the ``geo`` extra. Coordinates are those of the image's coordinate system;
without one, pixels: x to the right, y down, 0, 0 the upper left corner.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crispseg.io.atomic import StrPath, atomic_path
from crispseg.io.raster import GeoGrid
from crispseg.io.windows import Flags, needs_extra
from crispseg.types import Box, InputError, Size

WGS84 = "OGC:CRS84"


class Region:
    """Polygons of a GeoJSON file, as a mask that is read in windows.

    A pixel is inside if its centre is. Coordinates are longitude and latitude (RFC 7946), or those
    of the file's ``crs`` member; for an image without coordinate system, pixels.

    Args:
        path: of the file.
        size: of the image.
        grid: where the image lies.

    Raises:
        InputError: no such file, no polygons in it, or none that meets the image.
    """

    def __init__(self, path: StrPath, size: Size, grid: GeoGrid | None) -> None:
        needs_extra("rasterio", "geo", path)
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            shapes = [shape for shape in _geometries(content) if "Polygon" in shape["type"]]
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path}: is no GeoJSON file") from None
        if not shapes:
            raise InputError(f"{path}: holds no polygon")
        self._shapes = shapes
        self._transform: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
        if grid and grid.crs:
            from rasterio.warp import transform_geom  # noqa: PLC0415

            own = content.get("crs", {}).get("properties", {}).get("name", WGS84)
            self._shapes = [transform_geom(own, grid.crs, shape) for shape in shapes]
        if grid:
            self._transform = grid.transform
        self._bounds = self._rows_and_columns().clip(size)
        if min(self._bounds.size) < 1:
            raise InputError(f"{path}: its polygons lie outside the image")

    def read(self, box: Box) -> Flags:
        """(box.height, box.width) True inside."""
        from rasterio import Affine  # noqa: PLC0415
        from rasterio.features import geometry_mask  # noqa: PLC0415

        inside = np.zeros(box.size, np.bool_)
        apart = box.y0 >= self._bounds.y1 or box.y1 <= self._bounds.y0
        if apart or box.x0 >= self._bounds.x1 or box.x1 <= self._bounds.x0:
            return inside
        corner = Affine(*self._transform) @ Affine.translation(box.x0, box.y0)
        return np.asarray(geometry_mask(self._shapes, box.size, corner, invert=True))

    def _rows_and_columns(self) -> Box:
        from rasterio import Affine  # noqa: PLC0415
        from rasterio.features import bounds  # noqa: PLC0415

        back = ~Affine(*self._transform)
        corners = []
        for shape in self._shapes:
            left, bottom, right, top = bounds(shape)
            corners += [back @ (x, y) for x in (left, right) for y in (bottom, top)]
        x, y = np.array(corners).T
        low, high = (np.floor([y.min(), x.min()]), np.ceil([y.max(), x.max()]))
        return Box(int(low[0]), int(low[1]), int(high[0]), int(high[1]))


class Outlines:
    """Collects the outlines of a mask's objects from strips, with no cut between strips.

    Args:
        size: of the mask.
    """

    def __init__(self, size: Size) -> None:
        needs_extra("rasterio", "geo", "outlines")
        needs_extra("shapely", "geo", "outlines")
        self._size = size
        self._whole: list[Any] = []
        self._cut: list[Any] = []

    def feed(self, y0: int, refined: Flags) -> None:
        """Take the rows from ``y0``."""
        from rasterio import Affine  # noqa: PLC0415
        from rasterio.features import shapes  # noqa: PLC0415
        from shapely.geometry import shape  # noqa: PLC0415

        if not refined.any():
            return
        y1 = y0 + len(refined)
        at = Affine.translation(0, y0)
        for outline, _ in shapes(refined.astype(np.uint8), refined, 4, at):
            polygon = shape(outline)
            _, low, _, high = polygon.bounds
            is_cut = (low == y0 and y0 > 0) or (high == y1 and y1 < self._size.height)
            (self._cut if is_cut else self._whole).append(polygon)

    def polygons(self, tolerance_px: float) -> list[Any]:
        """Polygons in pixels; no corner of the mask is further than ``tolerance_px`` from them."""
        import shapely  # noqa: PLC0415

        joined = shapely.union_all(self._cut) if self._cut else shapely.MultiPolygon()
        parts = getattr(joined, "geoms", [joined])
        simple = [_simplified(part, tolerance_px) for part in (*self._whole, *parts)]
        return sorted((p for p in simple if not p.is_empty), key=lambda p: (p.bounds[1], p.bounds))

    def write(self, path: StrPath, grid: GeoGrid | None, tolerance_px: float) -> None:
        """Write them as GeoJSON in the image's coordinate system, which ``crs`` names.

        Raises:
            InputError: the file cannot be written.
        """
        from shapely.affinity import affine_transform  # noqa: PLC0415
        from shapely.geometry import mapping  # noqa: PLC0415

        a, b, c, d, e, f = grid.transform if grid else (1, 0, 0, 0, 1, 0)
        features = [
            {
                "type": "Feature",
                "properties": {"area_px": round(polygon.area, 2)},
                "geometry": mapping(affine_transform(polygon, [a, b, d, e, c, f])),
            }
            for polygon in self.polygons(tolerance_px)
        ]
        content: dict[str, Any] = {"type": "FeatureCollection", "features": features}
        if grid and grid.crs:
            content["crs"] = {"type": "name", "properties": {"name": _name_of(grid.crs)}}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")


def _simplified(polygon: Any, tolerance_px: float) -> Any:
    import shapely  # noqa: PLC0415

    # 0 takes away only the points on straight lines, which the cuts have left
    exact = polygon.simplify(0)
    corners = shapely.points(shapely.get_coordinates(exact))
    # where a ring begins, GEOS may overstep the tolerance: then a smaller one does
    for share in (1, 0.5, 0.25):
        simple = exact.simplify(share * tolerance_px)
        outline = simple.boundary
        shapely.prepare(outline)
        if shapely.dwithin(corners, outline, tolerance_px).all():
            return simple
    return exact


def _name_of(crs: str) -> str:
    from rasterio.crs import CRS  # noqa: PLC0415

    authority = CRS.from_wkt(crs).to_authority()
    return f"urn:ogc:def:crs:{authority[0]}::{authority[1]}" if authority else crs


def _geometries(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    if content["type"] == "FeatureCollection":
        return [g for feature in content["features"] for g in _geometries(feature)]
    if content["type"] == "Feature":
        return _geometries(content["geometry"]) if content["geometry"] else []
    if content["type"] == "GeometryCollection":
        return [g for part in content["geometries"] for g in _geometries(part)]
    return [dict(content)]
