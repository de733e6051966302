"""What refining a small object costs beyond the network: crops of 256x256, one after the other.

    .venv/bin/python benchmarks/small_objects.py [--objects 40] [--rounds 5]

Discs and ellipses on noise, each with a mask that is off by some pixels. The network's answers are
recorded once; then refining with the network and refining with the recorded answers take turns.
What is left without the network is the cost of everything around it: checks, copies, enlarging,
the guard. Freed memory is kept, as the command line does. One thread, processor time, which others
on the machine stretch less than the clock's. Prints one JSON line: milliseconds per object, medians
of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from crispseg.pipeline import load_refiner
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.runtime.memory import keep_freed_memory
from crispseg.types import Image, Mask

SIDE = 256


def crops(count: int) -> list[tuple[Image, Mask]]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    found = []
    for _ in range(count):
        a, b = rng.uniform(40, 90, 2)
        dy, dx = rng.uniform(-6, 6, 2)
        image = rng.normal(110, 30, (SIDE, SIDE, 3)) + 60 * (np.hypot(y / a, x / b) < 1)[:, :, None]
        rough = np.hypot((y - dy) / a, (x - dx) / b) < 1
        found.append((np.clip(image, 0, 255).astype(np.uint8), rough.astype(np.float32)))
    return found


class Replay:
    """Puts a network's recorded answers in its place, in the order in which they came."""

    def __init__(self, refiner: CascadeRefiner) -> None:
        self._module: Any = refiner.network._form
        self._forward = self._module.forward
        self._answers: list[Any] = []

    def record(self, work: Callable[[], object]) -> None:
        def forward(*inputs: torch.Tensor) -> Any:
            self._answers.append(self._forward(*inputs))
            return self._answers[-1]

        self._module.forward = forward
        work()

    def play(self, work: Callable[[], object]) -> object:
        answers: Iterator[Any] = iter(self._answers)
        self._module.forward = lambda *_: next(answers)
        return work()

    def stop(self) -> None:
        self._module.forward = self._forward


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="cascadepsp-lite")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    refiner = load_refiner(options.model, device="cpu")
    cases = crops(options.objects)

    def work() -> list[Mask]:
        return [refiner.refine(image, mask) for image, mask in cases]

    replay = Replay(refiner)
    replay.record(work)
    replay.stop()
    expected = work()
    found = replay.play(work)
    assert all((a == b).all() for a, b in zip(expected, found, strict=True))
    times: dict[str, list[float]] = {"all": [], "around": []}
    for _ in range(options.rounds):
        replay.stop()
        times["all"].append(seconds(work))
        times["around"].append(seconds(lambda: replay.play(work)))
    each = {k: 1000 * statistics.median(v) / len(cases) for k, v in times.items()}
    print(
        json.dumps(
            {
                "objects": len(cases),
                "ms_per_object": round(each["all"], 2),
                "beyond_network_ms": round(each["around"], 2),
                "beyond_network_share": round(each["around"] / each["all"], 3),
            }
        )
    )


if __name__ == "__main__":
    main()
