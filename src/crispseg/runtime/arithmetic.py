"""How a compiled network computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from crispseg.runtime.rows import DirectConv, RowConv
from crispseg.runtime.winograd import WinogradConv, WinogradRowConv

WINOGRAD_CHANNELS, WINOGRAD_ROW_CHANNELS = 64, 256
"""Below that, going to planes and back costs what the fewer multiplications save."""


@dataclass(frozen=True)
class Arithmetic:
    """How a compiled network computes.

    Attributes:
        dtype: of weights and features; sums, logits and probabilities are float32.
        winograd: 3x3 convolutions with fewer multiplications, on a CPU.
        channels_last: the order in memory of the other 3x3 convolutions.
    """

    dtype: torch.dtype = torch.float32
    winograd: bool = True
    channels_last: bool = True

    def __str__(self) -> str:
        """As messages, a run's journal and the file of measurements have it."""
        name = str(self.dtype).removeprefix("torch.")
        how = "Winograd" if self.winograd else "direct"
        return f"{name}, {how}" + ("" if self.channels_last else ", channels first")

    def conv(self, conv: nn.Conv2d) -> RowConv:
        """The form of a 3x3 convolution of stride 1."""
        if self.takes_patches(conv):
            return WinogradConv(conv)
        if self.winograd and _channels(conv) >= WINOGRAD_ROW_CHANNELS:
            return WinogradRowConv(conv)
        return DirectConv(conv, channels_last=self.channels_last)

    def takes_patches(self, conv: nn.Conv2d) -> bool:
        """Whether ``conv`` makes it a WinogradConv."""
        is_exact = self.dtype is torch.float32
        return self.winograd and is_exact and _channels(conv) >= WINOGRAD_CHANNELS


def _channels(conv: nn.Conv2d) -> int:
    return min(conv.in_channels, conv.out_channels)
