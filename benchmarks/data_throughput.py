"""Do the training samples come faster than the network takes them?

    .venv/bin/python benchmarks/data_throughput.py [--crop-size 192] [--rounds 3]

Makes a cache of its own (cut-outs, backgrounds and pairs of plausible sizes, textured noise) and
times, in turn in one process: ``RefinerSamples`` read by a ``DataLoader`` with 0, 1 and 2 workers,
and training steps of ``cascadepsp-lite`` (forward, loss, backward, AdamW) on batches already made.
The two are different work, so nothing is compared but their speed. Prints one JSON line: the median
samples a second of each, and how many times faster than the steps the samples come: while that is
above 1 with one worker, the network need not wait.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from crispseg.data.cache import CacheWriter
from crispseg.data.samples import RefinerSamples, Sample
from crispseg.models.build import build
from crispseg.train.losses import cascade_loss

WORKERS = (0, 1, 2)


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Coloured noise with detail at many scales, (height, width, 3) uint8."""
    total = np.zeros((height, width, 3), np.float32)
    for cell in (2, 8, 32, 128):
        grid = rng.normal(0, 30, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total + 128, 0, 255).astype(np.uint8)


def shape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Alpha of a wavy object, (height, width) uint8."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    waves = sum(rng.normal(0, 0.3 / k) * np.cos(k * angles + rng.uniform(0, 6)) for k in (2, 5, 9))
    reach = 0.35 * min(height, width) * np.clip(1 + waves, 0.3, 1.4)
    x, y = width / 2 + reach * np.cos(angles), height / 2 + reach * np.sin(angles)
    alpha = np.zeros((height, width), np.uint8)
    cv2.fillPoly(alpha, [np.rint(np.stack([x, y], axis=1)).astype(np.int32)], 255)
    return cv2.GaussianBlur(alpha, (0, 0), 1)


def make_cache(folder: Path) -> None:
    rng = np.random.default_rng(0)
    with CacheWriter(folder) as writer:
        for i in range(10):
            cutout = np.dstack([texture(rng, 600, 800), shape(rng, 600, 800)])
            writer.add("cutout", f"{i}.png", cutout, group=f"{i}", split="train")
        for i in range(6):
            writer.add(
                "background", f"{i}.jpg", texture(rng, 1000, 1600), group=f"{i}", split="train"
            )
        for i in range(16):
            pair = np.dstack([texture(rng, 300, 400), shape(rng, 300, 400)])
            writer.add("pair", f"{i}.jpg", pair, group=f"{i}", split="train")


def samples_per_second(samples: RefinerSamples, workers: int, batch: int, count: int) -> float:
    batches = iter(DataLoader(samples, batch_size=batch, num_workers=workers))
    for _ in islice(batches, max(workers, 1)):
        pass  # each worker has started and has given one
    begun = time.perf_counter()
    for _ in islice(batches, count):
        pass
    return count * batch / (time.perf_counter() - begun)


def training_step() -> Callable[[Sample], None]:
    module = build("cascadepsp-lite").to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def step(sample: Sample) -> None:
        image = (sample.image.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        loss, _ = cascade_loss(module(image, sample.coarse * 2 - 1), sample.truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def steps_per_second(step: Callable[[Sample], None], batches: list[Sample]) -> float:
    begun = time.perf_counter()
    for batch in batches:
        step(batch)
    return sum(len(batch.image) for batch in batches) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--crop-size", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=12, help="in a round, of samples")
    parser.add_argument("--steps", type=int, default=3, help="in a round, of training")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_cache(Path(folder))
        samples = RefinerSamples(folder, crop_size=options.crop_size)
        loader = DataLoader(samples, batch_size=options.batch_size)
        ready = list(islice(loader, options.steps))
        step = training_step()
        step(ready[0])  # first call sets up the library's kernels
        speeds: dict[str, list[float]] = {f"{n} workers": [] for n in WORKERS} | {"training": []}
        for _ in range(options.rounds):
            speeds["training"].append(steps_per_second(step, ready))
            for n in WORKERS:
                speed = samples_per_second(samples, n, options.batch_size, options.batches)
                speeds[f"{n} workers"].append(speed)
    medians = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
    ratios = {name: round(v / medians["training"], 1) for name, v in medians.items()}
    del ratios["training"]
    print(json.dumps({"samples_per_second": medians, "samples_over_training": ratios}))


if __name__ == "__main__":
    main()
