"""mBA of one 5000x3600 mask: kernels that grow, as the published script has them, and ours.

    .venv/bin/python benchmarks/boundary_accuracy.py [--rounds 5]

The published way is written from its description: for each of the five radii OpenCV's
morphological gradient of the truth with an ellipse, then the share of right pixels in it. Truths
of few, some and many edges; the mask is the truth moved by three pixels. Both sides run on one
thread, in turn, and must give the same number to the last bit.
"""

from __future__ import annotations

import argparse
import json
import time

import cv2
import numpy as np
from numpy.typing import NDArray

from crispseg.metrics.boundary import boundary_radii, mean_boundary_accuracy

HEIGHT, WIDTH = 3600, 5000
CELLS = {"few edges": 4, "some edges": 12, "many edges": 40}


def published(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    shares = []
    for radius in boundary_radii(*truth.shape):
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        band = cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, element) > 0
        shares.append((mask[band] == truth[band]).sum() / band.sum())
    return float(np.mean(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    ratios = {}
    for name, cells in CELLS.items():
        noise = rng.random((cells, cells), dtype=np.float32)
        truth = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) > 0.5
        mask = np.roll(truth, 3, axis=1)
        grey = [array.astype(np.uint8) for array in (mask, truth)]
        seconds: dict[str, list[float]] = {"published": [], "ours": []}
        for number in range(rounds + 1):
            start = time.perf_counter()
            theirs = published(*grey)
            middle = time.perf_counter()
            ours = mean_boundary_accuracy(mask, truth)
            end = time.perf_counter()
            assert ours == theirs
            if number:  # the first warms up
                seconds["published"].append(middle - start)
                seconds["ours"].append(end - middle)
        median = {side: float(np.median(values)) for side, values in seconds.items()}
        ratios[name] = round(median["published"] / median["ours"], 1)
        print(f"{name}: published {median['published']:.2f} s, ours {median['ours']:.3f} s")
    print(json.dumps({"published_over_ours": ratios}))


if __name__ == "__main__":
    main()
