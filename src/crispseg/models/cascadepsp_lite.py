"""CascadePSP's cascade for CPUs: the image is encoded once, only the masks go round.

The published network (Cheng et al., CVPR 2020, section 3.1) runs its whole trunk in every level of
the cascade, though the image never changes. Here the trunk sees the image alone, once; each level
is a light decoder from stride 32 to 1 that takes in the trunk's features and the three masks at
every stride. Heads, order, inputs and supervision of the cascade are the published ones.

Full resolution is never convolved: the last stage works at stride 2 on 2x2 blocks of pixels put
into channels (Shi et al., CVPR 2016), because convolutions with few channels at full resolution
cost a CPU many times their share of the arithmetic.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.blocks import pad_to_multiple, resize
from crispseg.models.cascadepsp import CascadeLogits, CascadeModule

MASKS, STRIDE = 3, 32


class FusionBlock(nn.Module):
    """Concatenate, 3x3 convolution, then residual blocks.

    Args:
        inputs: channels of what is concatenated: the decoder's own features if there are any, the
            image's (``of_image``), the masks'.
        out_channels: of the result.
        residuals: how many residual blocks.

    Attributes:
        image: which of the concatenated channels are the image's.
    """

    def __init__(self, inputs: tuple[int, ...], out_channels: int, residuals: int) -> None:
        super().__init__()
        self.image = slice(sum(inputs[:-2]), sum(inputs[:-1]))
        self.conv = nn.Conv2d(sum(inputs), out_channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.residuals = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(out_channels, out_channels, 3, padding=1),
            )
            for _ in range(residuals)
        )

    def of_image(self, x: Tensor) -> Tensor:
        """What ``forward`` is given for an image's features; a compiled form does more here."""
        return x

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs (N, C_i, H, W) -> (N, out_channels, H, W)."""
        short = [x.to(inputs[0].dtype) for x in inputs]  # under autocast only the masks are not
        x = F.relu(self.bn(self.conv(torch.cat(short, dim=1))), inplace=True)
        for residual in self.residuals:
            x = x + residual(x)
        return x


class LiteRefinementModule(CascadeModule):
    """Image encoded once; three levels of a mask decoder.

    Args:
        trunk: 3-channel network returning features; ``trunk.channels`` lists their channels. The
            first three are at strides 2, 4 and 8, the last but one at stride 16, the last at 32.
        channels: of the decoder at strides 2, 4, 8, 16, 32.
        mask_channels: of the encoded masks at strides 4, 8, 16, 32.
        lateral_channels: what the trunk's features at strides 8, 16, 32 are reduced to.
        residuals: residual blocks of the decoder at strides 2, 4, 8, 16, 32.
    """

    takes_soft = True

    def __init__(
        self,
        trunk: nn.Module,
        *,
        channels: tuple[int, int, int, int, int] = (32, 48, 64, 64, 64),
        mask_channels: tuple[int, int, int, int] = (16, 24, 32, 32),
        lateral_channels: tuple[int, int, int] = (40, 64, 64),
        residuals: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1),
    ) -> None:
        super().__init__()
        stride2, stride4, stride8, *_, stride16, stride32 = cast(tuple[int, ...], trunk.channels)
        c2, c4, c8, c16, c32 = channels
        m4, m8, m16, m32 = mask_channels
        self.trunk = trunk
        # The trunk's features are tens large where masks are one: brought to one scale, once.
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(c) for c in (stride2, stride4, stride8, stride16, stride32)
        )
        self.laterals = nn.ModuleList(
            nn.Conv2d(before, after, 1)
            for before, after in zip((stride8, stride16, stride32), lateral_channels, strict=True)
        )
        self.masks = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1)
            for before, after in zip((4 * MASKS, m4, m8, m16), mask_channels, strict=True)
        )
        l8, l16, l32 = lateral_channels
        self.fuse_32 = FusionBlock((l32, m32), c32, residuals[4])
        self.fuse_16 = FusionBlock((c32, l16, m16), c16, residuals[3])
        self.fuse_8 = FusionBlock((c16, l8, m8), c8, residuals[2])
        self.fuse_4 = FusionBlock((c8, stride4, m4), c4, residuals[1])
        self.fuse_2 = FusionBlock((c4, stride2 + 4 * 3, 4 * MASKS), c2, residuals[0])
        self.head_s8 = nn.Conv2d(c8, 1, 1)
        self.head_s4 = nn.Conv2d(c4, 1, 1)
        self.head_s1 = nn.Conv2d(c2, 4, 1)

    def forward(
        self,
        image: Tensor,
        seg: Tensor,
        coarse_s8: Tensor | None = None,
        coarse_s4: Tensor | None = None,
    ) -> CascadeLogits:
        """Run the cascade; a level whose result is given is skipped.

        Args:
            image: (N, 3, H, W) float32, normalised; any H and W, padded here to multiples of 32.
            seg: (N, 1, H, W) in [-1, 1].
            coarse_s8: (N, 1, H, W) in [-1, 1] or None: stands for the first run's result.
            coarse_s4: (N, 1, H, W) in [-1, 1] or None: stands for the second run's result.
        """
        height, width = seg.shape[-2:]
        given = (seg, coarse_s8, coarse_s4)
        masks = [None if m is None else pad_to_multiple(m, STRIDE, -1.0) for m in given]
        image = self.padded(image)
        logits = self.run_cascade(image, cast(Tensor, masks[0]), *masks[1:])
        return CascadeLogits(
            *(None if x is None else x[..., :height, :width] for x in logits)  # type: ignore[arg-type]
        )

    def padded(self, image: Tensor) -> Tensor:
        """An image of any size with zeros behind, as ``encode_image`` takes it."""
        return pad_to_multiple(image, STRIDE, 0.0)

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """What the decoder takes of the image at strides 2, 4, 8, 16, 32."""
        return self.encode_blocks(F.pixel_unshuffle(image, 2), self.trunk(image))

    def encode_blocks(self, blocks: Tensor, features: list[Tensor]) -> list[Tensor]:
        """As ``encode_image``, of the trunk's features.

        Args:
            blocks: (N, 12, H/2, W/2) the image's blocks of 2x2 pixels.
            features: what the trunk finds in it.
        """
        first, second, third, *_, fourth, last = features
        normed = [
            norm(x)
            for norm, x in zip(self.norms, (first, second, third, fourth, last), strict=True)
        ]
        deep = [lateral(x) for lateral, x in zip(self.laterals, normed[2:], strict=True)]
        shallow = torch.cat([normed[0], blocks.to(normed[0].dtype)], dim=1)
        fuses = (self.fuse_2, self.fuse_4, self.fuse_8, self.fuse_16, self.fuse_32)
        given = (shallow, normed[1], *deep)
        return [fuse.of_image(x) for fuse, x in zip(fuses, given, strict=True)]

    def mask_blocks(self, *masks: Tensor) -> Tensor:
        """Masks (N, 1, H, W) -> (N, 12, H/2, W/2), their blocks of 2x2 pixels."""
        return F.pixel_unshuffle(torch.cat(masks, dim=1), 2)

    def to_stride8(self, shared: list[Tensor], *masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Decoder down to stride 8: its output, and the encoded masks at strides 2, 4, ..., 32."""
        x = self.mask_blocks(*masks)
        encoded = [x]
        for conv in self.masks:
            x = F.relu(conv(x), inplace=True)
            encoded.append(x)
        x = self.fuse_32(shared[4], encoded[4])
        x = self._up(self.fuse_16, x, shared[3], encoded[3])
        return self._up(self.fuse_8, x, shared[2], encoded[2]), encoded

    def to_stride4(self, x: Tensor, shared: list[Tensor], skips: list[Tensor]) -> Tensor:
        """(N, c8, H/8, W/8) -> (N, c4, H/4, W/4)."""
        return self._up(self.fuse_4, x, shared[1], skips[1])

    def to_logits(self, x: Tensor, shared: list[Tensor], skips: list[Tensor]) -> Tensor:
        """(N, c4, H/4, W/4) -> (N, 1, H, W), by way of stride 2."""
        x = self._up(self.fuse_2, x, shared[0], skips[0])  # (N, c2, H/2, W/2)
        return F.pixel_shuffle(self.head_s1(x), 2)

    def _up(self, fuse: nn.Module, x: Tensor, *skips: Tensor) -> Tensor:
        x = resize(x, (2 * x.shape[-2], 2 * x.shape[-1]), align_corners=False)
        return cast(Tensor, fuse(x, *skips))
