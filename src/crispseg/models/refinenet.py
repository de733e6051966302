"""RefineNet and Light-Weight RefineNet: from the deepest features up, stage by stage.

Lin et al., RefineNet (CVPR 2017); Nekrasov et al., Light-Weight RefineNet (BMVC 2018).

Score maps in the authors' code are resized as logarithms of probabilities. These differ from logits
by one value per pixel, the same for all classes, and so do both after bilinear resizing: the
probabilities are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.blocks import pad_to_multiple, resize
from crispseg.models.segmentation import (
    ClassLogits,
    SegmentationModule,
    deepest_at,
    initialise_head,
)

Order = Literal["pool-conv", "conv-pool"]
Variant = Literal["single", "2-cascaded", "4-cascaded"]
DROPPED_ABOVE = 512  # features with more channels than this get dropout


def _conv(in_channels: int, out_channels: int, kernel: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, beside the input (RefineNet section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, 3, bias=True)
        self.conv2 = _conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        return cast(Tensor, x + self.conv2(F.relu(self.conv1(F.relu(x)))))


class ChainedResidualPooling(nn.Module):
    """A chain of 5x5 max pooling and convolution, whose links are all added to the input.

    Args:
        channels: of input and output.
        links: 2 in the paper, 4 in the code.
        kernel: of the convolutions: 3, or 1 (Light-Weight RefineNet).
        order: "pool-conv" (paper, Light-Weight RefineNet) or "conv-pool" (the authors' later code).
    """

    def __init__(
        self, channels: int, links: int = 4, kernel: int = 3, order: Order = "pool-conv"
    ) -> None:
        super().__init__()
        self.links = nn.ModuleList(_conv(channels, channels, kernel) for _ in range(links))
        self.pool_first = order == "pool-conv"

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape; a ReLU comes first."""
        # With channels last a CPU pools 6 times as fast, and 20 times as fast in training.
        x = F.relu(x).contiguous(memory_format=torch.channels_last)
        path, total = x, x
        for conv in self.links:
            path = conv(_pool(path)) if self.pool_first else _pool(conv(path))
            total = total + path
        return total


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 5, stride=1, padding=2)


class MultiResolutionFusion(nn.Module):
    """A convolution on each input at its own size, then the sum at the largest."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, kernel: int, align_corners: bool
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(c, out_channels, kernel) for c in in_channels)
        self.align_corners = align_corners

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """(N, in_channels[i], H_i, W_i) each -> (N, out_channels, max H_i, max W_i)."""
        outputs = [conv(x) for conv, x in zip(self.convs, inputs, strict=True)]
        size = (max(x.shape[-2] for x in outputs), max(x.shape[-1] for x in outputs))
        resized = [resize(x, size, align_corners=self.align_corners) for x in outputs]
        return torch.stack(resized).sum(dim=0) if len(resized) > 2 else resized[0] + resized[1]


@dataclass(frozen=True)
class RefineOptions:
    """What the blocks of a RefineNet are made of.

    Attributes:
        width: channels of the blocks.
        deepest_width: channels of the path from the deepest stage; None: twice ``width``.
        kernel: of all convolutions but the classifier's and the RCUs'; 1 in the light form.
        adaptive_rcus: residual units on each path from the trunk.
        output_rcus: residual units at the end of each block.
        links: of chained residual pooling.
        order: of pooling and convolution in it.
        dropout: of trunk features with more than 512 channels.
        classifier_dropout: before the classifier.
        input_norm: BatchNorm on the trunk's features, for trunks whose stages end without one.
        std: of the initial weights; None: PyTorch's own initialisation, which the light network's
            authors train with.
    """

    width: int = 256
    deepest_width: int | None = None
    kernel: int = 3
    adaptive_rcus: int = 2
    output_rcus: int = 3
    links: int = 4
    order: Order = "pool-conv"
    dropout: float = 0.5
    classifier_dropout: float = 0.5
    input_norm: bool = False
    std: float | None = 0.01


LIGHT_WEIGHT = RefineOptions(
    kernel=1, adaptive_rcus=0, output_rcus=0, classifier_dropout=0.0, std=None
)


class RefineBlock(nn.Module):
    """One RefineNet block: paths, fusion, chained residual pooling, output units.

    Args:
        in_channels: of the trunk's features that it takes.
        widths: what each is reduced to.
        below: channels of the block below, None for the deepest.
        options: what it is made of.
        align_corners: of all resizing.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        widths: Sequence[int],
        below: int | None,
        options: RefineOptions,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels) if options.input_norm else nn.Identity(),
                nn.Dropout(options.dropout if channels > DROPPED_ABOVE else 0.0),
                _conv(channels, width, options.kernel),
                *(ResidualConvUnit(width) for _ in range(options.adaptive_rcus)),
            )
            for channels, width in zip(in_channels, widths, strict=True)
        )
        fused = [*widths] if below is None else [*widths, below]
        width = self.out_channels = min(widths)
        self.fusion = (
            MultiResolutionFusion(fused, width, options.kernel, align_corners)
            if len(fused) > 1
            else None
        )
        self.pooling = ChainedResidualPooling(width, options.links, options.kernel, options.order)
        self.output = nn.Sequential(*(ResidualConvUnit(width) for _ in range(options.output_rcus)))

    def forward(self, features: Sequence[Tensor], below: Tensor | None) -> Tensor:
        """Features (N, in_channels[i], H_i, W_i), block below -> (N, out_channels, H, W)."""
        inputs = [path(x) for path, x in zip(self.paths, features, strict=True)]
        if below is not None:
            inputs.append(below)
        x = inputs[0] if self.fusion is None else self.fusion(inputs)
        return cast(Tensor, self.output(self.pooling(x)))


class RefineNet(SegmentationModule):
    """RefineNet on any trunk, in the cascades of the paper's Table 9.

    From the trunk it takes the deepest stage of each stride from 4 on: four of a trunk with output
    stride 32, three at 16, two at 8.

    Args:
        trunk: a trunk; or several, independent ones (4-cascaded 2-scale), one for each scale.
        num_classes: number of classes.
        variant: "single": one block takes all stages; "2-cascaded": the deeper half, then the
            others; "4-cascaded": each stage has its block.
        options: what the blocks are made of.
        scales: what the image is enlarged by for each trunk. The authors' training uses (1.2,), and
            (1.2, 0.6) for the 2-scale variant.
        align_corners: of all resizing. The published networks have True. With False the image is
            padded to a multiple of the output stride, so that all stages lie evenly over it.
    """

    def __init__(
        self,
        trunk: nn.Module | Sequence[nn.Module],
        num_classes: int,
        *,
        variant: Variant = "4-cascaded",
        options: RefineOptions = RefineOptions(),
        scales: Sequence[float] = (1.0,),
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        trunks = [trunk] if isinstance(trunk, nn.Module) else [*trunk]
        if len(trunks) != len(scales):
            raise ValueError(f"{len(trunks)} trunks need as many scales, not {len(scales)}")
        self.trunk = trunks[0] if len(trunks) == 1 else nn.ModuleList(trunks)
        self.num_classes = num_classes
        self.scales = tuple(scales)
        self.align_corners = align_corners
        strides = [cast(Sequence[int], t.strides) for t in trunks]
        self.output_stride = max(strides[0])
        # For each trunk its stages, deepest first; a block is a range of these positions.
        self.stages = [
            [deepest_at(s, stride) for stride in sorted({*s}, reverse=True) if stride >= 4]
            for s in strides
        ]
        self.groups = _groups(variant, len(self.stages[0]))
        blocks = []
        below = None
        for group in self.groups:
            in_channels, widths = [], []
            for one, stages in zip(trunks, self.stages, strict=True):
                for position in group:
                    in_channels.append(cast(Sequence[int], one.channels)[stages[position]])
                    widths.append(_width(position, options))
            block = RefineBlock(in_channels, widths, below, options, align_corners)
            blocks.append(block)
            below = block.out_channels
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(options.classifier_dropout)
        self.classifier = nn.Conv2d(blocks[-1].out_channels, num_classes, 3, padding=1)
        if options.std is not None:
            initialise_head(self.blocks, options.std)
        initialise_head(self.classifier)

    def forward(self, image: Tensor) -> ClassLogits:
        """(N, 3, H, W) -> logits of every class at the size of the image."""
        height, width = image.shape[-2:]
        if not self.align_corners:
            image = pad_to_multiple(image, self.output_stride, 0.0)
        size = (image.shape[-2], image.shape[-1])
        features = self._features(image, size)
        x: Tensor | None = None
        for block, group in zip(self.blocks, self.groups, strict=True):
            x = block([stages[position] for stages in features for position in group], x)
        logits = self.classifier(self.dropout(x))
        logits = resize(logits, size, align_corners=self.align_corners)
        return ClassLogits(logits[..., :height, :width])

    def _features(self, image: Tensor, size: tuple[int, int]) -> list[list[Tensor]]:
        """Of each trunk, the stages that are used, deepest first."""
        trunks = self.trunk if isinstance(self.trunk, nn.ModuleList) else [self.trunk]
        features = []
        for trunk, scale, stages in zip(trunks, self.scales, self.stages, strict=True):
            scaled = (round(size[0] * scale), round(size[1] * scale))
            outputs = trunk(resize(image, scaled, align_corners=self.align_corners))
            features.append([outputs[index] for index in stages])
        return features


class LightWeightRefineNet(RefineNet):
    """RefineNet with 1x1 convolutions and without residual units, for CPUs.

    Args:
        trunk: a trunk.
        num_classes: number of classes.
        width: channels of the decoder.
        deepest_width: channels of the deepest path; None: twice ``width``, as published.
        input_norm: BatchNorm on the trunk's features.
        align_corners: of all resizing; published: True.
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_classes: int,
        *,
        width: int = 256,
        deepest_width: int | None = None,
        input_norm: bool = False,
        align_corners: bool = True,
    ) -> None:
        options = replace(
            LIGHT_WEIGHT, width=width, deepest_width=deepest_width, input_norm=input_norm
        )
        super().__init__(trunk, num_classes, options=options, align_corners=align_corners)


def _groups(variant: Variant, stages: int) -> list[range]:
    """Positions of the stages (0 the deepest) that each block takes, deepest block first."""
    bounds = {
        "single": [0, stages],
        "2-cascaded": [0, (stages + 1) // 2, stages],
        "4-cascaded": list(range(stages + 1)),
    }[variant]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def _width(position: int, options: RefineOptions) -> int:
    deepest = 2 * options.width if options.deepest_width is None else options.deepest_width
    return deepest if position == 0 else options.width
