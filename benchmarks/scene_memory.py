"""Peak memory of refining a label map of 4096x2048 with 19 classes, with that of 2048x1024.

    .venv/bin/python benchmarks/scene_memory.py

Both of one pass (``refiners/one_pass.py``, the bundled refiner) and of MagNet (tiles of 256x128,
from 256 px up, on a network of random weights with 19 classes). Each measurement is a process of
its own: the most resident memory that it has held, in MiB, with libraries, image and label map. The
map has 19 classes in 240 blots. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np
import torch
from segment_memory import CLASSES, Net

from crispseg.methods import LabelRefiner, MagnetLabels, load_label_refiner
from crispseg.models.magnet import MagnetRefinement
from crispseg.refiners.progressive import ProgressiveRefiner, Stage
from crispseg.runtime.memory import peak_mib
from crispseg.segmenters.adapters import from_module
from crispseg.segmenters.base import Inference
from crispseg.types import Size

SIZES = {"small": Size(1024, 2048), "large": Size(2048, 4096)}
METHODS = ("cascade", "magnet")
TILE = Size(128, 256)


def magnet(longest: int) -> MagnetLabels:
    """On a network that nobody trained: what it says does not matter here."""
    torch.manual_seed(0)
    whole = Inference(tile_size=None)
    network = from_module(Net(), num_classes=CLASSES, device="cpu", inference=whole)
    sides = [side for side in (512, 1024, 2048, 4096) if side <= longest]
    stages = [Stage(256), *(Stage(side, TILE) for side in sides)]
    module = MagnetRefinement(CLASSES)
    return MagnetLabels(ProgressiveRefiner(network.probabilities, module, stages), CLASSES)


def blots(size: Size) -> np.ndarray:
    """(H, W) uint8, the same shapes at every size."""
    rng = np.random.default_rng(0)
    labels = np.zeros(size, np.uint8)
    y, x = np.ogrid[: size.height, : size.width]
    for number in range(240):
        a, b = rng.random(2) * size
        radius = rng.uniform(0.02, 0.08) * size.height
        labels[(y - a) ** 2 + (x - b) ** 2 < radius**2] = number % CLASSES
    return labels


def measure(method: str, size: Size) -> float:
    """Peak of this process, in MiB."""
    torch.set_num_threads(1)
    refiner: LabelRefiner = (
        magnet(size.width) if method == "magnet" else load_label_refiner(method, device="cpu")
    )
    labels = blots(size)
    rng = np.random.default_rng(1)
    image = rng.integers(0, 64, (*size, 3), dtype=np.uint8) + 10 * labels[:, :, None]
    refiner.refine_labels(image, labels)
    return peak_mib()


def main() -> None:
    """Measure each in a process of its own and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "SIZE"), help="used by itself")
    options = parser.parse_args()
    if options.measure:
        method, name = options.measure
        print(json.dumps(measure(method, SIZES[name])))
        return
    figures: dict[str, float] = {}
    for method in options.methods:
        for name in SIZES:
            command = [sys.executable, __file__, "--measure", method, name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures[f"{method}_{name}_mib"] = json.loads(done.stdout)
        ratio = figures[f"{method}_large_mib"] / figures[f"{method}_small_mib"]
        figures[f"{method}_ratio"] = ratio
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
