"""The residual blocks of a ResNet of bottlenecks, rewritten for inference."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from crispseg.models.resnet import Bottleneck, ResNet
from crispseg.runtime.arithmetic import Arithmetic
from crispseg.runtime.fold import fold_norm
from crispseg.runtime.rows import PointConv


def has_bottlenecks(trunk: object) -> bool:
    """Whether this is a ResNet of 50 layers or more, whose blocks have a compiled form."""
    if not isinstance(trunk, ResNet):
        return False
    return isinstance(next(trunk.get_submodule("layer1").children()), Bottleneck)


class ResidualForm(nn.Module):
    """A bottleneck with its norms folded; the shortcut is added in place."""

    def __init__(self, block: Bottleneck, arithmetic: Arithmetic) -> None:
        super().__init__()
        middle = fold_norm(block.conv2, block.bn2)
        self.conv1 = PointConv(fold_norm(block.conv1, block.bn1))
        self.conv2 = _Strided(middle) if middle.stride != (1, 1) else arithmetic.conv(middle)
        self.conv3 = PointConv(fold_norm(block.conv3, block.bn3))
        self.shortcut: nn.Module = nn.Identity()
        if isinstance(block.downsample, nn.Sequential):
            conv, norm = block.downsample
            self.shortcut = PointConv(fold_norm(cast(nn.Conv2d, conv), norm))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, 4 * planes, H / stride, W / stride)."""
        out = self.conv3(self.conv2(self.conv1(x, relu=True), relu=True))
        out += self.shortcut(x)
        return cast(Tensor, out.relu_())


class _Strided(nn.Module):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        out = self.conv(x)
        return cast(Tensor, out.relu_() if relu else out)
