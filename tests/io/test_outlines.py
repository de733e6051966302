"""Outlines over strips: no cut, no pixel off; regions read in windows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import shapely
from rasterio import Affine
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from crispseg.io.outlines import Outlines, Region
from crispseg.io.raster import GeoGrid
from crispseg.tiling.pieces import components
from crispseg.types import Box, InputError, Size

SIZE = Size(60, 80)


def mask() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.random((12, 16)).repeat(5, 0).repeat(5, 1)
    return (coarse + rng.random(SIZE) * 0.1) > 0.6


@pytest.mark.parametrize("rows", [1, 7, 60])
def test_outlines_of_strips_are_those_of_the_whole(rows) -> None:
    refined = mask()
    outlines = Outlines(SIZE)
    for y0 in range(0, SIZE.height, rows):
        outlines.feed(y0, refined[y0 : y0 + rows])
    polygons = outlines.polygons(0)
    np.testing.assert_array_equal(rasterize(polygons, SIZE).astype(bool), refined)
    assert len(polygons) == len(components(refined.astype(np.uint8))[1])
    whole = Outlines(SIZE)
    whole.feed(0, refined)
    theirs = shapely.union_all(whole.polygons(0))
    assert shapely.symmetric_difference(shapely.union_all(polygons), theirs).area == 0
    for exact, simple in zip(polygons, outlines.polygons(1.0), strict=True):
        assert simple.is_valid
        corners = shapely.points(shapely.get_coordinates(exact))
        assert shapely.distance(corners, simple.boundary).max() <= 1.0


CRS = rasterio.CRS.from_epsg(32633)
GRID = GeoGrid(CRS.to_wkt(), (0.5, 0, 500000, 0, -0.5, 4100000), None)


@pytest.mark.parametrize("named", [True, False])
def test_a_region_in_the_images_coordinates_or_in_degrees(tmp_path, named) -> None:
    ring = [(20, 10), (60, 10), (60, 50), (20, 30), (20, 10)]
    placed = [Affine(*GRID.transform) @ point for point in ring]
    shape = {"type": "Polygon", "coordinates": [placed]}
    content = {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": shape}]}
    if named:
        content["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    else:
        content["features"][0]["geometry"] = transform_geom(CRS, "OGC:CRS84", shape)
    (tmp_path / "r.geojson").write_text(json.dumps(content))
    region = Region(tmp_path / "r.geojson", SIZE, GRID)
    y, x = np.mgrid[: SIZE.height, : SIZE.width] + 0.5
    expected = (x > 20) & (x < 60) & (y > 10) & (y < 30 + (x - 20) / 2)
    whole = region.read(Box(0, 0, *SIZE))
    on_the_line = np.abs(y - (30 + (x - 20) / 2)) < 1e-3
    assert (whole == expected)[~on_the_line].all()
    for box in (Box(5, 10, 40, 70), Box(31, 22, 32, 80), Box(0, 0, 5, 80)):
        np.testing.assert_array_equal(region.read(box), whole[box.slices])


def test_regions_that_are_none(tmp_path) -> None:
    path = tmp_path / "r.geojson"
    with pytest.raises(InputError, match="no such file"):
        Region(path, SIZE, None)
    path.write_text("{")
    with pytest.raises(InputError, match="no GeoJSON"):
        Region(path, SIZE, None)
    path.write_text(json.dumps({"type": "Point", "coordinates": [1, 2]}))
    with pytest.raises(InputError, match="no polygon"):
        Region(path, SIZE, None)
    ring = [[200, 10], [300, 10], [300, 20], [200, 10]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    with pytest.raises(InputError, match="outside the image"):
        Region(path, SIZE, None)
