"""What it costs to measure label maps, beside decoding them: 500x375, 21 classes.

    .venv/bin/python benchmarks/label_metrics.py [--images 1000] [--rounds 3]

Pairs of truth and prediction are written as palette PNGs: objects with void borders as PASCAL VOC
has them, areas that fill the image, and noise. Decoding (``crispseg.io.labels.read_labels``, both
files; Pillow beside it) and measuring run in turn, image by image, on one thread. Measuring is the
confusion matrix, from which IoU and accuracy of every class follow, and all that ``crispseg
evaluate`` has of an image (``score_labels``: the matrix, mBA with both kinds of radii), in CPU
time. The matrix must be that of a plain count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image

from crispseg.evaluation.labels import score_labels
from crispseg.io.labels import read_labels
from crispseg.metrics.bands import boundary_band
from crispseg.metrics.confusion import ConfusionMatrix

HEIGHT, WIDTH, CLASSES, VOID = 375, 500, 21, 255
Kind = Callable[[np.random.Generator], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
PALETTE = [value for number in range(256) for value in (number, 37 * number % 256, 255 - number)]


def areas(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A prediction with areas of several classes, and its truth with void borders."""
    noise = Image.fromarray(rng.random((6, 8), dtype=np.float32))
    smooth = np.asarray(noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    levels = np.clip(smooth * 6, 0, 5).astype(np.uint8)
    truth = rng.choice(CLASSES, 6, replace=False).astype(np.uint8)[levels]
    return with_void(np.roll(truth, rng.integers(-4, 5, 2), (0, 1)), truth)


def objects(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A few discs on background; the prediction has each a few pixels off."""
    prediction, truth = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for _ in range(rng.integers(1, 5)):
        number, radius = rng.integers(1, CLASSES), rng.integers(20, 120)
        row, column = rng.integers(0, HEIGHT), rng.integers(0, WIDTH)
        truth[np.hypot(y - row, x - column) < radius] = number
        row, column = row + rng.integers(-5, 6), column + rng.integers(-5, 6)
        prediction[np.hypot(y - row, x - column) < radius] = number
    return with_void(prediction, truth)


def with_void(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    truth[boundary_band(truth, 2)] = VOID
    return prediction, truth


def noise(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Every pixel a class of its own."""
    prediction, truth = rng.integers(0, CLASSES, (2, HEIGHT, WIDTH), dtype=np.uint8)
    return prediction, truth


def save(path: Path, labels: NDArray[np.uint8]) -> None:
    picture = Image.fromarray(labels)
    picture.putpalette(PALETTE)
    picture.save(path)


def measure(kind: Kind, images: int, rounds: int) -> dict[str, float]:
    """Milliseconds an image: decoding, Pillow, matrix, everything."""
    rng = np.random.default_rng(0)
    seconds = np.zeros((rounds, 4))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = np.zeros((CLASSES, CLASSES), np.int64)
        for number in range(images):
            prediction, truth = kind(rng)
            save(folder / f"{number}p.png", prediction)
            save(folder / f"{number}t.png", truth)
            valid = truth != VOID
            np.add.at(plain, (truth[valid], prediction[valid]), 1)
        for times in seconds:
            matrix = ConfusionMatrix(CLASSES)
            for number in range(images):
                marks = [time.process_time()]
                pair = [read_labels(folder / f"{number}{side}.png") for side in "pt"]
                marks.append(time.process_time())
                for side in "pt":
                    np.asarray(Image.open(folder / f"{number}{side}.png"))
                marks.append(time.process_time())
                matrix.add(*pair)
                marks.append(time.process_time())
                score_labels("", *pair, CLASSES)
                marks.append(time.process_time())
                times += np.diff(marks)
            assert (matrix.counts == plain).all()
    names = ("decoding", "pillow", "matrix", "everything")
    return dict(zip(names, (1000 * np.median(seconds, axis=0) / images).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pyvips.cache_set_max(0)
    shares = {}
    for kind in (objects, areas, noise):
        cost = measure(kind, options.images, options.rounds)
        name = kind.__name__
        print(f"{name}, ms an image: {', '.join(f'{k} {v:.2f}' for k, v in cost.items())}")
        shares[name] = {
            f"{what}_over_{over}": round(cost[what] / cost[over], 3)
            for what in ("matrix", "everything")
            for over in ("decoding", "pillow")
        }
    print(json.dumps(shares))


if __name__ == "__main__":
    main()
