"""cascadepsp-lite rewritten for inference: a copy whose layers are replaced, run as it is written.

BatchNorm goes into the convolutions, and so do sums and activations, what the image adds to a level
is computed once for all levels and masks, and what a convolution joins is joined in bands that stay
in the cache. The stem works on blocks of 2x2 pixels, which the decoder takes anyway. Exact but for
float32's rounding.
"""

from __future__ import annotations

import copy
import itertools
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.blocks import pad_to_multiple
from crispseg.models.cascadepsp_lite import STRIDE, FusionBlock, LiteRefinementModule
from crispseg.models.efficientnet import (
    DepthwiseSeparable,
    EfficientNetLite,
    InvertedResidual,
    SameConv,
)
from crispseg.runtime.fold import fold_norm, like, norm_before
from crispseg.runtime.fused import FusedConv
from crispseg.runtime.rows import DirectConv, rows_of

RGB = 3


class LiteForm(LiteRefinementModule):
    """A lite network with the same results and another inside; ``module`` stays as it is.

    Where it is asked for an image (N, 3, H, W) it takes its blocks of 2x2 pixels as well,
    (N, 12, H/2, W/2) as ``pixel_unshuffle`` makes them: it needs nothing else of an image.
    """

    def __init__(self, module: LiteRefinementModule) -> None:
        nn.Module.__init__(self)  # the layers are those of another
        for name, child in copy.deepcopy(module).named_children():
            self.add_module(name, _Fusion(child) if isinstance(child, FusionBlock) else child)
        self.trunk = _Trunk(cast(EfficientNetLite, self.trunk))
        # Where the decoder reduces the trunk's features with a 1x1 convolution, their norm is part
        # of it. The other two go into padded 3x3 convolutions: zeros come after the norm, so it
        # stays.
        kept = len(self.norms) - len(self.laterals)
        for i, lateral in enumerate(self.laterals):
            norm = cast(nn.BatchNorm2d, self.norms[kept + i])
            self.laterals[i] = FusedConv(norm_before(norm, cast(nn.Conv2d, lateral)))
            self.norms[kept + i] = nn.Identity()
        for name in ("head_s8", "head_s4", "head_s1"):
            setattr(self, name, FusedConv(cast(nn.Conv2d, getattr(self, name))))
        self.eval().requires_grad_(False)

    def padded(self, image: Tensor) -> Tensor:
        """See LiteRefinementModule; ``image`` may be blocks."""
        return pad_to_multiple(image, STRIDE if image.shape[1] == RGB else STRIDE // 2, 0.0)

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """See LiteRefinementModule; ``image`` may be blocks."""
        blocks = blocks_of(image) if image.shape[1] == RGB else image
        return self.encode_blocks(blocks, self.trunk(blocks))

    def mask_blocks(self, *masks: Tensor) -> Tensor:
        """See LiteRefinementModule; channels last. Two pixels side by side move as one number."""
        if masks[0].dtype is not torch.float32:
            return super().mask_blocks(*masks)
        n, _, height, width = masks[0].shape
        room = (n, height // 2, width // 2, len(masks), 2)
        blocks = torch.empty(room, dtype=torch.int64, device=masks[0].device)
        for i, mask in enumerate(masks):
            pairs = mask.contiguous().view(torch.int64).view(n, height // 2, 2, width // 2)
            blocks[..., i, :] = pairs.transpose(2, 3)
        return blocks.view(torch.float32).flatten(3).permute(0, 3, 1, 2)


def blocks_of(image: Tensor) -> Tensor:
    """(N, C, H, W), even sizes -> (N, 4 C, H/2, W/2), channels last: 2x2 pixels as channels."""
    return F.pixel_unshuffle(image, 2).contiguous(memory_format=torch.channels_last)


class _Trunk(nn.Module):
    """EfficientNetLite of output stride 32 on blocks of 2x2 pixels, of even sizes all the way."""

    def __init__(self, trunk: EfficientNetLite) -> None:
        super().__init__()
        self.stem = FusedConv(_on_blocks(fold_norm(trunk.conv_stem, trunk.bn1)), "relu6")
        stages: list[nn.Module] = []
        for stage in trunk.blocks:
            blocks = list(cast(nn.Sequential, stage))
            stages.append(nn.Sequential(*(_block(block) for block in blocks)))
        self.stages = nn.ModuleList(stages)

    def forward(self, blocks: Tensor) -> list[Tensor]:
        """(N, 12, H/2, W/2) -> features, one a stage, as EfficientNetLite has them."""
        x = self.stem(F.pad(blocks, (0, 1, 0, 1)))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class _Inverted(nn.Module):
    """InvertedResidual in three passes over the features."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self.expand = FusedConv(fold_norm(block.conv_pw, block.bn1), "relu6")
        self.depthwise = FusedConv(_padded_alike(block.conv_dw, block.bn2), "relu6")
        self.project = FusedConv(fold_norm(block.conv_pwl, block.bn3))
        self.has_shortcut = block.has_shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, H / stride, W / stride)."""
        out = self.project(self.depthwise(self.expand(x)))
        return cast(Tensor, out.add_(x) if self.has_shortcut else out)


def _block(block: nn.Module) -> nn.Module:
    if isinstance(block, InvertedResidual):
        return _Inverted(block)
    first = cast(DepthwiseSeparable, block)
    return nn.Sequential(
        FusedConv(_padded_alike(first.conv_dw, first.bn1), "relu6"),
        FusedConv(fold_norm(first.conv_pw, first.bn2)),
    )


def _on_blocks(stem: nn.Conv2d) -> nn.Conv2d:
    """The stem, 3x3 of stride 2 from the even pixels on, as one 2x2 on blocks of 2x2 pixels."""
    weight = stem.weight.detach()
    out, channels = weight.shape[:2]
    # (out, channels, row and column in the block, row and column of blocks)
    new = weight.new_zeros(out, channels, 2, 2, 2, 2)
    for y, x in itertools.product(range(3), repeat=2):
        new[:, :, y % 2, x % 2, y // 2, x // 2] = weight[:, :, y, x]
    conv = nn.Conv2d(4 * channels, out, 2)
    conv.weight = nn.Parameter(new.reshape(out, 4 * channels, 2, 2))
    conv.bias = stem.bias
    return conv


def _padded_alike(conv: SameConv, norm: nn.Module) -> nn.Conv2d:
    """A convolution that needs as many zeros on all sides, with the same results on even sizes.

    A stride of 2 asks for one more behind than before; a kernel with one more column and row of
    zeros before asks for as many.
    """
    folded = fold_norm(conv, norm)
    weight, padding = folded.weight.detach(), conv.after
    if not conv.even:
        weight = F.pad(weight, (1, 0, 1, 0))
    new = nn.Conv2d(conv.in_channels, conv.out_channels, weight.shape[-1], groups=conv.groups)
    new.stride, new.padding, new.dilation = conv.stride, (padding, padding), conv.dilation
    new.weight, new.bias = nn.Parameter(weight), folded.bias
    return new


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
