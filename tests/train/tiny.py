"""A network and samples small enough to train in a test; as a script, ``crispseg`` with them.

The network comes with BatchNorm ("tiny") and without ("tiny-plain"): several CPU processes take
BatchNorm's statistics each over its own part of a batch, so only without it are their gradients
those of one process with the whole batch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from crispseg.cli.main import run
from crispseg.data.cache import CacheWriter
from crispseg.data.samples import RefinerSamples, Sample
from crispseg.models.build import BUILDERS
from crispseg.models.cascadepsp import RefinementModule
from crispseg.train.config import TrainConfig
from crispseg.train.run import Run


class Trunk(nn.Module):
    channels = (4, 6, 8)

    def __init__(self) -> None:
        super().__init__()
        widths = (6, *self.channels)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(widths, self.channels, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        stages = []
        for layer in self.layers:
            x = torch.relu(layer(x))
            stages.append(x)
        return stages


def tiny() -> RefinementModule:
    return RefinementModule(Trunk(), pyramid_channels=8, up_channels=(8, 8, 4), head_channels=4)


def tiny_plain() -> RefinementModule:
    module = tiny()
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return module


def tiny_dropout() -> RefinementModule:
    module = tiny()
    module.head_s1.insert(0, nn.Dropout(0.5))
    return module


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tiny": tiny,
    "tiny-plain": tiny_plain,
    "tiny-dropout": tiny_dropout,
}


class Discs(Dataset[Sample]):
    """Bright discs on grey, with a coarse mask that is off; sample i depends on i alone."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        y, x = (torch.rand(2, generator=generator) * 20 + 14).tolist()
        rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
        truth = ((rows - y).hypot(columns - x) < 12).float()[None]
        image = (60 + 150 * truth + torch.randn(3, 48, 48, generator=generator) * 9).clamp(0, 255)
        return Sample(image.to(torch.uint8), truth.roll((3, -4), (1, 2)), truth)


def recipe(folder: Path, **changes: object) -> TrainConfig:
    base: dict[str, object] = {
        "model": "tiny",
        "data": "none",
        "output": str(folder),
        "crop_size": 48,
        "batch_size": 2,
        "iterations": 6,
        "workers": 0,
        "threads": 1,
        "warmup": 2,
        "seed": 7,
        "log_every": 1,
        "device": "cpu",
    }
    return TrainConfig(**base | changes)


def write_cache(folder: Path) -> None:
    """A few red discs on grey noise, for training and for testing."""
    rng = np.random.default_rng(0)
    with CacheWriter(folder) as writer:
        for split in ("train", "test"):
            for number in range(3):
                alpha = np.zeros((60 + 10 * number, 70), np.uint8)
                cv2.circle(alpha, (35, 30), 26, 255, -1)
                disc = np.dstack([np.full((*alpha.shape, 3), (220, 20, 20), np.uint8), alpha])
                group = f"{split}{number}"
                writer.add("cutout", f"{group}.png", disc, group=group, split=split)
                grey = rng.integers(90, 130, (100, 120, 3), dtype=np.uint8)
                writer.add("background", f"{group}.jpg", grey, group=split, split=split)


def kill_at_sample(index: int) -> None:
    """From then on, a process that is asked for training sample ``index`` is gone."""
    original = RefinerSamples.__getitem__

    def sample(self: RefinerSamples, i: int) -> Sample:
        if i == index:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, i)

    RefinerSamples.__getitem__ = sample


def keep_gradients(folder: Path) -> None:
    """From then on, each step's gradients, as the optimiser saw them, go to a file."""
    original = Run.advance

    def advance(self: Run, sample: Sample) -> dict[str, float]:
        values = original(self, sample)
        gradients = {name: p.grad for name, p in self.module.named_parameters()}
        torch.save(gradients, folder / f"gradients-{self.step}-{self.group.rank}.pt")
        return values

    Run.advance = advance


def command(arguments: list[str], output: Path, environment: dict[str, str]) -> None:
    """The body of a process: ``crispseg`` with the tiny networks; all it says goes to a file."""
    os.setsid()  # signals to its group, which are its workers, do not reach the tests
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    main(arguments)


def main(arguments: list[str]) -> NoReturn:
    """``crispseg`` with the tiny networks, and what the environment asks for."""
    BUILDERS.update(NETWORKS)
    if at := os.environ.get("TINY_KILL_AT"):
        kill_at_sample(int(at))
    if where := os.environ.get("TINY_GRADIENTS"):
        keep_gradients(Path(where))
    sys.exit(run(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
