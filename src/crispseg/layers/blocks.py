"""Small pieces shared by several networks: resizing with a stated grid, and padding."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear resize of (N, C, h, w) to ``size`` = (height, width).

    ``align_corners`` has no default on purpose: the papers differ, and the wrong choice shifts
    every edge by up to half a source pixel.
    """
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def pad_to_multiple(x: Tensor, multiple: int, value: float) -> Tensor:
    """Pad (N, C, H, W) on the right and bottom with ``value`` until both sides divide."""
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == 0 and right == 0:
        return x
    return F.pad(x, (0, right, 0, bottom), value=value)
