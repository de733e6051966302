"""A segmentation network and a CamVid of a few pixels, small enough to train in a test."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.models.segmentation import ClassLogits, SegmentationModule
from crispseg.train.config import TrainConfig


class Trunk(nn.Module):
    channels = (8, 8)

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.second = nn.Conv2d(8, 8, 3, 2, 1)
        self.output_stride = 4

    def forward(self, x: Tensor) -> list[Tensor]:
        first = torch.relu(self.norm(self.first(x)))
        return [first, torch.relu(self.second(first))]


class TinyClasses(SegmentationModule):
    def __init__(self, num_classes: int, norm: bool = True) -> None:
        super().__init__()
        self.trunk = Trunk(norm)
        self.num_classes = num_classes
        self.head = nn.Conv2d(16, num_classes, 3, padding=1)
        self.aux = nn.Conv2d(8, num_classes, 1)

    def set_output_stride(self, output_stride: int) -> None:
        if output_stride != 4:
            raise ValueError("output_stride must be 4")

    def forward(self, image: Tensor) -> ClassLogits:
        size = image.shape[-2:]
        first, second = self.trunk(image)
        up = F.interpolate(second, first.shape[-2:], mode="nearest")
        maps = [self.head(torch.cat([first, up], dim=1)), self.aux(first)]
        logits, aux = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps)
        return ClassLogits(logits, aux if self.training else None)


NETWORKS = {
    "tiny-classes": TinyClasses,
    "tiny-classes-plain": lambda num_classes: TinyClasses(num_classes, norm=False),
}


def write_camvid(folder: Path, counts: tuple[int, int] = (6, 3), size=(40, 56)) -> None:
    """Sky (0) over road (3), and a car (8) on every second; a strip of void (11)."""
    for split, count in zip(("train", "val"), counts, strict=True):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng((len(split), i))
            labels = np.full(size, 3, np.uint8)
            labels[: int(rng.integers(10, 20))] = 0
            if i % 2 == 0:
                x = int(rng.integers(5, 35))
                labels[22:32, x : x + 14] = 8
            palette = np.zeros((12, 3), np.uint8)
            palette[[0, 3, 8]] = (220, 120, 40), (90, 90, 90), (30, 30, 200)
            noise = rng.integers(-15, 15, (*size, 3))
            image = np.clip(palette[labels] + noise, 0, 255).astype(np.uint8)
            labels[:, :3] = 11
            cv2.imwrite(str(folder / split / "images" / f"{i}.png"), image)
            cv2.imwrite(str(folder / split / "labels" / f"{i}.png"), labels)


def recipe(folder: Path, data: Path, **changes: object) -> TrainConfig:
    base: dict[str, object] = {
        "model": "tiny-classes",
        "dataset": "camvid",
        "data": str(data),
        "output": str(folder),
        "crop_size": 32,
        "crop_width": 48,
        "batch_size": 2,
        "iterations": 6,
        "workers": 0,
        "threads": 1,
        "warmup": 0,
        "learning_rate": 1e-2,
        "seed": 3,
        "log_every": 1,
        "device": "cpu",
    }
    return TrainConfig(**base | changes)
