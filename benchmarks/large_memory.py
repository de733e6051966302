"""Peak memory of refining a file, at several sizes: does it follow the image?

    .venv/bin/python benchmarks/large_memory.py --megapixels 16 64 256

Each size is a process of its own, on a GeoTIFF that is made by windows (grain, three discs of the
same size in each, so that the network has the same to do), with a mask of a quarter of the
resolution. Prints the peak resident memory of each process, its ratio to the first size's, the
network runs, and the IoU with the exact truth before and after. Needs the geo extra.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from crispseg.data.synthetic import Disc, SyntheticScene
from crispseg.io.raster import bands_of
from crispseg.types import Box, Size


def scene_of(megapixels: float, radius: float) -> SyntheticScene:
    side = round((megapixels * 1e6) ** 0.5 / 8) * 8
    places = ((0.3, 0.3), (0.35, 0.7), (0.7, 0.5))
    discs = tuple(Disc(side * y, side * x, radius) for y, x in places)
    return SyntheticScene(Size(side, side), discs)


def write(path: Path, size: Size, window, channels: int) -> None:
    import rasterio
    from rasterio.windows import Window

    profile = {"driver": "GTiff", "dtype": "uint8", "tiled": True, "compress": "deflate"}
    profile |= {"blockxsize": 512, "blockysize": 512, "bigtiff": "IF_SAFER", "zlevel": 1}
    shape = {"height": size.height, "width": size.width, "count": channels}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 41e5)}
    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(path, "w", **profile, **shape, **place) as f:
        for box in bands_of(size, 512 * size.width):
            for x in range(0, size.width, 4096):
                part = Box(box.y0, x, box.y1, min(x + 4096, size.width))
                at = Window(part.x0, part.y0, part.width, part.height)
                values = window(part)
                f.write(np.moveaxis(values, -1, 0) if channels == 3 else values[None], window=at)


def make(folder: Path, megapixels: float, radius: float) -> None:
    scene = scene_of(megapixels, radius)
    write(folder / "image.tif", scene.size, scene.image, 3)
    quarter = Size(scene.size.height // 4, scene.size.width // 4)
    small = SyntheticScene(
        quarter, tuple(Disc(d.y / 4, d.x / 4, d.radius / 4) for d in scene.discs), offset_px=3
    )
    write(folder / "mask.tif", quarter, lambda box: small.rough(box).astype(np.uint8) * 255, 1)


def refine(folder: Path, memory: str, tile_size: int) -> None:
    import crispseg

    refiner = crispseg.load_refiner(tile_size=tile_size, device="cpu")
    paths = (folder / name for name in ("image.tif", "mask.tif", "out.tif"))
    summary = crispseg.refine_file(*paths, refiner=refiner, memory=memory, binary=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": round(peak), "network_runs": summary.network_runs}))


def score(folder: Path, megapixels: float, radius: float) -> tuple[float, float]:
    """IoU with the truth, of the rough and of the refined mask."""
    import rasterio
    from rasterio.windows import Window

    scene = scene_of(megapixels, radius)
    counts = np.zeros((2, 2), np.int64)
    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(folder / "out.tif") as file:
        for box in bands_of(scene.size, 1 << 22):
            truth = scene.truth(box)
            at = Window(box.x0, box.y0, box.width, box.height)
            for i, mask in enumerate((scene.rough(box), file.read(1, window=at) > 0)):
                counts[i] += (truth & mask).sum(), (truth | mask).sum()
    before, after = counts[:, 0] / counts[:, 1]
    return float(before), float(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[16, 64, 256])
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--tile-size", type=int, default=900)
    parser.add_argument("--radius", type=float, default=250)
    parser.add_argument("--refine", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.refine:
        refine(options.refine, options.memory, options.tile_size)
        return
    rows = []
    for megapixels in options.megapixels:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make(folder, megapixels, options.radius)
            command = [sys.executable, __file__, "--refine", name, "--memory", options.memory]
            command += ["--tile-size", str(options.tile_size)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = {"megapixels": megapixels, **json.loads(done.stdout.splitlines()[-1])}
            before, after = score(folder, megapixels, options.radius)
            row |= {"iou_before": round(before, 4), "iou_after": round(after, 4)}
            row["ratio"] = round(row["peak_mib"] / (rows[0] if rows else row)["peak_mib"], 3)
            rows.append(row)
            print(json.dumps(row), flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
