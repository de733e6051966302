"""Convolutions that work on bands of rows: what they read is made a band at a time.

A decoder's 3x3 convolution reads a large feature map that was enlarged, normalised and joined with
another. Made for the whole image, that input is the largest thing in memory, is written once, and
is read once. Here the convolution asks for the rows it needs (``Rows``), and forgets them.

Feature maps are (N, C, H, W) in channels-last order; the zero padding of a convolution lies around
the whole image, never around a band, so that the bands change nothing but memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.runtime.fused import convolve, fuses

Rows = Callable[[int, int], Tensor]
"""``rows(y0, y1)``: rows y0 <= y < y1 of a feature map, (N, C, y1 - y0, W)."""

BAND_BYTES = 24 << 20
"""What a band of a direct convolution's input takes at most on a CPU, where it has more rows than
one."""


def rows_of(x: Tensor) -> Rows:
    """The rows of a feature map that is there."""
    return lambda y0, y1: x[:, :, y0:y1]


def doubled(x: Tensor, y0: int, y1: int) -> Tensor:
    """Rows of ``x`` enlarged by two, bilinearly (align_corners=False).

    Args:
        x: (N, C, h, w).
        y0: first row wanted, of 2 h.
        y1: behind the last row wanted.

    Returns:
        (N, C, y1 - y0, 2 w), to the bit what enlarging all of ``x`` gives.
    """
    top, bottom = max(y0 // 2 - 1, 0), min(-(-y1 // 2) + 1, x.shape[-2])
    part = x[:, :, top:bottom]
    size = (2 * part.shape[-2], 2 * part.shape[-1])
    large = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
    return large[:, :, y0 - 2 * top : y1 - 2 * top]


def own(weight: Tensor | None) -> nn.Parameter | None:
    """A parameter of its own, on the same numbers: converting it leaves the other as it is."""
    return None if weight is None else nn.Parameter(weight.detach(), requires_grad=False)


class RowConv(nn.Module):
    """A 3x3 convolution of stride 1 with as much padding as dilation, and a ReLU if wanted.

    Subclasses say how a band is computed, and how many rows a band has.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.channels, self.out_channels = conv.in_channels, conv.out_channels
        self.dilation = cast(tuple[int, int], conv.dilation)[0]

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, H, W)."""
        return self.from_rows(rows_of(x), x, (x.shape[-2], x.shape[-1]), relu=relu)

    def from_rows(
        self,
        rows: Rows,
        like: Tensor,
        size: tuple[int, int],
        *,
        relu: bool = False,
        add: Rows | None = None,
        into: Tensor | None = None,
    ) -> Tensor:
        """Convolve what ``rows`` makes.

        Args:
            rows: makes bands of the input, (N, channels, ., W).
            like: any tensor of the same batch, dtype and device.
            size: (H, W) of the input.
            relu: end with a ReLU.
            add: makes bands of what is added before the ReLU, (N, out_channels, ., W).
            into: is added to, in place, and returned; ``rows`` must not read it.

        Returns:
            (N, out_channels, H, W), channels last.
        """
        height, width = size
        shape = (len(like), self.out_channels, height, width)
        out = into
        if out is None:
            out = torch.empty(
                shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
            )
        step = self.band_height(like, size)
        room = self.room(like, size)
        for y0 in range(0, height, step):
            y1 = min(y0 + step, height)
            above, below = y0 - self.dilation, y1 + self.dilation
            top, bottom = max(above, 0), min(below, height)
            band = self.convolve(rows(top, bottom), top - above, below - bottom, room)
            if add:
                band += add(y0, y1)
            if into is not None:
                into[:, :, y0:y1] += band
            else:
                out[:, :, y0:y1] = band.relu_() if relu else band
        return out

    def band_height(self, like: Tensor, size: tuple[int, int]) -> int:
        """How many rows to compute at a time."""
        raise NotImplementedError

    def room(self, like: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """What all bands pass through, if anything: made anew, memory would have to be found."""
        return []

    def convolve(self, band: Tensor, above: int, below: int, room: list[Tensor]) -> Tensor:
        """One band.

        Args:
            band: (N, channels, h, W) the input.
            above: rows of zeros above it.
            below: rows of zeros below it.
            room: as ``room`` makes it.

        Returns:
            (N, out_channels, above + h + below - 2 * dilation, W), the caller's to change until
            the next band.
        """
        raise NotImplementedError


class DirectConv(RowConv):
    """The library's own convolution."""

    def __init__(self, conv: nn.Conv2d, *, channels_last: bool = True) -> None:
        super().__init__(conv)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        weight = conv.weight.detach().contiguous(memory_format=self.format)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = own(conv.bias)

    def from_rows(
        self,
        rows: Rows,
        like: Tensor,
        size: tuple[int, int],
        *,
        relu: bool = False,
        add: Rows | None = None,
        into: Tensor | None = None,
    ) -> Tensor:
        """See RowConv; where there is but one band, the library adds and ends with a ReLU too."""
        height, sums = size[0], [s for s in (add, into) if s is not None]
        is_last = self.format is torch.channels_last
        is_whole = self.band_height(like, size) >= height
        if len(sums) > 1 or not (is_last and is_whole and fuses(like)):
            return super().from_rows(rows, like, size, relu=relu, add=add, into=into)
        return convolve(
            rows(0, height),
            self.weight,
            self.bias,
            padding=self.dilation,
            dilation=self.dilation,
            activation="relu" if relu else "none",
            add=add(0, height) if add else into,
            in_place=into is not None,
        )

    def band_height(self, like: Tensor, size: tuple[int, int]) -> int:
        """See RowConv. Anywhere but on a CPU all rows: bands would only keep a GPU waiting."""
        if like.device.type != "cpu":
            return size[0]
        row_bytes = len(like) * self.channels * size[1] * like.element_size()
        return max(16, BAND_BYTES // row_bytes)

    def convolve(self, band: Tensor, above: int, below: int, room: list[Tensor]) -> Tensor:
        """See RowConv."""
        pad, rows = self.dilation, above + band.shape[-2] + below - 2 * self.dilation
        band = band.contiguous(memory_format=self.format)
        if above == below == 0:
            return F.conv2d(band, self.weight, self.bias, 1, (0, pad), pad)
        # Padded on both sides: a copy with zeros would cost more than a few rows too many.
        out = F.conv2d(band, self.weight, self.bias, 1, pad, pad)
        return out[:, :, pad - above : pad - above + rows]


class PointConv(nn.Module):
    """A 1x1 convolution as one matrix product over all pixels, and a ReLU if wanted.

    In 16 bits it is the library's convolution, which adds the bias on the way.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride = cast(tuple[int, int], conv.stride)[0]
        weight = conv.weight.detach()[:, :, 0, 0].contiguous()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = own(conv.bias)

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, H / stride, W / stride)."""
        if x.dtype is not torch.float32:
            out = F.conv2d(x, self.weight[:, :, None, None], self.bias, self.stride)
            return out.relu_() if relu else out
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        out = F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)
        return out.relu_() if relu else out
