"""Convolution, bias, sum and activation in one pass, where the CPU's library can.

PyTorch's own ``conv2d`` on one thread takes 1x1 convolutions another way than all others: features
are brought into another order in memory and back. And a sum or an activation that follows reads
and writes them once more. What is called here is what ``torch.compile`` calls for such a layer.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["none", "relu", "relu6"]
BOUNDS = [0.0, 6.0]


def _pointwise(name: str) -> Any:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    return getattr(torch.ops.mkldnn, name, None)


CONVOLVE, ADD_TO = _pointwise("_convolution_pointwise"), _pointwise("_convolution_pointwise_")
"""None where this PyTorch has no such thing."""


def fuses(x: Tensor) -> bool:
    """Whether a convolution of ``x`` can have a sum and an activation in the same pass."""
    found = CONVOLVE is not None and ADD_TO is not None
    return found and x.device.type == "cpu" and x.dtype is torch.float32


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    activation: Activation = "none",
    add: Tensor | None = None,
    in_place: bool = False,
) -> Tensor:
    """A convolution, then a sum, then an activation.

    Args:
        x: (N, C, H, W), channels last.
        weight: (out, C / groups, k, k).
        bias: (out,) or None.
        stride: in both directions, as are the next two.
        padding: zeros on all sides.
        dilation: of the kernel.
        groups: of channels.
        activation: "relu6" is what is between 0 and 6; without ``add`` only.
        add: (N, out, h, w) what is added before the activation.
        in_place: the result lies where ``add`` was; without an activation only.

    Returns:
        (N, out, h, w), channels last.
    """
    if not fuses(x):
        y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        if add is not None:
            y = add.add_(y) if in_place else y.add_(add)
        return y if activation == "none" else _activated(y, activation)
    x = x.contiguous(memory_format=torch.channels_last)
    how = ([padding] * 2, [stride] * 2, [dilation] * 2, groups)
    if add is None:
        kind, bounds = ("hardtanh", BOUNDS) if activation == "relu6" else (activation, [])
        return cast(Tensor, CONVOLVE(x, weight, bias, *how, kind, bounds, ""))
    if in_place:
        return cast(Tensor, ADD_TO(add, x, weight, bias, *how, "add", 1.0, None, [], None))
    last = activation if activation == "relu" else None
    return cast(Tensor, CONVOLVE(x, add, weight, bias, *how, "add", 1.0, last, [], None))


def _activated(y: Tensor, activation: Activation) -> Tensor:
    return y.relu_() if activation == "relu" else y.clamp_(*BOUNDS)


class FusedConv(nn.Module):
    """A convolution in one pass.

    Args:
        conv: as stride, padding and dilation are in one direction, so in the other; its weights
            are copied.
        activation: what it ends with.
    """

    def __init__(self, conv: nn.Conv2d, activation: Activation = "none") -> None:
        super().__init__()
        weight = conv.weight.detach().clone(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias: nn.Parameter | None = None
        if conv.bias is not None:
            self.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
        self.stride, self.padding, self.dilation = (
            cast(tuple[int, int], values)[0]
            for values in (conv.stride, conv.padding, conv.dilation)
        )
        self.groups = conv.groups
        self.activation: Activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, h, w)."""
        return convolve(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            activation=self.activation,
        )
