"""Feature pyramid network with a semantic head, on any trunk.

Lin et al., Feature Pyramid Networks (CVPR 2017); the head that adds the levels is that of
Kirillov et al., Panoptic Feature Pyramid Networks (CVPR 2019, section 3.1); the one that
concatenates them is the segmentation network of MagNet (Huynh et al., CVPR 2021) on DeepGlobe.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.blocks import resize
from crispseg.models.resnet import ResNet
from crispseg.models.segmentation import ClassLogits, SegmentationModule, Trunk, deepest_at

FINEST, GROUPS = 4, 32


def _smooth(channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution, norm in the paper's 32 groups, of four channels at least, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
        nn.GroupNorm(min(GROUPS, out_channels // 4), out_channels),
        nn.ReLU(inplace=True),
    )


class FPN(SegmentationModule):
    """Top-down pyramid over the trunk's strides from 4 on, merged at stride 4.

    "sum": a level at stride s has one smoothing convolution for each doubling up to stride 4, at
    least one, each followed by bilinear upsampling to the next level's size; the levels are
    added and classified by a 1x1 convolution. "concat": every level has two, is upsampled once,
    and a 3x3 convolution classifies the levels side by side.

    Args:
        trunk: a ``Trunk`` with a stage of stride 4; of the stages of one stride, the deepest.
        num_classes: number of classes.
        channels: of the pyramid; a multiple of 4, above 128 of 32.
        branch_channels: of every level where they are merged; likewise.
        merge: "sum" or "concat".
        lateral_norm: BatchNorm after the lateral convolutions, for a trunk whose stages are of
            different scales (EfficientNetLite); the papers have none.

    Raises:
        ValueError: the trunk has no stage of stride 4.
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_classes: int,
        *,
        channels: int = 256,
        branch_channels: int = 128,
        merge: Literal["sum", "concat"] = "sum",
        lateral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.num_classes = num_classes
        self.merge = merge
        described = cast(Trunk, trunk)
        deepest_at(described.strides, FINEST)
        strides = sorted({stride for stride in described.strides if stride >= FINEST})
        self.stages = [deepest_at(described.strides, stride) for stride in strides]
        self.laterals = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(described.channels[stage], channels, 1),
                nn.BatchNorm2d(channels) if lateral_norm else nn.Identity(),
            )
            for stage in self.stages
        )
        self.branches = nn.ModuleList()
        for level in range(len(strides)):
            if merge == "concat":
                convs = [_smooth(channels, channels), _smooth(channels, branch_channels)]
            else:
                convs = [_smooth(channels, branch_channels)]
                convs += [_smooth(branch_channels, branch_channels) for _ in range(level - 1)]
            self.branches.append(nn.ModuleList(convs))
        self.head = (
            nn.Conv2d(branch_channels * len(strides), num_classes, 3, padding=1)
            if merge == "concat"
            else nn.Conv2d(branch_channels, num_classes, 1)
        )

    def forward(self, image: Tensor) -> ClassLogits:
        """(N, 3, H, W) -> logits; there is no auxiliary head."""
        pyramid = self._pyramid(self.trunk(image))
        sizes = [(x.shape[-2], x.shape[-1]) for x in pyramid]
        levels = [self._smooth_level(i, x, sizes) for i, x in enumerate(pyramid)]
        merged = torch.cat(levels, dim=1) if self.merge == "concat" else sum(levels[1:], levels[0])
        size = (image.shape[-2], image.shape[-1])
        return ClassLogits(resize(self.head(merged), size, align_corners=False))

    def _smooth_level(self, level: int, x: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """A level of the pyramid -> (N, branch_channels, *sizes[0])."""
        for done, conv in enumerate(cast(nn.ModuleList, self.branches[level]), start=1):
            x = conv(x)
            if self.merge == "sum":
                x = resize(x, sizes[max(level - done, 0)], align_corners=False)
        return resize(x, sizes[0], align_corners=False)

    def _pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """Laterals, each with the level above it added (nearest neighbour), finest first."""
        levels = [
            lateral(features[stage])
            for lateral, stage in zip(self.laterals, self.stages, strict=True)
        ]
        for i in range(len(levels) - 2, -1, -1):
            above = F.interpolate(levels[i + 1], size=levels[i].shape[-2:], mode="nearest")
            levels[i] = levels[i] + above
        return levels


def fpn_resnet(depth: int, num_classes: int) -> FPN:
    """The panoptic paper's semantic branch on a ResNet, without weights."""
    return FPN(ResNet(depth), num_classes)
