"""What it costs to measure label maps, beside decoding them: 500x375, 21 classes.

    .venv/bin/python benchmarks/label_metrics.py [--images 1000] [--rounds 3]

Pairs of truth and prediction are written as palette PNGs, areas with void borders as PASCAL VOC has
them. Decoding (``crispseg.io.labels.read_labels``, both files) and measuring run in turn, image by
image, on one thread. Measuring is the confusion matrix, from which IoU and accuracy of every class
follow; mBA is told apart. The matrix must be that of a plain count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image

from crispseg.io.labels import read_labels
from crispseg.metrics.bands import boundary_band
from crispseg.metrics.boundary import mean_boundary_accuracy_of_labels
from crispseg.metrics.confusion import ConfusionMatrix

HEIGHT, WIDTH, CLASSES, VOID = 375, 500, 21, 255
PALETTE = [value for number in range(256) for value in (number, 37 * number % 256, 255 - number)]


def scene(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A prediction with areas of several classes, and its truth with void borders."""
    noise = Image.fromarray(rng.random((6, 8), dtype=np.float32))
    smooth = np.asarray(noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    levels = np.clip(smooth * 6, 0, 5).astype(np.uint8)
    truth = rng.choice(CLASSES, 6, replace=False).astype(np.uint8)[levels]
    prediction = np.roll(truth, rng.integers(-4, 5, 2), (0, 1))
    truth[boundary_band(truth, 2)] = VOID
    return prediction, truth


def save(path: Path, labels: NDArray[np.uint8]) -> None:
    picture = Image.fromarray(labels)
    picture.putpalette(PALETTE)
    picture.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pyvips.cache_set_max(0)
    rng = np.random.default_rng(0)
    seconds = np.zeros((options.rounds, 3))  # decoding, matrix, mBA
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = np.zeros((CLASSES, CLASSES), np.int64)
        for number in range(options.images):
            prediction, truth = scene(rng)
            save(folder / f"{number}p.png", prediction)
            save(folder / f"{number}t.png", truth)
            valid = truth != VOID
            np.add.at(plain, (truth[valid], prediction[valid]), 1)
        for times in seconds:
            matrix = ConfusionMatrix(CLASSES)
            for number in range(options.images):
                start = time.perf_counter()
                pair = [read_labels(folder / f"{number}{kind}.png") for kind in "pt"]
                decoded = time.perf_counter()
                matrix.add(*pair)
                counted = time.perf_counter()
                mean_boundary_accuracy_of_labels(*pair)
                times += np.diff([start, decoded, counted, time.perf_counter()])
            assert (matrix.counts == plain).all()
    decoding, counting, bands = 1000 * np.median(seconds, axis=0) / options.images
    print(f"per image: decoding {decoding:.2f} ms, matrix {counting:.2f} ms, mBA {bands:.2f} ms")
    shares = {"matrix_over_decoding": counting / decoding, "mba_over_decoding": bands / decoding}
    print(json.dumps({name: round(share, 3) for name, share in shares.items()}))


if __name__ == "__main__":
    main()
