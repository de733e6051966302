"""DeepLabv3: a trunk with dilated convolutions, then ASPP or more dilated blocks.

Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation (2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.aspp import ASPP
from crispseg.layers.blocks import conv_norm_relu, pad_to_multiple, resize
from crispseg.layers.norm import set_norm_momentum
from crispseg.models.resnet import Bottleneck, ResNet, kaiming, set_grid
from crispseg.models.segmentation import (
    ClassHead,
    ClassLogits,
    SegmentationModule,
    initialise_head,
)

Form = Literal["aspp", "cascade"]


@dataclass(frozen=True)
class AsppOptions:
    """The ASPP form (section 3.3).

    Attributes:
        channels: of each branch and of the result.
        rates: of the 3x3 convolutions at an output stride of 16; others follow from it.
        pool_crop_px: window of the image pooling in pixels of the image; None: all of it.
        dropout: after ASPP.
        extra_conv: one more 3x3 convolution before the logits (torchvision).
    """

    channels: int = 256
    rates: tuple[int, ...] = (6, 12, 18)
    pool_crop_px: int | None = None
    dropout: float = 0.1
    extra_conv: bool = False


@dataclass(frozen=True)
class CascadeOptions:
    """The cascade form (section 3.2).

    Attributes:
        last_block: 4 to 7; blocks from 5 on repeat the layout of the trunk's last, at its stride
            and each with twice the dilation of the one before.
        multi_grid: factors on the dilation of the units of blocks 5 to 7; those of block 4 are an
            argument of the trunk.
    """

    last_block: int = 7
    multi_grid: tuple[int, ...] = (1, 2, 1)


class AsppHead(nn.Module):
    """ASPP, and the 3x3 convolution after it where asked for."""

    def __init__(
        self, in_channels: int, options: AsppOptions, output_stride: int, align_corners: bool
    ) -> None:
        super().__init__()
        self.aspp = ASPP(
            in_channels,
            options.channels,
            rates=options.rates,
            output_stride=output_stride,
            pool_crop_px=options.pool_crop_px,
            dropout=options.dropout,
            align_corners=align_corners,
        )
        width = self.out_channels = options.channels
        self.extra = conv_norm_relu(width, width, 3) if options.extra_conv else nn.Identity()

    def set_output_stride(self, output_stride: int) -> None:
        """Scale the rates."""
        self.aspp.set_output_stride(output_stride)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, out_channels, h, w)."""
        return cast(Tensor, self.extra(self.aspp(features)))


class CascadeHead(nn.Module):
    """Blocks 5 to 7: three bottlenecks each, dilation doubling from block to block."""

    def __init__(self, in_channels: int, options: CascadeOptions, output_stride: int) -> None:
        super().__init__()
        if not 4 <= options.last_block <= 7:
            raise ValueError(f"last_block must be 4 to 7, not {options.last_block}")
        self.multi_grid = options.multi_grid
        self.out_channels = in_channels
        width = in_channels // Bottleneck.expansion
        for block in range(5, options.last_block + 1):
            units = [Bottleneck(in_channels, width, 1, 1) for _ in self.multi_grid]
            self.add_module(f"block{block}", nn.Sequential(*units))
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Set the dilations: block 4 has 32 / output_stride, block 5 twice that, and so on."""
        dilation = 32 // output_stride
        for block in self.children():
            dilation *= 2
            for unit, factor in zip(block.children(), self.multi_grid, strict=True):
                set_grid(unit, 1, dilation * factor)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> the same shape."""
        for block in self.children():
            features = block(features)
        return features


class DeepLabV3(SegmentationModule):
    """DeepLabv3 on any trunk.

    Args:
        trunk: its last stage feeds the head, its last but one the auxiliary head. Build it with
            the output stride of training, and with ``multi_grid`` for its last block (a ResNet).
        num_classes: number of classes.
        form: "aspp" or "cascade".
        aspp: of the ASPP form.
        cascade: of the cascade form.
        auxiliary: a second head for training, torchvision's; evaluation leaves it out.
        align_corners: of the way up to the size of the image.
        pad: pad the image with zeros, right and below, so that the cells (or with
            ``align_corners`` the points) of the last stage lie evenly over it; what was added is
            cut from the logits. Without, as torchvision does, logits of other sizes are stretched.
        norm_momentum: new batch's share in all BatchNorm statistics, trunk included (the paper's
            decay of 0.9997 is 0.0003).
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_classes: int,
        *,
        form: Form = "aspp",
        aspp: AsppOptions = AsppOptions(),
        cascade: CascadeOptions = CascadeOptions(),
        auxiliary: bool = False,
        align_corners: bool = True,
        pad: bool = True,
        norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        *_, before, deepest = cast(Sequence[int], trunk.channels)
        self.trunk = trunk
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.pad = pad
        stride = self.output_stride
        self.head: AsppHead | CascadeHead
        if form == "aspp":
            self.head = AsppHead(deepest, aspp, stride, align_corners)
        else:
            self.head = CascadeHead(deepest, cascade, stride)
        kaiming(self.head)
        self.classifier = nn.Conv2d(self.head.out_channels, num_classes, 1)
        initialise_head(self.classifier)
        self.aux_head = (
            ClassHead(before, num_classes, dropout=nn.Dropout(0.1)) if auxiliary else None
        )
        self._trained_lead_px = self._lead_px()
        set_norm_momentum(self, norm_momentum)

    @property
    def output_stride(self) -> int:
        """Pixels of the image between two of the trunk's last stage."""
        return cast(int, self.trunk.output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Run at another output stride with the same weights: denser is slower and finer.

        Strides of the trunk become dilation, and all rates are scaled (section 3.1; trained at 16,
        evaluated at 8). Objects stay where training put them: without ``align_corners`` the place
        of a cell in the image changes with the stride, and the logits are moved back.

        Raises:
            ValueError: not 4, 8, 16 or 32, or a trunk that cannot change.
        """
        change = getattr(self.trunk, "set_output_stride", None)
        if change is None:
            kind = type(self.trunk).__name__
            raise ValueError(f"the output stride of a {kind} cannot change; build another")
        change(output_stride)
        self.head.set_output_stride(self.output_stride)

    def _lead_px(self) -> float:
        """How far right of what a cell saw its logits are put.

        Cells are stretched about the middle of their ``output_stride`` pixels, but have seen what
        lies around ``first_centre``. Training makes up for this distance; at another output stride
        it is another, and ``forward`` moves the logits by the difference.
        """
        if self.align_corners:
            return 0.0
        centre = cast(float, getattr(self.trunk, "first_centre", 0.0))
        return (self.output_stride - 1) / 2 - centre

    def forward(self, image: Tensor) -> ClassLogits:
        """(N, 3, H, W) -> logits of every class at the size of the image."""
        height, width = image.shape[-2:]
        if self.pad:
            image = pad_to_multiple(image, self.output_stride, 0.0, plus=int(self.align_corners))
        *_, before, deepest = self.trunk(image)
        size = (image.shape[-2], image.shape[-1])
        logits = self.classifier(self.head(deepest))
        logits = resize(logits, size, align_corners=self.align_corners)
        logits = _moved(logits, round(self._trained_lead_px - self._lead_px()))[
            ..., :height, :width
        ]
        if self.aux_head is None or not self.training:
            return ClassLogits(logits)
        aux = resize(self.aux_head(before), size, align_corners=self.align_corners)
        return ClassLogits(logits, aux[..., :height, :width])


def _moved(x: Tensor, by_px: int) -> Tensor:
    """(N, C, H, W) moved right and down, or left and up if negative; borders are repeated."""
    if by_px == 0:
        return x
    before, after = max(by_px, 0), max(-by_px, 0)
    padded = F.pad(x, (before, after, before, after), mode="replicate")
    return padded[..., after : after + x.shape[-2], after : after + x.shape[-1]]


def deeplabv3_torchvision(depth: int, num_classes: int) -> DeepLabV3:
    """As torchvision builds it: stride 8, one more convolution, global pooling, no padding."""
    return DeepLabV3(
        ResNet(depth, output_stride=8),
        num_classes,
        aspp=AsppOptions(dropout=0.5, extra_conv=True),
        auxiliary=True,
        align_corners=False,
        pad=False,
    )
