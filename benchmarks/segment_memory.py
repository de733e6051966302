"""Peak memory of a 2048x1024 image with 19 classes in tiles, against that of one tile.

    .venv/bin/python benchmarks/segment_memory.py [--tile-size 713] [--scales 1]

The network is DeepLabv3's smallest relative that needs no other package: EfficientNet-Lite0 with a
1x1 classifier at stride 8, enlarged to the tile. Each measurement is a process of its own that
loads the network, notes its peak memory so far, segments and notes it again. Printed are both
peaks (the resident set of the process) and what segmenting added, for one tile and for the image;
the label map is 2 MiB. ``full_array`` is what an array of all probabilities would take.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np
import torch
from torch import nn

from crispseg.layers.blocks import resize
from crispseg.models.efficientnet import EfficientNetLite
from crispseg.runtime.memory import peak_mib
from crispseg.segmenters.adapters import from_module
from crispseg.segmenters.base import Inference

CLASSES, HEIGHT, WIDTH = 19, 1024, 2048


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = EfficientNetLite(stages=5, output_stride=8)
        self.head = nn.Conv2d(self.trunk.channels[-1], CLASSES, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.trunk(image)[-1])
        return resize(logits, (image.shape[-2], image.shape[-1]), align_corners=False)


def measure(height: int, width: int, tile_size: int, scales: tuple[float, ...]) -> list[float]:
    torch.set_num_threads(1)
    way = Inference(tile_size=tile_size, scales=scales)
    net = from_module(Net(), num_classes=CLASSES, device="cpu", inference=way)
    net.segment(np.zeros((64, 64, 3), np.uint8))  # what a first run alone loads
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = peak_mib()
    net.segment(image)
    return [before, peak_mib()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tile-size", type=int, default=713)
    parser.add_argument("--scales", default="1")
    parser.add_argument("--measure", type=int, nargs=2)
    options = parser.parse_args()
    scales = tuple(float(part) for part in options.scales.split(","))
    if options.measure:
        print(json.dumps(measure(*options.measure, options.tile_size, scales)))
        return
    figures: dict[str, float] = {}
    side = options.tile_size
    for name, (height, width) in {"tile": (side, side), "image": (HEIGHT, WIDTH)}.items():
        command = [sys.executable, __file__, "--tile-size", str(side)]
        command += ["--scales", "1" if name == "tile" else options.scales]
        command += ["--measure", str(height), str(width)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, peak = json.loads(done.stdout)
        figures |= {f"{name}_peak_mib": peak, f"{name}_added_mib": peak - before}
    labels = HEIGHT * WIDTH / 2**20
    for kind in ("peak", "added"):
        ratio = (figures[f"image_{kind}_mib"] - labels) / figures[f"tile_{kind}_mib"]
        figures[f"{kind}_ratio"] = ratio
    figures["full_array_mib"] = CLASSES * HEIGHT * WIDTH * 4 / 2**20
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
