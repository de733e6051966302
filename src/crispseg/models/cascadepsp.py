"""CascadePSP's refinement module (Cheng et al., CVPR 2020, section 3.1 and released code).

One network is run up to three times in a row; each run sees the image, the given mask and the
masks of the run before, and predicts at strides 8, 4 and 1.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from crispseg.layers.blocks import resize
from crispseg.layers.pyramid import PyramidPooling


class CascadeLogits(NamedTuple):
    """Logits of all runs, each resized to (N, 1, H, W); the number after "_" is the run.

    None where a run was skipped. Their order is the released code's order of supervision.
    """

    s1: Tensor
    s8_1: Tensor | None
    s4_2: Tensor | None
    s8_2: Tensor | None
    s8_3: Tensor
    s4_3: Tensor


class UpBlock(nn.Module):
    """Upsample by two and merge a skip connection: two pre-activation residual blocks.

    The first block's shortcut sees only the upsampled input, not the skip connection.
    """

    def __init__(self, channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _double_conv(channels + skip_channels, out_channels)
        self.conv2 = _double_conv(out_channels, out_channels)
        self.shortcut = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, channels, h, w), (N, skip_channels, 2h, 2w) -> (N, out_channels, 2h, 2w)."""
        x = resize(x, (2 * x.shape[-2], 2 * x.shape[-1]), align_corners=False)
        first = self.conv(torch.cat([x, skip], dim=1)) + self.shortcut(x)
        return cast(Tensor, first + self.conv2(first))


def _double_conv(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
    )


def _head(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 1, 1)
    )


class CascadeModule(nn.Module):
    """The cascade itself: which run sees which masks, and which heads speak (section 3.2).

    A network says how an image is encoded and how features go from stride to stride.

    Attributes:
        trunk: the part that may start from pretrained weights.
        head_s8: features at stride 8 -> logits.
        head_s4: features at stride 4 -> logits.
        takes_soft: whether the local step, and a second look, give it S1 as probabilities; False:
            as 0 and 1, as the released code has it.
    """

    takes_soft = False
    trunk: nn.Module
    head_s8: nn.Module
    head_s4: nn.Module

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """What all runs share of an image (N, 3, H, W)."""
        raise NotImplementedError

    def to_stride8(self, shared: list[Tensor], *masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        """One run as far as stride 8: features (N, C, H/8, W/8), and skip connections.

        Args:
            shared: from ``encode_image``.
            masks: three of (N, 1, H, W) in [-1, 1].
        """
        raise NotImplementedError

    def to_stride4(self, x: Tensor, shared: list[Tensor], skips: list[Tensor]) -> Tensor:
        """Features at stride 8 -> features at stride 4."""
        raise NotImplementedError

    def to_logits(self, x: Tensor, shared: list[Tensor], skips: list[Tensor]) -> Tensor:
        """Features at stride 4 -> logits (N, 1, H, W)."""
        raise NotImplementedError

    def run_cascade(
        self, image: Tensor, seg: Tensor, coarse_s8: Tensor | None, coarse_s4: Tensor | None
    ) -> CascadeLogits:
        """Run all levels whose result is not given.

        Args:
            image: (N, 3, H, W) float32, normalised; of a size that the network takes.
            seg: (N, 1, H, W) in [-1, 1].
            coarse_s8: (N, 1, H, W) in [-1, 1] or None: stands for the first run's result.
            coarse_s4: (N, 1, H, W) in [-1, 1] or None: stands for the second run's result.
        """
        return self.run_levels(self.encode_image(image), seg, coarse_s8, coarse_s4)

    def run_levels(
        self,
        shared: list[Tensor],
        seg: Tensor,
        coarse_s8: Tensor | None = None,
        coarse_s4: Tensor | None = None,
    ) -> CascadeLogits:
        """As ``run_cascade``, with an image that is encoded: many masks may share it."""
        full = (seg.shape[-2], seg.shape[-1])
        s8_1 = s4_2 = s8_2 = None
        if coarse_s8 is None:
            x, _ = self.to_stride8(shared, seg, seg, seg)
            s8_1 = resize(self.head_s8(x), full, align_corners=False)
            coarse_s8 = torch.tanh(s8_1)
        if coarse_s4 is None:
            x, skips = self.to_stride8(shared, seg, coarse_s8, coarse_s8)
            s8_2 = resize(self.head_s8(x), full, align_corners=False)
            x = self.to_stride4(x, shared, skips)
            s4_2 = resize(self.head_s4(x), full, align_corners=False)
            coarse_s8, coarse_s4 = torch.tanh(s8_2), torch.tanh(s4_2)
        x, skips = self.to_stride8(shared, seg, coarse_s8, coarse_s4)
        s8_3 = resize(self.head_s8(x), full, align_corners=False)
        x = self.to_stride4(x, shared, skips)
        s4_3 = resize(self.head_s4(x), full, align_corners=False)
        s1 = self.to_logits(x, shared, skips)
        return CascadeLogits(s1, s8_1, s4_2, s8_2, s8_3, s4_3)


class RefinementModule(CascadeModule):
    """CascadePSP's network on any trunk of output stride 8.

    With ``ResNet(50, in_channels=6, output_stride=8, first_dilation="one")`` and the default
    widths it is the published network, 67.68 M parameters.

    Args:
        trunk: 6-channel network returning a list of features: first a stride-2 stem, second a
            stride-4 stage, last a stride-8 stage; ``trunk.channels`` lists their channels.
        pyramid_channels: channels after the pyramid.
        up_channels: channels of the decoder at strides 4, 2 and 1.
        head_channels: hidden channels of the three heads.
    """

    def __init__(
        self,
        trunk: nn.Module,
        *,
        pyramid_channels: int = 1024,
        up_channels: tuple[int, int, int] = (512, 256, 32),
        head_channels: int = 32,
    ) -> None:
        super().__init__()
        stem, stride4, *_, deep = cast(tuple[int, ...], trunk.channels)
        self.trunk = trunk
        self.pyramid = PyramidPooling(deep, deep, align_corners=False)
        self.bottleneck = nn.Conv2d(self.pyramid.out_channels, pyramid_channels, 1)
        self.up_1 = UpBlock(pyramid_channels, stride4, up_channels[0])
        self.up_2 = UpBlock(up_channels[0], stem, up_channels[1])
        self.up_3 = UpBlock(up_channels[1], 3, up_channels[2])
        self.head_s8 = _head(pyramid_channels, head_channels)
        self.head_s4 = _head(up_channels[0], head_channels)
        self.head_s1 = _head(up_channels[2] + 3, head_channels)

    def forward(
        self,
        image: Tensor,
        seg: Tensor,
        coarse_s8: Tensor | None = None,
        coarse_s4: Tensor | None = None,
    ) -> CascadeLogits:
        """Run the cascade; a level whose result is given is skipped.

        Global step: ``forward(image, seg)``, three runs. Local step: ``forward(image, S1, S4)``,
        two runs (section 3.2; the released code's channel order).

        Args:
            image: (N, 3, H, W) float32, normalised; H and W multiples of 8.
            seg: (N, 1, H, W) in [-1, 1].
            coarse_s8: (N, 1, H, W) in [-1, 1] or None: stands for the first run's result.
            coarse_s4: (N, 1, H, W) in [-1, 1] or None: stands for the second run's result.

        Raises:
            ValueError: H or W is not a multiple of 8.
        """
        if image.shape[-2] % 8 or image.shape[-1] % 8:
            raise ValueError(f"height and width must be multiples of 8, not {image.shape[-2:]}")
        return self.run_cascade(image, seg, coarse_s8, coarse_s4)

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """The image itself: the trunk sees it together with the masks, in every run."""
        return [image]

    def to_stride8(self, shared: list[Tensor], *masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Trunk and pyramid: (N, pyramid_channels, H/8, W/8) and the trunk's features."""
        stages = self.trunk(torch.cat([*shared, *masks], dim=1))
        return torch.relu(self.bottleneck(self.pyramid(stages[-1]))), stages

    def to_stride4(self, x: Tensor, shared: list[Tensor], skips: list[Tensor]) -> Tensor:
        """(N, pyramid_channels, H/8, W/8) -> (N, up_channels[0], H/4, W/4)."""
        return cast(Tensor, self.up_1(x, skips[1]))

    def to_logits(self, x: Tensor, shared: list[Tensor], skips: list[Tensor]) -> Tensor:
        """(N, up_channels[0], H/4, W/4) -> (N, 1, H, W)."""
        image = shared[0]
        x = self.up_2(x, skips[0])  # (N, up_channels[1], H/2, W/2)
        x = self.up_3(x, image)  # (N, up_channels[2], H, W)
        return cast(Tensor, self.head_s1(torch.cat([x, image], dim=1)))
