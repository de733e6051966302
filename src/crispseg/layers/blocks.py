"""Small pieces shared by several networks: resizing with a stated grid, and padding."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear resize of (N, C, h, w) to ``size`` = (height, width).

    ``align_corners`` has no default on purpose: the papers differ, and the wrong choice shifts
    every edge by up to half a source pixel.
    """
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Convolution that keeps the size (odd ``kernel``), BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def pad_to_multiple(x: Tensor, multiple: int, value: float, plus: int = 0) -> Tensor:
    """Pad (N, C, H, W) on the right and bottom with ``value`` to multiples, and ``plus`` more."""
    height, width = x.shape[-2:]
    bottom, right = (plus - height) % multiple, (plus - width) % multiple
    if bottom == 0 and right == 0:
        return x
    return F.pad(x, (0, right, 0, bottom), value=value)
