"""What a run learns: the part of training that refiners and segmentation networks do not share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from crispseg.train.config import TrainConfig


class Task(Protocol):
    """Made from a recipe and the group of processes; ``Run`` and the loop know nothing else.

    A batch is a NamedTuple of tensors, as ``samples`` collate; outputs are a NamedTuple as well.

    Attributes:
        best_by: the score of a validation whose largest value is the best.
    """

    best_by: str

    def network(self) -> nn.Module:
        """A random network, with an attribute ``trunk``."""
        raise NotImplementedError

    def samples(self, length: int) -> Dataset[Any]:
        """Samples 0 .. length-1 to train on."""
        raise NotImplementedError

    def inputs(self, module: nn.Module, batch: Any, step: int) -> Sequence[Tensor]:
        """What the network takes, of a batch on the device."""
        raise NotImplementedError

    def loss(self, outputs: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, whose mean over the processes is that of the whole batch; scalars to log."""
        raise NotImplementedError

    def held_out(self, given: Any) -> list[Any]:
        """This process's share of what validation looks at; of ``given``, or the recipe's."""
        raise NotImplementedError

    def validate(self, module: nn.Module, held: Sequence[Any]) -> dict[str, float]:
        """Scores over all processes; ``module`` is in evaluation mode."""
        raise NotImplementedError

    def picture(self, module: nn.Module, batch: Any) -> Tensor:
        """A few samples and what becomes of them: (3, H, W) in [0, 1]."""
        raise NotImplementedError

    def line(self, values: Mapping[str, float]) -> str:
        """What to say of a step, beside its loss."""
        raise NotImplementedError

    def validation_line(self, scores: Mapping[str, float]) -> str:
        """What to say of a validation."""
        raise NotImplementedError

    def metadata(self) -> dict[str, str]:
        """What the weights' file must say for their use."""
        raise NotImplementedError


def step_seed(config: TrainConfig, step: int) -> int:
    """Of all draws in a step: the same for every process and for a resumed run."""
    return config.seed * 1_000_003 + step


def normalised(config: TrainConfig, image: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 -> float32 as the network takes it, in the recipe's memory layout."""
    image = image.float() / 255
    mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
    image = (image - mean) / std
    if config.channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    return image
