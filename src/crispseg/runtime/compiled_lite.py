"""cascadepsp-lite rewritten for inference: a copy whose layers are replaced, run as it is written.

BatchNorm goes into the convolutions, what the image adds to a level is computed once for all levels
and masks, what a convolution joins is joined in bands that stay in the cache, and residuals are
added in place. Exact but for float32's rounding.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from crispseg.models.cascadepsp_lite import FusionBlock, LiteRefinementModule
from crispseg.runtime.fold import fold_norm, like, norm_before
from crispseg.runtime.rows import DirectConv, rows_of


def compile_lite(module: LiteRefinementModule) -> LiteRefinementModule:
    """A network with the same results and another inside; ``module`` stays as it is."""
    new = copy.deepcopy(module)
    # Where the decoder reduces the trunk's features with a 1x1 convolution, their norm is part of
    # it. The other two go into padded 3x3 convolutions: zeros come after the norm, so it stays.
    kept = len(new.norms) - len(new.laterals)
    for i, lateral in enumerate(new.laterals):
        norm = cast(nn.BatchNorm2d, new.norms[kept + i])
        new.laterals[i] = norm_before(norm, cast(nn.Conv2d, lateral))
        new.norms[kept + i] = nn.Identity()
    for name, child in new.named_children():
        if isinstance(child, FusionBlock):
            setattr(new, name, _Fusion(child))
    return new.eval().requires_grad_(False)


class _Fusion(nn.Module):
    """FusionBlock: the image's share is convolved once, the rest is joined a band at a time.

    A convolution of joined features is a sum over them, so what comes from the image alone is the
    same for every level and mask. Residuals are added in place.
    """

    def __init__(self, block: FusionBlock) -> None:
        super().__init__()
        conv = fold_norm(block.conv, block.bn)
        weight, image = conv.weight, block.image
        self.image = DirectConv(like(conv, weight[:, image], conv.bias))
        rest = torch.cat([weight[:, : image.start], weight[:, image.stop :]], dim=1)
        self.conv = DirectConv(like(conv, rest, None))
        self.firsts, self.lasts = nn.ModuleList(), nn.ModuleList()
        for residual in block.residuals:
            first, norm, _, last = cast(nn.Sequential, residual)
            self.firsts.append(DirectConv(fold_norm(cast(nn.Conv2d, first), norm)))
            self.lasts.append(DirectConv(cast(nn.Conv2d, last)))

    def of_image(self, x: Tensor) -> Tensor:
        """The image's share of the first convolution, (N, out_channels, H, W)."""
        return cast(Tensor, self.image(x))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs (N, C_i, H, W), the last but one from ``of_image`` -> (N, out_channels, H, W)."""
        *features, image, masks = inputs
        size = (masks.shape[-2], masks.shape[-1])
        # One part in another order, as pixel_unshuffle's, and cat would leave channels-last.
        parts = [x.contiguous(memory_format=torch.channels_last) for x in (*features, masks)]
        x = self.conv.from_rows(
            lambda y0, y1: torch.cat([part[:, :, y0:y1] for part in parts], dim=1),
            masks,
            size,
            relu=True,
            add=rows_of(image),
        )
        for first, last in zip(self.firsts, self.lasts, strict=True):
            inner = first(x, relu=True)
            x = cast(DirectConv, last).from_rows(rows_of(inner), x, size, into=x)
        return x
