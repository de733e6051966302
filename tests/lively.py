"""Random networks whose weights tell something: norms are not the identity."""

from __future__ import annotations

import torch
from torch import nn


def lively(module: nn.Module, largest: float = 1.5, negative_every: int = 0) -> nn.Module:
    """BatchNorm with statistics and weights of its own; in evaluation mode.

    Weights are 0.5 to ``largest``, and negative for every so many of the channels.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            with torch.no_grad():
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.uniform_(0.5, largest)
                if negative_every:
                    layer.weight[::negative_every] *= -1
                layer.bias.normal_(0, 0.2)
    return module.eval()


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
