"""Label maps of many objects: one pass with CascadePSP's divide and conquer, 480x360.

    .venv/bin/python benchmarks/scene_objects.py [--objects 10 30 60] [--rounds 3]

Objects are the cells around random points, coloured with noise, and the given map has their borders
off by some pixels; all are large enough for divide and conquer to cut them out. Such objects are
the hardest case for one pass: every mask has borders everywhere, and no box of divide and conquer
is much larger than its object. Both ways take turns in one process; one thread, processor time.
Prints medians and ratios for each number of objects, the last line as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from numpy.typing import NDArray

from crispseg.pipeline import load_refiner
from crispseg.refiners.scene import Way, refine_scene, scene_objects
from crispseg.types import Image

HEIGHT, WIDTH = 360, 480
WAYS: tuple[Way, ...] = ("one-pass", "divide-and-conquer")


def scene(count: int) -> tuple[Image, NDArray[np.uint8], NDArray[np.uint8]]:
    """Image, given label map and true one, with ``count`` objects."""
    rng = np.random.default_rng(count)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    across = round((count * WIDTH / HEIGHT) ** 0.5)
    down = -(-count // across)
    cells = [(i // across + 0.5, i % across + 0.5) for i in range(count)]
    points = (np.array(cells) + rng.uniform(-0.2, 0.2, (count, 2))) * (
        HEIGHT / down,
        WIDTH / across,
    )

    def nearest(dy: NDArray[np.float32], dx: NDArray[np.float32]) -> NDArray[np.uint8]:
        squares = [(y + dy - a) ** 2 + (x + dx - b) ** 2 for a, b in points]
        return np.argmin(squares, axis=0).astype(np.uint8)

    truth = nearest(3 * np.sin(x / 9), 3 * np.sin(y / 11))
    given = nearest(3 * np.sin(x / 9) + 4 * np.sin(y / 31), 3 * np.sin(y / 11) + 3)
    colours = rng.integers(40, 215, (count, 3))
    image = np.clip(colours[truth] + rng.normal(0, 12, (*truth.shape, 3)), 0, 255)
    return image.astype(np.uint8), given, truth


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, nargs="+", default=[10, 30, 60])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="cascadepsp-lite")
    options = parser.parse_args()
    torch.set_num_threads(1)
    refiner = load_refiner(options.model, device="cpu")
    for count in options.objects:
        image, given, truth = scene(count)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        right = {"given": float((given == truth).mean())}
        for number in range(options.rounds + 1):  # the first one warms up
            for way in WAYS:
                begun = time.process_time()
                found = refine_scene(
                    refiner.network, image, given, way=way, tile_size=refiner.tile_size
                )
                if number:
                    seconds[way].append(time.process_time() - begun)
                right[way] = float((found.labels == truth).mean())
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        line = {
            "objects": len(scene_objects(given, 255)),
            "seconds": {way: round(value, 2) for way, value in medians.items()},
            "ratio": round(medians[WAYS[0]] / medians[WAYS[1]], 3),
            "right_pixels": {way: round(value, 4) for way, value in right.items()},
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
