"""Fully convolutional networks: the baselines that the papers compare with.

Long et al., Fully Convolutional Networks for Semantic Segmentation (CVPR 2015), and the dilated
form that torchvision publishes.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from crispseg.layers.blocks import resize
from crispseg.models.resnet import ResNet
from crispseg.models.segmentation import (
    ClassHead,
    ClassLogits,
    SegmentationModule,
    Trunk,
    deepest_at,
    initialise_head,
)


class FCN(SegmentationModule):
    """The dilated form: one convolutional head on the trunk's deepest stage.

    With ``ResNet(50, output_stride=8)`` it is torchvision's ``fcn_resnet50``.

    Args:
        trunk: a ``Trunk``; the auxiliary head stands on its last stage but one.
        num_classes: number of classes.
        head_channels: hidden channels of the head; a quarter of the trunk's by default.
        dropout: share of the head's values that are dropped in training.
        aux: with an auxiliary head, for training.
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_classes: int,
        *,
        head_channels: int | None = None,
        dropout: float = 0.1,
        aux: bool = True,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.num_classes = num_classes
        *_, before, deep = cast(Trunk, trunk).channels
        self.head = ClassHead(deep, num_classes, hidden=head_channels, dropout=nn.Dropout(dropout))
        self.aux_head = ClassHead(before, num_classes, dropout=nn.Dropout(dropout)) if aux else None

    def forward(self, image: Tensor) -> ClassLogits:
        """(N, 3, H, W) -> logits, and those of the auxiliary head while training."""
        size = (image.shape[-2], image.shape[-1])
        *_, before, deep = self.trunk(image)
        logits = resize(self.head(deep), size, align_corners=False)
        if self.aux_head is None or not self.training:
            return ClassLogits(logits)
        return ClassLogits(logits, resize(self.aux_head(before), size, align_corners=False))


class FCN8s(SegmentationModule):
    """Scores at strides 32, 16 and 8, added from coarse to fine (section 4.2).

    Upsampling is bilinear; the paper's is learnt between the scores, and starts there.

    Args:
        trunk: a ``Trunk`` with stages of strides 8, 16 and 32.
        num_classes: number of classes.

    Raises:
        ValueError: the trunk has no stage of one of these strides.
    """

    def __init__(self, trunk: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.num_classes = num_classes
        described = cast(Trunk, trunk)
        self.stages = [deepest_at(described.strides, stride) for stride in (32, 16, 8)]
        self.scores = nn.ModuleList(
            nn.Conv2d(described.channels[stage], num_classes, 1) for stage in self.stages
        )
        initialise_head(self.scores)
        for skip in self.scores[1:]:  # fine scores learn to correct the coarse one
            nn.init.zeros_(cast(nn.Conv2d, skip).weight)

    def forward(self, image: Tensor) -> ClassLogits:
        """(N, 3, H, W) -> logits; there is no auxiliary head."""
        features = self.trunk(image)
        coarse, *finer = (
            score(features[stage]) for score, stage in zip(self.scores, self.stages, strict=True)
        )
        logits: Tensor = coarse
        for skip in finer:
            logits = resize(logits, (skip.shape[-2], skip.shape[-1]), align_corners=False) + skip
        size = (image.shape[-2], image.shape[-1])
        return ClassLogits(resize(logits, size, align_corners=False))


def fcn_resnet(depth: int, num_classes: int) -> FCN:
    """Torchvision's form on a ResNet, without weights."""
    return FCN(ResNet(depth, output_stride=8), num_classes)


def fcn8s_resnet(depth: int, num_classes: int) -> FCN8s:
    """FCN-8s on a ResNet, without weights."""
    return FCN8s(ResNet(depth), num_classes)
