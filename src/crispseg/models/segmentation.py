"""What the networks that make a first segmentation have in common, on any trunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Trunk(Protocol):
    """A network that returns its stages, from the finest to the deepest.

    Attributes:
        channels: of each stage.
        strides: of each stage: how many pixels of the image lie between two of its own.
        output_stride: of the deepest stage.
    """

    channels: Sequence[int]
    strides: Sequence[int]
    output_stride: int

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one (N, channels[i], H / strides[i], W / strides[i]) per stage.

        Sizes that do not divide are rounded up.
        """


class ClassLogits(NamedTuple):
    """What a segmentation network returns.

    Attributes:
        logits: (N, num_classes, H, W), at the size of the image.
        aux: the auxiliary head's, of the same shape; None in evaluation or without such a head.
    """

    logits: Tensor
    aux: Tensor | None = None


class SegmentationModule(nn.Module):
    """A network from (N, 3, H, W) float32, normalised, to ``ClassLogits``; any H and W.

    Attributes:
        trunk: the part that may start from pretrained weights and learns at a lower rate.
        num_classes: number of classes.
    """

    trunk: nn.Module
    num_classes: int

    def forward(self, image: Tensor) -> ClassLogits:
        """(N, 3, H, W) -> logits of every class at the size of the image."""
        raise NotImplementedError

    def set_output_stride(self, output_stride: int) -> None:
        """Run at another output stride with the same weights, where a network can.

        Raises:
            ValueError: not such a stride, or a network whose layers belong to one stride.
        """
        raise ValueError(f"{type(self).__name__} runs at the output stride it was trained at only")


class ClassHead(nn.Sequential):
    """3x3 convolution, norm, ReLU, dropout, 1x1 convolution to class logits.

    Main head of the dilated FCN (torchvision's numbering of the layers) and of PSPNet, and the
    auxiliary head of both.

    Args:
        in_channels: of the features.
        num_classes: number of classes.
        hidden: channels between the two convolutions; a quarter of ``in_channels`` by default.
        dropout: removes whole channels (PSPNet) or single values (torchvision).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden: int | None = None,
        dropout: nn.Module,
    ) -> None:
        hidden = hidden or in_channels // 4
        super().__init__(
            nn.Conv2d(in_channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            dropout,
            nn.Conv2d(hidden, num_classes, 1),
        )


def deepest_at(strides: Sequence[int], stride: int) -> int:
    """Index of the deepest stage with ``stride``.

    Raises:
        ValueError: there is none.
    """
    found = [index for index, value in enumerate(strides) if value == stride]
    if not found:
        raise ValueError(f"the trunk has no stage of stride {stride}; it has {list(strides)}")
    return found[-1]


def initialise_head(module: nn.Module, std: float = 0.01) -> None:
    """Convolutions from N(0, std) with zero bias, norms to identity (RefineNet, DeepLabv3)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            with torch.no_grad():
                layer.weight.fill_(1)
                layer.bias.fill_(0)
