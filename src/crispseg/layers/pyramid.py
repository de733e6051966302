"""Context modules: what a feature map looks like at several pooled resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.blocks import resize

Pooling = Literal["average", "max"]


class AdaptivePool(nn.Module):
    """Mean or maximum over a grid of ``bins`` x ``bins`` cells that may overlap by a pixel.

    Cell i of a side of n pixels is [floor(i n / bins), ceil((i + 1) n / bins)). Where PyTorch's
    own pooling takes no free size (exports, MPS), the cells are rows of a matrix that is computed
    from the size, first along the height, then along the width; results agree but for rounding.

    Args:
        bins: cells along each side.
        pooling: "average" or "max".
    """

    def __init__(self, bins: int, pooling: Pooling = "average") -> None:
        super().__init__()
        self.bins = bins
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, bins, bins)."""
        if torch.compiler.is_exporting() or x.device.type == "mps":
            return self._pool_side(self._pool_side(x, -2), -1)
        if self.pooling == "max":
            return F.adaptive_max_pool2d(x, self.bins)
        return F.adaptive_avg_pool2d(x, self.bins)

    def _pool_side(self, x: Tensor, dim: int) -> Tensor:
        """One side of ``x`` -> ``bins``; a mean over cells is the mean of means over their rows."""
        x = x.transpose(dim, -1)
        side = x.shape[-1]
        i = torch.arange(self.bins, device=x.device)[:, None]
        pixel = torch.arange(side, device=x.device)
        inside = ((pixel + 1) * self.bins > i * side) & (pixel * self.bins < (i + 1) * side)
        if self.pooling == "max":
            pooled = torch.where(inside, x[..., None, :], float("-inf")).amax(-1)
        else:
            weights = inside.to(x.dtype)
            pooled = x @ (weights / weights.sum(1, keepdim=True)).T
        return pooled.transpose(dim, -1)


class WindowPool(nn.Module):
    """Mean or maximum over neighbouring windows of a fixed size.

    The windows keep their size in pixels when the feature map grows; those at the end hold what
    is left (PSPNet's Caffe release: windows of 60, 30, 20, 10 on the 60x60 map of a 473 crop).

    Args:
        window: side of a window, in pixels of the feature map.
        pooling: "average" or "max".
    """

    def __init__(self, window: int, pooling: Pooling = "average") -> None:
        super().__init__()
        self.window = window
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / window), ceil(W / window))."""
        pool = F.max_pool2d if self.pooling == "max" else F.avg_pool2d
        return pool(x, self.window, ceil_mode=True)


class PyramidPooling(nn.Module):
    """Pyramid pooling: pool to each bin size, 1x1 convolution, upsample, concatenate.

    Source: PSPNet section 3.2, where ``branch_channels`` is in_channels / number of bin sizes,
    ``norm`` is on and corners are aligned. CascadePSP's released code has neither normalisation
    nor channel reduction nor aligned corners.

    Args:
        in_channels: channels of the feature map.
        branch_channels: channels of each pooled branch after its 1x1 convolution; None leaves the
            convolution out (PSPNet table 1, "without DR").
        bin_sizes: side of each pooled grid.
        align_corners: of the upsampling.
        pooling: "average" or "max".
        norm: BatchNorm and ReLU after each 1x1 convolution.
        windows: side of the pooling windows of each branch instead of ``bin_sizes``: the grid
            then grows with the feature map (``WindowPool``).
    """

    def __init__(
        self,
        in_channels: int,
        branch_channels: int | None,
        bin_sizes: Sequence[int] = (1, 2, 3, 6),
        *,
        align_corners: bool,
        pooling: Pooling = "average",
        norm: bool = False,
        windows: Sequence[int] = (),
    ) -> None:
        super().__init__()
        pools: list[nn.Module] = [AdaptivePool(bins, pooling) for bins in bin_sizes]
        if windows:
            pools = [WindowPool(window, pooling) for window in windows]
        self.branches = nn.ModuleList(
            nn.Sequential(pool, *_reduction(in_channels, branch_channels, norm)) for pool in pools
        )
        self.align_corners = align_corners
        self.out_channels = in_channels + (branch_channels or in_channels) * len(pools)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, out_channels, h, w): the branches, then the features."""
        size = (features.shape[-2], features.shape[-1])
        pooled = [
            resize(branch(features), size, align_corners=self.align_corners)
            for branch in self.branches
        ]
        return torch.cat([*pooled, features], dim=1)


def _reduction(in_channels: int, channels: int | None, norm: bool) -> list[nn.Module]:
    if channels is None:
        return []
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 1, bias=False)]
    if norm:
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return layers
