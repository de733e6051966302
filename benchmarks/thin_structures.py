"""Thin structures in large images: is every edge visited, and does time follow the edges?

    .venv/bin/python benchmarks/thin_structures.py
    .venv/bin/python benchmarks/thin_structures.py --network

Five scenes in which the published rule skips edges, on 4096x3072 and on 16384x12288 pixels: a disc,
two poles, a disc with spokes, a large mask with cracks, as thick on both. They are made window by
window and streamed; nothing is read from a file. For each it prints how many boundary pixels lie
outside every full-resolution tile that was run (0 is wanted), the tiles run of those planned, and
processor seconds without those of the network, in all and for each thousand boundary pixels. The
network returns what it is given; with --network it is the bundled one, and its time counts too.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

import crispseg
from crispseg.io.given import GivenMask
from crispseg.io.windows import Ranges, windows_of
from crispseg.models.cascadepsp import CascadeLogits, RefinementModule
from crispseg.models.weights import LoadedModel
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.refiners.stream import Scene, StreamedCascade
from crispseg.types import Box, Size

SIZES = (Size(3072, 4096), Size(12288, 16384))
BLOCK = 512


def polar(y: np.ndarray, x: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    return y - size.height / 2, x - size.width / 2


def disc(y: np.ndarray, x: np.ndarray, size: Size) -> np.ndarray:
    y, x = polar(y, x, size)
    return y * y + x * x < 150**2


def pole(width: int) -> Callable[..., np.ndarray]:
    return lambda y, x, size: (abs(x - size.width / 2) < width / 2) & (y >= 0)


def spokes(y: np.ndarray, x: np.ndarray, size: Size) -> np.ndarray:
    y, x = polar(y, x, size)
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
    """A scene as image and as mask, by windows: the mask is four pixels off to the right."""

    dtype = np.dtype(np.uint8)
    block = Size(BLOCK, BLOCK)

    def __init__(self, shape: Callable[..., np.ndarray], size: Size) -> None:
        self.shape, self.size = shape, size
        self.ranges = Ranges(size)
        for box in windows_of(Box(0, 0, *size), self.block, 1 << 21):
            self.ranges.add(box, self.at(box, 4))

    def at(self, box: Box, off: float) -> np.ndarray:
        y, x = np.ogrid[box.y0 : box.y1, box.x0 : box.x1]
        return self.shape(y + 0.5, x + 0.5 - off, self.size)


class ShapesImage(Shapes):
    def read(self, box: Box) -> np.ndarray:
        grey = np.where(self.at(box, 0), np.uint8(180), np.uint8(60))
        return np.broadcast_to(grey[..., None], (*box.size, 3))

    def valid(self, box: Box) -> None:
        """All of it."""


class ShapesMask(Shapes):
    def read(self, box: Box) -> np.ndarray:
        return self.at(box, 4).astype(np.float32)

    def constant(self, box: Box) -> float | None:
        return self.ranges.constant(box)


class Echo(RefinementModule):
    """Returns what it is given."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, image, seg, coarse_s8=None, coarse_s4=None) -> CascadeLogits:
        return CascadeLogits(20 * seg, None, None, None, 20 * seg, 20 * seg)


class Watched(StreamedCascade):
    """Remembers which tiles were run."""

    def _count(self, box: Box) -> None:
        super()._count(box)
        self.__dict__.setdefault("boxes", []).append(box)


def boundary_outside(mask: ShapesMask, boxes: list[Box]) -> tuple[int, int]:
    """Boundary pixels (4 neighbours), and those in none of the boxes."""
    total = missed = 0
    for box in windows_of(Box(0, 0, *mask.size), Size(1024, 1024), 1 << 20):
        around = box.grow(1).clip(mask.size)
        if mask.constant(around) is not None:
            continue
        inside = mask.read(around) > 0.5
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


def measure(name: str, size: Size, refiner: CascadeRefiner, network_s: list[float]) -> dict:
    started, network_s[0] = time.process_time(), 0.0
    image, mask = ShapesImage(SCENES[name], size), ShapesMask(SCENES[name], size)
    given = GivenMask(mask, image, None)
    scene = Scene(
        image, lambda box: given.read(box).astype(np.float32), given.valid, given.constant
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Watched(refiner, scene, Path(folder))
        for _ in run.run():
            pass
    seconds = time.process_time() - started - network_s[0]
    boundary, missed = boundary_outside(mask, run.__dict__["boxes"][-run.tiles_run :])
    return {
        "scene": name,
        "size": f"{size.width}x{size.height}",
        "boundary_px": boundary,
        "missed_px": missed,
        "tiles_run": run.tiles_run,
        "tiles_planned": run.tiles_planned,
        "network_runs": run.runs,
        "cpu_s": round(seconds, 1),
        "cpu_s_per_1000_px": round(1000 * seconds / boundary, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--scenes", type=int, nargs="+", default=list(range(5)))
    options = parser.parse_args()
    network_s = [0.0]
    if options.network:
        refiner = crispseg.load_refiner(device="cpu")
    else:
        model = LoadedModel(Echo(), (0.5,) * 3, (0.5,) * 3, "echo", "echo")
        refiner = CascadeRefiner(model, device="cpu")
        original = refiner.network.probabilities

        def timed(*arguments):
            started = time.process_time()
            values = original(*arguments)
            network_s[0] += time.process_time() - started
            return values

        refiner.network.probabilities = timed
    missed = 0
    for number in options.scenes:
        for size in SIZES:
            row = measure(list(SCENES)[number], size, refiner, network_s)
            missed += row["missed_px"]
            print(json.dumps(row), flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
