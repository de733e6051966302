"""Peak memory and time of refining a file, at several sizes: do they follow the image?

    .venv/bin/python benchmarks/large_memory.py --megapixels 16 64 256 1074 4295 --memory 1G
    .venv/bin/python benchmarks/large_memory.py --megapixels 64 256 --dense
    .venv/bin/python benchmarks/large_memory.py --megapixels 16 64 --published 600

Each size is a process of its own, on a GeoTIFF that is made by windows, with a mask of a quarter of
the resolution. The scene holds three discs at every size, so that the network has the same to do,
or, with --dense, three in every 64 megapixels. Prints, for each size, the peak resident memory of
the process and its ratio to the first size's; processor seconds, and the same for each megapixel
within 16 px of a true edge; the network runs; and the IoU with the exact truth before and after.
With --folder the files stay, what is measured is not measured again, and a run that was stopped
goes on where it was (its time then counts from there). Needs the geo extra.

With --published it is PyPI's segmentation-refinement 0.6 that refines the same scene, whole, with a
mask of its size and random weights (``published_speed.py`` says which). It would take hours, so it
is stopped after so many seconds: the peak is that until then, at least.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from crispseg.data.synthetic import Disc, SyntheticScene
from crispseg.io.windows import windows_of
from crispseg.runtime.memory import peak_mib
from crispseg.types import Box, Size

BLOCK, WINDOW, CELL = 512, 4096, 8
ROUGH_PX = 12
COLOURS = ((190, 150, 90), (50, 80, 110))


def scene_of(megapixels: float, radius: float, dense: bool) -> SyntheticScene:
    side = round((megapixels * 1e6) ** 0.5 / BLOCK) * BLOCK
    places = [(0.3, 0.3), (0.35, 0.7), (0.7, 0.5)]
    if dense:  # the same three again, in fields of 64 megapixels
        fields = max(round((megapixels / 64) ** 0.5), 1)
        corners = [(i, j) for i in range(fields) for j in range(fields)]
        places = [((i + y) / fields, (j + x) / fields) for i, j in corners for y, x in places]
    discs = tuple(Disc(side * y, side * x, radius) for y, x in places)
    return SyntheticScene(Size(side, side), discs, offset_px=ROUGH_PX)


class Picture:
    """The scene with a grain that repeats, so that it is made and compressed quickly."""

    def __init__(self, scene: SyntheticScene) -> None:
        self.scene = scene
        cells = np.random.default_rng(0).integers(0, 32, (WINDOW // CELL,) * 2, dtype=np.uint8)
        self.grain = cells.repeat(CELL, 0).repeat(CELL, 1)[..., None]
        self.ground = self.grain + np.array(COLOURS[1], np.uint8)

    def read(self, box: Box) -> np.ndarray:
        """(box.height, box.width, 3) of a box that starts at a multiple of WINDOW."""
        ground = self.ground[: box.height, : box.width]
        truth = self.scene.truth(box)
        if not truth.any():
            return ground
        disc = self.grain[: box.height, : box.width] + np.array(COLOURS[0], np.uint8)
        return np.where(truth[..., None], disc, ground)


def write(path: Path, size: Size, window, channels: int) -> None:
    import rasterio
    from rasterio.windows import Window

    profile = {"driver": "GTiff", "dtype": "uint8", "tiled": True, "compress": "deflate"}
    profile |= {"blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "IF_SAFER", "zlevel": 1}
    shape = {"height": size.height, "width": size.width, "count": channels}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 41e5)}
    part = path.with_suffix(".part")
    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(part, "w", **profile, **shape, **place) as f:
        for box in windows_of(Box(0, 0, *size), Size(WINDOW, WINDOW), WINDOW**2):
            at = Window(box.x0, box.y0, box.width, box.height)
            values = window(box)
            f.write(np.moveaxis(values, -1, 0) if channels == 3 else values[None], window=at)
    part.rename(path)


def make(folder: Path, scene: SyntheticScene) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "image.tif").exists():
        write(folder / "image.tif", scene.size, Picture(scene).read, 3)
    if not (folder / "mask.tif").exists():
        quarter = Size(scene.size.height // 4, scene.size.width // 4)
        discs = tuple(Disc(d.y / 4, d.x / 4, d.radius / 4) for d in scene.discs)
        small = SyntheticScene(quarter, discs, offset_px=ROUGH_PX / 4)
        write(folder / "mask.tif", quarter, lambda box: small.rough(box).astype(np.uint8) * 255, 1)


def refine(folder: Path, memory: str, tile_size: int) -> None:
    import crispseg

    refiner = crispseg.load_refiner(tile_size=tile_size, device="cpu")
    paths = (folder / name for name in ("image.tif", "mask.tif", "out.tif"))
    started = time.process_time(), time.monotonic()
    summary = crispseg.refine_file(*paths, refiner=refiner, memory=memory, binary=True)
    figures = {
        "peak_mib": round(peak_mib()),
        "cpu_s": round(time.process_time() - started[0], 1),
        "wall_s": round(time.monotonic() - started[1], 1),
        "network_runs": summary.network_runs,
    }
    (folder / "figures.json").write_text(json.dumps(figures))


def refine_published(folder: Path) -> None:
    """In this process, whose end nobody waits for."""
    import rasterio
    from published_speed import package_refiner

    refiner = package_refiner(folder)
    with rasterio.Env(GDAL_CACHEMAX=64):
        with rasterio.open(folder / "image.tif") as file:
            image = np.ascontiguousarray(np.moveaxis(file.read(), 0, -1))
        with rasterio.open(folder / "mask.tif") as file:
            mask = file.read(1, out_shape=image.shape[:2])
    (folder / "loaded").write_text(str(round(peak_mib())))
    started = time.process_time()
    refiner.refine(image, mask)
    (folder / "done").write_text(str(round(time.process_time() - started)))


def measured_published(folder: Path, scene: SyntheticScene, limit_s: float) -> dict:
    from published_speed import random_network, write_for_package

    make(folder, scene)
    for name in ("loaded", "done"):
        (folder / name).unlink(missing_ok=True)
    write_for_package(random_network(), folder)
    command = [sys.executable, "-W", "ignore", __file__, "--refine-published", str(folder)]
    process = subprocess.Popen(command)
    status, peak, ends = Path(f"/proc/{process.pid}/status"), 0, time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < ends:
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        peak = int(found[1]) / 1024 if found else peak
        time.sleep(0.5)
    process.kill()
    process.wait()
    row = {"peak_mib": round(peak), "loaded_mib": int((folder / "loaded").read_text())}
    return row | {"finished": (folder / "done").exists(), "limit_s": limit_s}


def score(folder: Path, scene: SyntheticScene) -> tuple[float, float]:
    """IoU with the truth, of the rough and of the refined mask."""
    import rasterio
    from rasterio.windows import Window

    counts = np.zeros((2, 2), np.int64)
    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(folder / "out.tif") as file:
        for box in windows_of(Box(0, 0, *scene.size), Size(WINDOW, WINDOW), WINDOW**2):
            truth = scene.truth(box)
            at = Window(box.x0, box.y0, box.width, box.height)
            for i, mask in enumerate((scene.rough(box), file.read(1, window=at) > 0)):
                counts[i] += (truth & mask).sum(), (truth | mask).sum()
    before, after = counts[:, 0] / counts[:, 1]
    return float(before), float(after)


def measured(folder: Path, scene: SyntheticScene, options: argparse.Namespace) -> dict:
    make(folder, scene)
    if not (folder / "figures.json").exists():
        command = [sys.executable, __file__, "--refine", str(folder), "--memory", options.memory]
        command += ["--tile-size", str(options.tile_size)]
        subprocess.run(command, check=True)
    row = json.loads((folder / "figures.json").read_text())
    boundary = sum(2 * np.pi * d.radius for d in scene.discs) * 32 / 1e6
    before, after = score(folder, scene)
    row |= {"cpu_s_per_boundary_mpx": round(row["cpu_s"] / boundary, 1)}
    return row | {"iou_before": round(before, 4), "iou_after": round(after, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[16, 64, 256])
    parser.add_argument("--memory", default="1G")
    parser.add_argument("--tile-size", type=int, default=900)
    parser.add_argument("--radius", type=float, default=250)
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--published", type=float, metavar="SECONDS")
    parser.add_argument("--refine", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--refine-published", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.refine_published:
        refine_published(options.refine_published)
        return
    if options.refine:
        refine(options.refine, options.memory, options.tile_size)
        return
    first = 0
    for megapixels in options.megapixels:
        scene = scene_of(megapixels, options.radius, options.dense)
        with tempfile.TemporaryDirectory() as temporary:
            name = f"{megapixels:g}{'-dense' if options.dense else ''}"
            folder = (options.folder or Path(temporary)) / name
            row = {"megapixels": megapixels, "side": scene.size.width}
            if options.published:
                row |= measured_published(folder, scene, options.published)
            else:
                row |= measured(folder, scene, options)
            first = first or row["peak_mib"]
            row["ratio"] = round(row["peak_mib"] / first, 3)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
