"""Context modules: what a feature map looks like at several pooled resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.blocks import resize


class AdaptiveAverage(nn.Module):
    """Mean over a grid of ``bins`` x ``bins`` cells that may overlap by a pixel."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, bins, bins)."""
        if x.device.type == "mps":
            # MPS pools only sizes that divide; the result is tiny, the way there and back cheap.
            return F.adaptive_avg_pool2d(x.cpu(), self.bins).to(x.device)
        return F.adaptive_avg_pool2d(x, self.bins)


class PyramidPooling(nn.Module):
    """Pyramid pooling: pool to each bin size, 1x1 convolution, upsample, concatenate.

    Source: PSPNet section 3.2; the form without normalisation and without channel reduction is
    that of CascadePSP's released code.

    Args:
        in_channels: channels of the feature map.
        branch_channels: channels of each pooled branch after its 1x1 convolution.
        bin_sizes: side of each pooled grid.
    """

    def __init__(
        self, in_channels: int, branch_channels: int, bin_sizes: Sequence[int] = (1, 2, 3, 6)
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                AdaptiveAverage(bins),
                nn.Conv2d(in_channels, branch_channels, 1, bias=False),
            )
            for bins in bin_sizes
        )
        self.out_channels = in_channels + branch_channels * len(bin_sizes)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, out_channels, h, w): the branches, then the features."""
        size = (features.shape[-2], features.shape[-1])
        pooled = [resize(branch(features), size, align_corners=False) for branch in self.branches]
        return torch.cat([*pooled, features], dim=1)
