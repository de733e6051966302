"""The released CascadePSP package's procedure, to the digit.

Kept apart because it is there to compare with, faults included: it holds several float copies of
the whole image, and leaves out every tile that is less than 10 % or more than 90 % object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from crispseg.refiners.base import Progress, Refinement
from crispseg.refiners.network import CascadeNetwork
from crispseg.tiling.blend import RamMerger
from crispseg.tiling.grid import plan_tiles
from crispseg.tiling.sliding import TilePlan, run_tiles
from crispseg.types import Box, Image, InputError, Mask, Size

Array = NDArray[np.float32]

CHIP_PX = 16
SKIP_BELOW, SKIP_ABOVE = 0.1, 0.9


def refine_published(
    network: CascadeNetwork,
    image: Image,
    given: Mask,
    *,
    tile_size: int,
    fast: bool,
    batch_size: int,
    progress: Progress | None,
) -> Refinement:
    """Refine as ``segmentation-refinement`` 0.6 does with ``L=tile_size``.

    Args:
        network: on its device.
        image: (H, W, 3) uint8 or uint16 RGB.
        given: (H, W) float32, 0 or 1.
        tile_size: the package's L.
        fast: global step only.
        batch_size: most tiles in one network call.
        progress: called with (network runs done, network runs in all).

    Raises:
        InputError: an image so narrow that the procedure shrinks a side to nothing.
    """
    size = Size(*given.shape)
    if min(size) * tile_size // max(size) < 1:
        raise InputError(
            f"mode published cannot refine a {size.width}x{size.height} image with tiles of "
            f"{tile_size} px: its short side would shrink to nothing; use mode default"
        )
    pixels = network.image_tensor(image, float(np.iinfo(image.dtype).max))
    seg = torch.from_numpy(given)[None, None] * 2 - 1
    small_pixels, small_seg = _to_long_side(pixels, seg, tile_size)
    [(final, stride4)] = network.probabilities([small_pixels], [[small_seg[0, 0].numpy()]])
    coarse = torch.from_numpy(np.stack([final, stride4]))[None]
    if fast:
        if progress:
            progress(1, 1)
        return Refinement(_back_to(coarse[:, :1], size, tile_size), (), 0, 1)
    enlarged = F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=False)
    hard = (enlarged[0, 0] > 0.5).float().numpy()
    return _local_step(
        network, pixels, hard, enlarged[0, 1].numpy(), tile_size, batch_size, progress
    )


def _to_long_side(pixels: Tensor, seg: Tensor, long_side: int) -> tuple[Tensor, Tensor]:
    """Area averages down; bicubic (image) and bilinear (mask) up."""
    ratio = long_side / max(pixels.shape[-2:])
    if ratio < 1:
        return (
            F.interpolate(pixels, scale_factor=ratio, mode="area"),
            F.interpolate(seg, scale_factor=ratio, mode="area"),
        )
    if ratio == 1:
        return pixels, seg
    return (
        F.interpolate(pixels, scale_factor=ratio, mode="bicubic", align_corners=False),
        F.interpolate(seg, scale_factor=ratio, mode="bilinear", align_corners=False),
    )


def _back_to(coarse: Tensor, size: Size, tile_size: int) -> Mask:
    """The package's fast mode resizes with corners aligned, its full mode without."""
    if max(size) < tile_size:
        coarse = F.interpolate(coarse, size=tuple(size), mode="area")
    elif max(size) > tile_size:
        coarse = F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=True)
    return coarse[0, 0].numpy()


def _local_step(
    network: CascadeNetwork,
    pixels: Tensor,
    hard: Array,
    stride4: Array,
    tile_size: int,
    batch_size: int,
    progress: Progress | None,
) -> Refinement:
    size = Size(*hard.shape)
    stride = tile_size // 2 - 2 * CHIP_PX
    tiles = plan_tiles(size, tile_size, tile_size - stride)
    shares = [float(hard[box.slices].mean()) for box in tiles]
    selected = [SKIP_BELOW <= share <= SKIP_ABOVE for share in shares]
    total = 1 + sum(selected)
    boxes: list[Box] = []

    def predict(batch: Sequence[Box]) -> list[Array]:
        masks = [[hard[b.slices] * 2 - 1, stride4[b.slices] * 2 - 1] for b in batch]
        crops = [pixels[:, :, b.y0 : b.y1, b.x0 : b.x1] for b in batch]
        return network.probabilities(crops, masks, channels=1)

    def on_tile(box: Box) -> None:
        boxes.append(box)
        if progress:
            progress(1 + len(boxes), total)

    merger = RamMerger(size, channels=1, fill=lambda box: hard[None, *box.slices])
    run_tiles(
        TilePlan(size, tiles, CHIP_PX, ramp_px=0),
        predict,
        merger,
        selected=selected,
        batch_size=batch_size,
        on_tile=on_tile,
    )
    return Refinement(merger.result[0], tuple(boxes), len(tiles), total)
