"""How much sooner cascadepsp-lite answers than the full network: one 900x900 local tile, fp32.

    .venv/bin/python benchmarks/local_tile.py [--rounds 3]

Both networks have random weights, which changes nothing about their speed, and take turns in one
process. Prints one JSON line with the median seconds of each and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch

from crispseg.models.build import build
from crispseg.models.weights import LoadedModel
from crispseg.refiners.network import CascadeNetwork

NAMES = ("cascadepsp-resnet50", "cascadepsp-lite")


def network(name: str) -> CascadeNetwork:
    model = LoadedModel(build(name), (0.5,) * 3, (0.5,) * 3, architecture=name, source="random")
    return CascadeNetwork(model, torch.device("cpu"), published=False)


def seconds(net: CascadeNetwork, side: int) -> float:
    image = net.image_tensor(np.zeros((side, side, 3), np.uint8), 255)
    masks = [np.zeros((side, side), np.float32)] * 2
    start = time.perf_counter()
    net.probabilities([image], [masks])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=900)
    options = parser.parse_args()
    networks = {name: network(name) for name in NAMES}
    for net in networks.values():
        seconds(net, 256)  # first call sets up the library's kernels
    times = {name: [] for name in NAMES}
    for _ in range(options.rounds):
        for name, net in networks.items():
            times[name].append(seconds(net, options.side))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians[NAMES[0]] / medians[NAMES[1]]
    print(json.dumps({"seconds": medians, "full_over_lite": round(ratio, 1)}))


if __name__ == "__main__":
    main()
