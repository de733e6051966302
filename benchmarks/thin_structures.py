"""Thin structures in large images: is every edge visited, and does time follow the edges?

    .venv/bin/python benchmarks/thin_structures.py
    .venv/bin/python benchmarks/thin_structures.py --scenes 0 --profile
    .venv/bin/python benchmarks/thin_structures.py --network

Five scenes in which the published rule skips edges, on 4096x3072 and on 16384x12288 pixels: a disc,
two poles, a disc with spokes, a large mask with cracks, as thick on both. Each is written to a
tiled GeoTIFF, image and mask, both of full size, and refined from file to file by
``crispseg.refine_file``; only that is timed. For each it prints how many boundary pixels lie
outside every full-resolution tile that was run (0 is wanted), the IoU of the given mask and of the
result with the truth within 8 px of its edges, the tiles run of those planned, and
processor seconds without those of the network: in all, for each thousand boundary pixels, and of
reading the mask, of decoding the image and of writing the output. The network returns what it is
given; with --network it is the bundled one, and its time counts too. With --profile, what takes
the time, by function. Needs the geo extra.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from large_memory import WINDOW, write
from torch import nn

import crispseg
from crispseg.io.raster import RasterImage, RasterMask, RasterSink
from crispseg.io.windows import windows_of
from crispseg.models.cascadepsp import CascadeLogits, RefinementModule
from crispseg.models.weights import LoadedModel
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.refiners.stream import StreamedCascade
from crispseg.types import Box, Size

SIZES = (Size(3072, 4096), Size(12288, 16384))
OFF_PX = 4
CELL, GRAIN = 8, 32
NEAR_PX = 8


def polar(y: np.ndarray, x: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    return y - size.height / 2, x - size.width / 2


def disc(y: np.ndarray, x: np.ndarray, size: Size) -> np.ndarray:
    y, x = polar(y, x, size)
    return y * y + x * x < 150**2


def pole(width: int) -> Callable[..., np.ndarray]:
    return lambda y, x, size: (abs(x - size.width / 2) < width / 2) & (y >= 0)


def spokes(y: np.ndarray, x: np.ndarray, size: Size) -> np.ndarray:
    y, x = polar(y, x, size)
    if max(abs(y).min(), abs(x).min()) > 1460:
        return np.zeros((len(y), x.shape[1]), bool)  # far from all of it
    covered = y * y + x * x < 1000**2
    for k in range(20):
        c, s = math.cos(k * math.pi / 10), math.sin(k * math.pi / 10)
        along, across = x * c + y * s, y * c - x * s
        covered |= (abs(across) < 10) & (along > 0) & (along < 1450)
    return covered


def cracks(y: np.ndarray, x: np.ndarray, size: Size) -> np.ndarray:
    covered = (y >= 200) & (x >= 0)
    for k in range(1, 6):
        covered &= ~((x >= k * size.width // 6) & (x < k * size.width // 6 + 12))
    return covered


SCENES = {
    "disc of radius 150": disc,
    "pole of 40 px": pole(40),
    "pole of 90 px": pole(90),
    "disc of radius 1000 with 20-px spokes": spokes,
    "large mask with 12-px cracks": cracks,
}


class Shapes:
    """A scene by windows: the truth, an image with a grain that repeats, and the given mask."""

    def __init__(self, shape: Callable[..., np.ndarray], size: Size) -> None:
        self.shape, self.size = shape, size
        cells = np.random.default_rng(0).integers(0, GRAIN, (WINDOW // CELL,) * 2, dtype=np.uint8)
        self.grain = cells.repeat(CELL, 0).repeat(CELL, 1)[..., None]

    def inside(self, box: Box, off: float) -> np.ndarray:
        y, x = np.ogrid[box.y0 : box.y1, box.x0 : box.x1]
        return self.shape(y + 0.5, x + 0.5 - off, self.size)

    def image(self, box: Box) -> np.ndarray:
        """Of a box that starts at a multiple of WINDOW."""
        colour = np.where(self.inside(box, 0)[..., None], np.uint8(180), np.uint8(60))
        return np.repeat(colour + self.grain[: box.height, : box.width], 3, axis=2)

    def mask(self, box: Box) -> np.ndarray:
        """The truth, ``OFF_PX`` off to the right."""
        return self.inside(box, OFF_PX).astype(np.uint8) * 255

    def write(self, folder: Path) -> None:
        write(folder / "image.tif", self.size, self.image, 3)
        write(folder / "mask.tif", self.size, self.mask, 1)


class Echo(RefinementModule):
    """Returns what it is given."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, image, seg, coarse_s8=None, coarse_s4=None) -> CascadeLogits:
        return CascadeLogits(20 * seg, None, None, None, 20 * seg, 20 * seg)


class Clock:
    """Adds up the processor seconds inside some methods."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, name: str, method: Callable) -> Callable:
        def timed(*arguments, **options):
            started = time.process_time()
            try:
                return method(*arguments, **options)
            finally:
                spent = time.process_time() - started
                self.seconds[name] = self.seconds.get(name, 0) + spent

        return timed

    @contextmanager
    def at_work(self, boxes: list[Box]) -> Iterator[None]:
        """Times reading and writing of files, and notes the tiles that are run."""
        self.seconds = {}
        count = StreamedCascade._count

        def noted(cascade: StreamedCascade, box: Box) -> None:
            count(cascade, box)
            boxes.append(box)

        timed = [(RasterImage, "read", "image"), (RasterMask, "__init__", "mask")]
        timed += [(RasterMask, "read", "mask"), (RasterSink, "write", "output")]
        timed += [(RasterSink, "finish", "output")]
        with ExitStack() as patches:
            patches.enter_context(patch.object(StreamedCascade, "_count", noted))
            for owner, method, name in timed:
                wrapped = self.wrap(name, getattr(owner, method))
                patches.enter_context(patch.object(owner, method, wrapped))
            yield


def boundary_outside(scene: Shapes, boxes: list[Box]) -> tuple[int, int]:
    """Boundary pixels of the given mask (4 neighbours), and those in none of the boxes."""
    total = missed = 0
    for box in windows_of(Box(0, 0, *scene.size), Size(1024, 1024), 1 << 20):
        around = box.grow(1).clip(scene.size)
        inside = scene.inside(around, OFF_PX)
        edge = np.zeros(inside.shape, bool)
        for axis in (0, 1):
            change = np.diff(inside, axis=axis)
            lead, tail = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
            lead[axis], tail[axis] = (1, 0), (0, 1)
            edge |= np.pad(change, lead) | np.pad(change, tail)
        edge = edge[box.shift(-around.y0, -around.x0).slices]
        total += int(edge.sum())
        for tile in boxes:
            part = Box(
                max(tile.y0, box.y0),
                max(tile.x0, box.x0),
                min(tile.y1, box.y1),
                min(tile.x1, box.x1),
            )
            if part.y0 < part.y1 and part.x0 < part.x1:
                edge[part.shift(-box.y0, -box.x0).slices] = False
        missed += int(edge.sum())
    return total, missed


def near_edges(scene: Shapes, output: Path) -> tuple[float, float]:
    """IoU of given mask and of output with the truth, within ``NEAR_PX`` of its edges."""
    import rasterio
    from rasterio.windows import Window

    counts = np.zeros((2, 2), np.int64)
    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(output) as file:
        for box in windows_of(Box(0, 0, *scene.size), Size(2048, 2048), 1 << 22):
            truth, near = scene.inside(box, 0), np.zeros(box.size, bool)
            for y, x in ((0, NEAR_PX), (0, -NEAR_PX), (NEAR_PX, 0), (-NEAR_PX, 0)):
                near |= scene.inside(box.shift(y, x), 0) != truth
            at = Window(box.x0, box.y0, box.width, box.height)
            for i, mask in enumerate((scene.inside(box, OFF_PX), file.read(1, window=at) > 127)):
                counts[i] += (near & truth & mask).sum(), (near & (truth | mask)).sum()
    before, after = counts[:, 0] / counts[:, 1]
    return round(float(before), 4), round(float(after), 4)


def measure(name: str, size: Size, refiner: CascadeRefiner, *, profile: bool) -> dict:
    scene, clock, boxes = Shapes(SCENES[name], size), Clock(), []
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scene.write(folder)
        paths = (folder / file for file in ("image.tif", "mask.tif", "out.tif"))
        probabilities = refiner.network.probabilities
        with clock.at_work(boxes):
            refiner.network.probabilities = clock.wrap("network", probabilities)
            started = time.process_time()
            if profile:
                profiler.enable()
            summary = crispseg.refine_file(*paths, refiner=refiner, memory="4G")
            profiler.disable()
            seconds = time.process_time() - started
        before, after = near_edges(scene, folder / "out.tif")
        refiner.network.probabilities = probabilities
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)
    boundary, missed = boundary_outside(scene, boxes[len(boxes) - summary.tiles_run :])
    spent = {key: round(value, 2) for key, value in clock.seconds.items()}
    network = spent.pop("network")
    return {
        "scene": name,
        "size": f"{size.width}x{size.height}",
        "boundary_px": boundary,
        "missed_px": missed,
        "iou_before": before,
        "iou_after": after,
        "tiles_run": summary.tiles_run,
        "tiles_planned": summary.tiles_planned,
        "network_runs": summary.network_runs,
        "network_s": network,
        "cpu_s": round(seconds - network, 2),
        "cpu_s_per_1000_px": round(1000 * (seconds - network) / boundary, 2),
        "of_it": spent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--scenes", type=int, nargs="+", default=list(range(5)))
    options = parser.parse_args()
    if options.network:
        refiner = crispseg.load_refiner(device="cpu")
    else:
        model = LoadedModel(Echo(), (0.5,) * 3, (0.5,) * 3, "echo", "echo")
        refiner = CascadeRefiner(model, device="cpu")
    missed = 0
    for number in options.scenes:
        for size in SIZES:
            row = measure(list(SCENES)[number], size, refiner, profile=options.profile)
            missed += row["missed_px"]
            print(json.dumps(row), flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
