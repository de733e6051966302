"""Atrous spatial pyramid pooling: parallel dilated convolutions and image pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.blocks import conv_norm_relu, resize
from crispseg.layers.pyramid import AdaptivePool

REFERENCE_STRIDE = 16  # where the paper states its rates


class ImagePooling(nn.Module):
    """Mean of the whole map, or of a window of a training crop's size that slides over it.

    Args:
        crop_px: side of the window in pixels of the image; None: the whole map.
        stride: pixels of the image between two of the map.
    """

    def __init__(self, crop_px: int | None, stride: int) -> None:
        super().__init__()
        self.crop_px = crop_px
        self.stride = stride
        self.whole = AdaptivePool(1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, 1, 1), or (N, C, h - side + 1, w - side + 1)."""
        if self.crop_px is None:
            return cast(Tensor, self.whole(x))
        side = -(-self.crop_px // self.stride)
        height, width = (min(side, available) for available in x.shape[-2:])
        return F.avg_pool2d(x, (height, width), stride=1)


class ASPP(nn.Module):
    """1x1 convolution, three dilated 3x3 and image pooling in parallel, joined by a 1x1.

    Source: DeepLabv3 section 3.3. The rates belong to an output stride of 16; they double at 8 and
    halve at 32, so that each looks at the same pixels of the image.

    Args:
        in_channels: channels of the feature map.
        channels: of each branch and of the result.
        rates: dilation of the 3x3 convolutions at an output stride of 16.
        output_stride: pixels of the image between two of the feature map.
        pool_crop_px: None pools the whole map (paper, torchvision); a training crop's side in
            pixels pools windows of that size (TensorFlow's code), so that a large image meets the
            means that training has shown.
        dropout: share of the result's values that is dropped in training.
        align_corners: of the pooled window's way back to the size of the map.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        *,
        rates: Sequence[int] = (6, 12, 18),
        output_stride: int = REFERENCE_STRIDE,
        pool_crop_px: int | None = None,
        dropout: float = 0.1,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.rates = tuple(rates)
        self.align_corners = align_corners
        self.branches = nn.ModuleList(
            [
                conv_norm_relu(in_channels, channels, 1),
                *(conv_norm_relu(in_channels, channels, 3) for _ in rates),
            ]
        )
        self.pool = ImagePooling(pool_crop_px, output_stride)
        self.pooled = conv_norm_relu(in_channels, channels, 1)
        joined = channels * (len(self.branches) + 1)
        self.project = nn.Sequential(*conv_norm_relu(joined, channels, 1), nn.Dropout(dropout))
        self.out_channels = channels
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Scale the rates for another output stride; the weights stay.

        Raises:
            ValueError: a rate would not be a whole number.
        """
        scaled = [rate * REFERENCE_STRIDE / output_stride for rate in self.rates]
        if any(rate < 1 or not rate.is_integer() for rate in scaled):
            raise ValueError(f"rates {self.rates} have no whole form at stride {output_stride}")
        for branch, rate in zip(list(self.branches)[1:], scaled, strict=True):
            conv = cast(nn.Conv2d, cast(nn.Sequential, branch)[0])
            conv.dilation = conv.padding = (int(rate), int(rate))
        self.pool.stride = output_stride

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, channels, h, w)."""
        size = (features.shape[-2], features.shape[-1])
        outputs = [branch(features) for branch in self.branches]
        pooled = self.pooled(self.pool(features))
        outputs.append(resize(pooled, size, align_corners=self.align_corners))
        return cast(Tensor, self.project(torch.cat(outputs, dim=1)))
