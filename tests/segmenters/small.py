"""Small networks and images that the tests of segmenters share."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from crispseg.models.segmentation import ClassLogits, SegmentationModule

CLASSES = ("road", "sky", "tree", "car")


class SmallNet(SegmentationModule):
    """Three 3x3 convolutions with ReLU: sees three pixels far."""

    def __init__(self, num_classes: int = 4, stride: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Conv2d(8, num_classes, 3, padding=1)

    def forward(self, image: torch.Tensor) -> ClassLogits:
        return ClassLogits(5 * self.head(self.trunk(image)))


def small_net(num_classes: int = 4) -> SmallNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(num_classes)
        net = SmallNet(num_classes)
        for parameter in net.parameters():  # strong enough for every class to win somewhere
            nn.init.normal_(parameter, std=0.35)
        return net.eval()


def photo(height: int, width: int, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    """Noise with some structure larger than a pixel."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 7 + 1, width // 7 + 1, 3)).repeat(7, 0).repeat(7, 1)
    mixed = 0.7 * coarse[:height, :width] + 0.3 * rng.random((height, width, 3))
    return (mixed * np.iinfo(dtype).max).astype(dtype)
