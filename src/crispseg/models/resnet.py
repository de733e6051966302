"""ResNet, the trunk the five systems share, with torchvision's parameter names.

He et al., Deep Residual Learning (CVPR 2016), in the dilated forms of the segmentation papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

FirstDilation = Literal["one", "previous", "stage"]

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
LAYERS |= {152: (3, 8, 36, 3), 269: (3, 30, 48, 8)}
WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, width, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries stride and dilation), 1x1 and a shortcut (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 * width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.relu(out + self.downsample(x))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def set_grid(block: nn.Module, stride: int, dilation: int, after: int | None = None) -> None:
    """Stride and dilation of a block's 3x3 convolutions; its weights stay.

    ``after`` is the dilation behind the convolution that carries the stride, which only a
    ``BasicBlock`` has; ``dilation`` if None.
    """
    for conv in block.children():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (dilation, dilation)
    if after and isinstance(block, BasicBlock):
        block.conv2.dilation = block.conv2.padding = (after, after)
    strided = cast(nn.Conv2d, block.conv2 if isinstance(block, Bottleneck) else block.conv1)
    strided.stride = (stride, stride)
    if isinstance(block.downsample, nn.Sequential):
        cast(nn.Conv2d, block.downsample[0]).stride = (stride, stride)


class ResNet(nn.Module):
    """ResNet that returns its stages.

    Args:
        depth: 18, 34, 50, 101, 152 or 269.
        in_channels: channels of the input; CascadePSP's trunk takes 6 (RGB and three masks).
        output_stride: 4, 8, 16 or 32; strides beyond it become dilation.
        first_dilation: dilation of the first block of a dilated stage: "one" (CascadePSP, whose
            trunk keeps it at 1), "previous" (the stage before; torchvision, timm), "stage" (the
            stage's own; PSPNet's semseg). A ``BasicBlock``'s second convolution always has the
            stage's own, as timm's.
        multi_grid: factors on the dilation of layer4's blocks (DeepLabv3 section 3.2.1).
        deep_stem: three 3x3 convolutions instead of one 7x7 (PSPNet).

    Raises:
        ValueError: unknown depth or output_stride.

    Attributes:
        first_centre: pixel at the middle of what the last stage's first cell sees; convolutions
            are padded alike on both sides, so it is the first.
    """

    first_centre = 0.0

    def __init__(
        self,
        depth: int,
        *,
        in_channels: int = 3,
        output_stride: int = 32,
        first_dilation: FirstDilation = "previous",
        multi_grid: Sequence[int] = (),
        deep_stem: bool = False,
    ) -> None:
        super().__init__()
        if depth not in LAYERS:
            raise ValueError(f"ResNet depth must be one of {sorted(LAYERS)}, not {depth}")
        block = BasicBlock if depth < 50 else Bottleneck
        stem_channels = 128 if deep_stem else 64
        self.conv1 = _deep_stem(in_channels) if deep_stem else _plain_stem(in_channels)
        self.bn1 = nn.BatchNorm2d(stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        channels = stem_channels
        for stage, (blocks, width) in enumerate(zip(LAYERS[depth], WIDTHS, strict=True), start=1):
            layer = nn.Sequential()
            for i in range(blocks):
                layer.append(block(channels, width, 2 if stage > 1 and i == 0 else 1, 1))
                channels = width * block.expansion
            self.add_module(f"layer{stage}", layer)

        self.channels = (stem_channels, *(w * block.expansion for w in WIDTHS))
        self.first_dilation = first_dilation
        self.multi_grid = tuple(multi_grid)
        self.set_output_stride(output_stride)
        kaiming(self)

    def set_output_stride(self, output_stride: int) -> None:
        """Change strides into dilation, or back; the weights stay (DeepLabv3 section 3.1).

        With ``first_dilation`` "previous", features at a smaller output stride hold those at a
        larger one: every second in each direction is the same.

        Args:
            output_stride: 4, 8, 16 or 32.

        Raises:
            ValueError: another output_stride.
        """
        if output_stride not in (4, 8, 16, 32):
            raise ValueError(f"output_stride must be 4, 8, 16 or 32, not {output_stride}")
        stride_so_far, dilation = 4, 1
        strides = [2]
        for stage in (1, 2, 3, 4):
            previous, stride = dilation, 1 if stage == 1 else 2
            if stride_so_far * stride > output_stride:
                dilation, stride = dilation * stride, 1
            stride_so_far *= stride
            strides.append(stride_so_far)
            layer = cast(nn.Sequential, self.get_submodule(f"layer{stage}"))
            first = {"one": 1, "previous": previous, "stage": dilation}[self.first_dilation]
            dilations = [first] + [dilation] * (len(layer) - 1)
            if stage == 4 and self.multi_grid:
                grid = self.multi_grid
                dilations = [dilation * grid[i % len(grid)] for i in range(len(layer))]
            for i, (block, block_dilation) in enumerate(zip(layer, dilations, strict=True)):
                after = max(block_dilation, dilation)
                set_grid(block, stride if i == 0 else 1, block_dilation, after)
        self.strides = tuple(strides)
        self.output_stride = output_stride

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> [stem, layer1, layer2, layer3, layer4].

        ``stem`` is the first convolution's output at stride 2 *before* normalisation and ReLU,
        as CascadePSP's skip connection takes it; channels are in ``self.channels``.
        """
        stem = self.conv1(x)
        x = self.maxpool(self.relu(self.bn1(stem)))
        stages = [stem]
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
            stages.append(x)
        return stages


def _plain_stem(in_channels: int) -> nn.Module:
    return nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)


def _deep_stem(in_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 128, 3, padding=1, bias=False),
    )


def kaiming(module: nn.Module) -> None:
    """Convolutions as He et al. (2015) initialise them, for ReLU."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def widen_input(weight: Tensor, in_channels: int) -> Tensor:
    """First convolution's weight for more input channels: the extra ones are zero.

    With zeros a pretrained trunk starts out blind to the masks and exact on RGB
    (CascadePSP released code).

    Args:
        weight: (out, channels, k, k).
        in_channels: at least ``channels``.
    """
    extra = in_channels - weight.shape[1]
    if extra < 0:
        raise ValueError(f"weight already has {weight.shape[1]} input channels, not {in_channels}")
    return torch.cat([weight, weight.new_zeros(len(weight), extra, *weight.shape[2:])], dim=1)
