"""An image at twice its size, bilinearly, for a network that takes blocks of 2x2 pixels.

Each pixel of the larger image is a mean of 3x3 of the smaller one, or fewer: blocks of them are a
convolution with as many outputs as a block has numbers, and the larger image is never made.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from crispseg.runtime.fused import convolve
from crispseg.types import Box

EVEN, ODD = (0.25, 0.75, 0.0), (0.0, 0.75, 0.25)
"""Pixel 2 i of the larger image from pixels i - 1, i, i + 1, and pixel 2 i + 1 of them."""
NEXT_EVEN = (0.0, 0.25, 0.75)


class DoubledImage:
    """Windows of an image at twice its size.

    Args:
        image: (1, C, h, w) float32, channels last, on a CPU.
    """

    def __init__(self, image: Tensor) -> None:
        height, width = image.shape[-2:]
        shape = (1, image.shape[1], height + 2, width + 2)
        ringed = torch.empty(shape, memory_format=torch.channels_last)
        ringed[..., 1:-1, 1:-1] = image
        ringed[..., 0, 1:-1], ringed[..., -1, 1:-1] = image[..., 0, :], image[..., -1, :]
        ringed[..., 0], ringed[..., -1] = ringed[..., 1], ringed[..., -2]
        self._ringed = ringed

    def blocks(self, box: Box) -> Tensor:
        """What ``bilinear_window`` gives of the larger image, and ``pixel_unshuffle`` of that.

        Args:
            box: inside the larger image; an odd side is made even by zeros.

        Returns:
            (1, 4 C, height / 2, width / 2) float32, rounded up, channels last.
        """
        height, width = -(-box.height // 2), -(-box.width // 2)
        y, x = box.y0 // 2, box.x0 // 2
        seen = self._ringed[..., y : y + height + 2, x : x + width + 2]
        weight = _weight(self._ringed.shape[1], box.y0 % 2, box.x0 % 2)
        found = convolve(seen, weight, None)
        if box.height % 2:  # of each channel: upper left, upper right, lower left, lower right
            found[:, 2::4, -1] = found[:, 3::4, -1] = 0
        if box.width % 2:
            found[:, 1::2, :, -1] = 0
        return found


@lru_cache
def _weight(channels: int, odd_y: int, odd_x: int) -> Tensor:
    """(4 C, C, 3, 3): blocks that begin at an even or odd row and column."""
    y, x = (torch.tensor([ODD, NEXT_EVEN] if odd else [EVEN, ODD]) for odd in (odd_y, odd_x))
    each = torch.einsum("pi,qj->pqij", y, x).reshape(4, 1, 3, 3)
    weight = torch.zeros(channels, 4, channels, 3, 3)
    for channel in range(channels):
        weight[channel, :, channel] = each[:, 0]
    whole = weight.reshape(4 * channels, channels, 3, 3)
    return whole.contiguous(memory_format=torch.channels_last)
