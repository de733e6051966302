"""BatchNorm in evaluation is a scale and a shift: put into the convolution beside it, exactly."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


def fold_norm(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """One convolution that is ``conv``, then ``norm`` (BatchNorm in evaluation, or an identity)."""
    if isinstance(norm, nn.Identity):
        return conv
    if not isinstance(norm, nn.BatchNorm2d):
        raise TypeError(f"cannot fold {type(norm).__name__}")
    scale, shift = scale_and_shift(norm)
    weight = conv.weight.detach() * scale[:, None, None, None].float()
    bias = shift if conv.bias is None else conv.bias.detach().double() * scale + shift
    return like(conv, weight, bias)


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """BatchNorm in evaluation as ``x * scale + shift``, (C,) float64 each."""
    mean, var = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = norm.weight.detach().double() / (var + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - mean * scale


def like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution with the stride, padding and dilation of ``conv`` and other weights.

    Args:
        conv: not grouped, or with the groups that ``weight`` has.
        weight: (out, in / groups, k, k).
        bias: (out,) or None.
    """
    out, channels = weight.shape[:2]
    size = cast(tuple[int, int], conv.kernel_size)
    stride, dilation = cast(tuple[int, int], conv.stride), cast(tuple[int, int], conv.dilation)
    padding = cast(tuple[int, int], conv.padding)
    with torch.device("meta"):
        new = nn.Conv2d(
            *(channels * conv.groups, out, size, stride, padding, dilation, conv.groups),
            bias=bias is not None,
        )
    new.weight = nn.Parameter(weight.float(), requires_grad=False)
    if bias is not None:
        new.bias = nn.Parameter(bias.float(), requires_grad=False)
    return new


def part_of_norm(norm: nn.BatchNorm2d, channels: slice) -> nn.BatchNorm2d:
    """BatchNorm of some of the channels."""
    mean, var = cast(Tensor, norm.running_mean)[channels], cast(Tensor, norm.running_var)[channels]
    part = nn.BatchNorm2d(len(mean), eps=norm.eps)
    part.running_mean, part.running_var = mean.clone(), var.clone()
    part.weight = nn.Parameter(norm.weight.detach()[channels].clone(), requires_grad=False)
    part.bias = nn.Parameter(norm.bias.detach()[channels].clone(), requires_grad=False)
    return part.eval()


def norm_before(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """One 1x1 convolution that is ``norm``, then ``conv``, which has a bias and no padding."""
    scale, shift = scale_and_shift(norm)
    weight = conv.weight.detach().double()[:, :, 0, 0]
    bias = cast(Tensor, conv.bias).detach().double() + weight @ shift
    return like(conv, (weight * scale)[..., None, None], bias)
