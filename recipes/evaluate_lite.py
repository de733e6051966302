"""Figures of a cascadepsp-lite: composites of test objects, and frames of a held-out sequence.

    python recipes/evaluate_lite.py --data .data/lite [--model cascadepsp-lite] [--count 40]

Nothing of the test split is ever trained on (``crispseg.data.pairs.is_test``). Prints IoU and mBA
(released-code radii) before and after refinement in the default mode.

* composites: test objects over test backgrounds, 640 px, masks perturbed as in training;
* frames: the test sequence at full size, masks degraded to a sixteenth by averaging, enlarged
  bilinearly and binarised again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import crispseg
from crispseg.data.cache import PixelCache
from crispseg.data.samples import RefinerSamples
from crispseg.metrics.boundary import intersection_over_union, mean_boundary_accuracy

Case = tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]


def main() -> None:
    """Parse the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="made by prepare_lite_data.py")
    parser.add_argument("--model", default="cascadepsp-lite", help="name or weights file")
    parser.add_argument("--count", type=int, default=40, help="composites")
    options = parser.parse_args()
    refiner = crispseg.load_refiner(options.model)
    print("| test set | n | IoU before | after | mBA before | after | worst IoU change |")
    print("|---|---|---|---|---|---|---|")
    sets = {"composites": composites(options.data, options.count), "frames": frames(options.data)}
    for name, cases in sets.items():
        rows = []
        for image, coarse, truth in cases:
            refined = refiner.refine(image, coarse) > 0.5
            rows.append([f(m, truth) for f in MEASURES for m in (coarse, refined)])
        scores = 100 * np.array(rows)
        mean, worst = scores.mean(axis=0), (scores[:, 1] - scores[:, 0]).min()
        cells = " | ".join(f"{value:.2f}" for value in mean)
        print(f"| {name} | {len(rows)} | {cells} | {worst:+.2f} |", flush=True)


MEASURES = (intersection_over_union, mean_boundary_accuracy)


def composites(data: Path, count: int) -> Iterator[Case]:
    """Test objects on test backgrounds."""
    samples = RefinerSamples(data, crop_size=640, seed=1, split="test", real_fraction=0.0)
    for i in range(count):
        sample = samples[i]
        image = np.ascontiguousarray(sample.image.numpy().transpose(1, 2, 0))
        yield image, sample.coarse[0].numpy() > 0.5, sample.truth[0].numpy() > 0.5


def frames(data: Path) -> Iterator[Case]:
    """Frames of the test sequences, with masks of a sixteenth."""
    cache = PixelCache(data)
    for item in cache.select("pair", "test"):
        pixels = cache.pixels(item)
        truth = pixels[..., 3] > 127
        small = (item.width // 16, item.height // 16)
        soft = cv2.resize(truth.astype(np.float32), small, interpolation=cv2.INTER_AREA)
        coarse = cv2.resize(soft, (item.width, item.height)) > 0.5
        if coarse.any() and truth.any():
            yield np.ascontiguousarray(pixels[..., :3]), coarse, truth


if __name__ == "__main__":
    main()
