"""CascadePSP's networks rewritten for inference: the same numbers with less work and memory.

Every step is exact but for float32's rounding (``tests/runtime/test_compiled.py``), but for the
last, which is left out where exactness is asked for:

* BatchNorm goes into the convolution before it; where it comes first, it is applied before the
  enlarging, at a quarter of the pixels (an affine map of a mean is the mean of affine maps).
* Only the two results that the procedure uses are computed, and what they need.
* The pyramid's bottleneck is a sum over its branches: pooled branches go through it, and through
  their own 1x1 convolution with it in one matrix, at their own few pixels.
* 1x1 convolutions come before the enlarging that follows or precedes them.
* The stem's part that sees the image runs once for an image, the part of the given mask once for
  all levels.
* 3x3 convolutions read bands of rows that are made for them (``rows.py``), in float32 on a CPU
  with a quarter of the multiplications, in 16 bits with half (``winograd.py``). Full
  resolution exists in strips only.
* The decoder runs only where the results so far leave anything open (``uncertain.py``).
"""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from crispseg.layers.blocks import resize
from crispseg.layers.pyramid import PyramidPooling
from crispseg.models.cascadepsp import CascadeModule, RefinementModule, UpBlock
from crispseg.models.cascadepsp_lite import LiteRefinementModule
from crispseg.models.resnet import Bottleneck, ResNet
from crispseg.runtime.arithmetic import Arithmetic
from crispseg.runtime.compiled_lite import LiteForm
from crispseg.runtime.fold import fold_norm, like, part_of_norm
from crispseg.runtime.residual import ResidualForm, has_bottlenecks
from crispseg.runtime.rows import PointConv, doubled, rows_of
from crispseg.runtime.uncertain import boxes_around, open_cells
from crispseg.types import Box, Size

STRIP_PX = 128
"""Rows of full resolution that exist at a time."""
STRIP_HALO = 6
"""Rows beside a strip that its four 3x3 convolutions and the enlarging look at, made even."""
HALOS = (6, 3, 1)
"""Pixels of stride 8 around a box that are computed at strides 4, 2 and 1 for its result at stride
1. Each needs that of the next and what four 3x3 convolutions and an enlarging before them reach: 5
of its own pixels, at stride 4 three of stride 8. Three do for a box's result at stride 4."""
SETTLED_LOGIT = 100.0
"""0 or 1, and so at any temperature: what stride 8 leaves of doubt there would be a haze."""


class Finals(NamedTuple):
    """What the procedure uses of a cascade: final and stride-4 logits, (N, 1, H, W) float32."""

    s1: Tensor
    s4: Tensor


class CascadeForm(Protocol):
    """A cascade ready to run."""

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """What all levels and masks share of an image (N, 3, H, W)."""

    def finals(
        self,
        shared: list[Tensor],
        seg: Tensor,
        coarse_s8: Tensor | None = None,
        coarse_s4: Tensor | None = None,
    ) -> Finals:
        """As ``CascadeModule.run_levels``; sizes are multiples of 32."""

    def __call__(self, image: Tensor, *masks: Tensor) -> Finals:
        """One image: given mask, and coarse masks that stand for the first levels' results.

        Sizes are multiples of 8.
        """


class PlainForm(nn.Module):
    """The network as it is written, in any dtype; norms stay float32."""

    def __init__(self, module: CascadeModule, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.module = module
        if dtype is not torch.float32:
            self.module = copy.deepcopy(module)
            _convert(self.module, dtype)

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """See CascadeForm."""
        return self.module.encode_image(image.to(self.dtype))

    def finals(
        self,
        shared: list[Tensor],
        seg: Tensor,
        coarse_s8: Tensor | None = None,
        coarse_s4: Tensor | None = None,
    ) -> Finals:
        """See CascadeForm."""
        given = (seg, coarse_s8, coarse_s4)
        masks = [None if mask is None else mask.to(self.dtype) for mask in given]
        logits = self.module.run_levels(shared, cast(Tensor, masks[0]), *masks[1:])
        return Finals(logits.s1.float(), logits.s4_3.float())

    def forward(self, image: Tensor, *masks: Tensor) -> Finals:
        """See CascadeForm."""
        logits = self.module(image.to(self.dtype), *(mask.to(self.dtype) for mask in masks))
        return Finals(logits.s1.float(), logits.s4_3.float())


def compile_cascade(
    module: CascadeModule, arithmetic: Arithmetic | None, *, everywhere: bool = True
) -> CascadeForm:
    """The quickest form of a network in evaluation; ``module`` stays as it is.

    A network without a compiled form runs as it is written, and so does any with None.

    Args:
        module: the network.
        arithmetic: how it computes.
        everywhere: False: on a CPU the published network is decoded only where the results so far
            leave anything open (``uncertain.py``), and not exact.
    """
    if arithmetic is None:
        return PlainForm(module)
    if is_published(module):
        return CompiledRefinement(cast(RefinementModule, module), arithmetic, everywhere).eval()
    if type(module) is LiteRefinementModule and arithmetic.dtype is torch.float32:
        return PlainForm(LiteForm(module))
    return PlainForm(module, arithmetic.dtype)


def is_published(module: nn.Module) -> bool:
    """Whether a network is the published one, on any ResNet of bottlenecks with a plain stem."""
    trunk = module.trunk if type(module) is RefinementModule else None
    return has_bottlenecks(trunk) and isinstance(cast(ResNet, trunk).conv1, nn.Conv2d)


def takes_blocks(form: CascadeForm) -> bool:
    """Whether an image may come in blocks of 2x2 pixels, (N, 12, H/2, W/2)."""
    return isinstance(form, PlainForm) and isinstance(form.module, LiteForm)


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """In place: weights in ``dtype``, but norms in float32, which mixes with any."""
    module.to(dtype)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.float()


class CompiledRefinement(nn.Module):
    """The published network."""

    def __init__(
        self, module: RefinementModule, arithmetic: Arithmetic, everywhere: bool = True
    ) -> None:
        super().__init__()
        self.dtype = arithmetic.dtype
        self.everywhere = everywhere
        self.trunk = _Trunk(cast(ResNet, module.trunk), arithmetic)
        self.context = _Context(module.pyramid, module.bottleneck)
        self.up_1 = _Up(module.up_1, arithmetic)
        self.up_2 = _Up(module.up_2, arithmetic)
        self.up_3 = _Up(module.up_3, arithmetic)
        self.head_s8 = _Head(module.head_s8)
        self.head_s4 = _Head(module.head_s4)
        self.head_s1 = _Head(module.head_s1)
        _convert(self, arithmetic.dtype)
        self.requires_grad_(False)

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """The image itself and the stem's view of it, before the masks are added."""
        image = self._place(image)
        return [image, self.trunk.stem_image(image)]

    def finals(
        self,
        shared: list[Tensor],
        seg: Tensor,
        coarse_s8: Tensor | None = None,
        coarse_s4: Tensor | None = None,
    ) -> Finals:
        """See CascadeForm; ``run_levels`` of the network as it is written says the same."""
        image, stem = shared
        full = (image.shape[-2], image.shape[-1])
        seg = self._place(seg)
        stem = stem + self.trunk.stem_seg(seg)
        if coarse_s8 is None:
            coarse_s8 = self._as_mask(self.head_s8(self._to_stride8(stem, seg, seg)[0]), full)
        if coarse_s4 is None:
            s8, s4 = self._second_level(stem, seg, coarse_s8)
            coarse_s8, coarse_s4 = self._as_mask(s8, full), self._as_mask(s4, full)
        return self._last_level(image, stem, seg, coarse_s8, coarse_s4)

    def forward(self, image: Tensor, *masks: Tensor) -> Finals:
        """See CascadeForm."""
        return self.finals(self.encode_image(image), *masks)

    def _to_stride8(self, stem: Tensor, *masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at stride 8; the stem and the first stage, which ``up_2``, ``up_1`` take in."""
        first = stem + self.trunk.stem_rest(self._place(torch.cat(masks, dim=1)))
        second, last = self.trunk(first)
        return self.context(last), first, second

    def _open_boxes(self, s8: Tensor, *masks: Tensor) -> list[Box]:
        """Where the decoder has to run, in pixels of stride 8."""
        if self.everywhere or s8.device.type != "cpu" or len(s8) > 1:
            return [Box(0, 0, *s8.shape[-2:])]
        return boxes_around(open_cells(s8, *masks))

    def _second_level(self, stem: Tensor, seg: Tensor, coarse_s8: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at strides 8 and 4; of the latter the decoder's only where stride 8 is not sure.

        The features end with this call: the last level needs their room.
        """
        x, skip = self._to_stride8(stem, coarse_s8, coarse_s8)[::2]
        s8 = self.head_s8(x)
        s4 = _as_settled(s8, 2)
        for box in self._open_boxes(s8, seg):
            self._to_stride4(x, skip, box, HALOS[1], s4)
        return s8, s4

    def _last_level(
        self, image: Tensor, stem: Tensor, seg: Tensor, coarse_s8: Tensor, coarse_s4: Tensor
    ) -> Finals:
        x, first, skip = self._to_stride8(stem, coarse_s8, coarse_s4)
        size = Size(*x.shape[-2:])
        s8 = self.head_s8(x)
        s4, s1 = _as_settled(s8, 2), _as_settled(s8, 8)
        boxes = self._open_boxes(s8, seg, coarse_s4)
        outers, middles, inners = ([b.grow(halo).clip(size) for b in boxes] for halo in HALOS)
        decoded: list[tuple[Tensor, Tensor]] = []
        for box, outer, middle in zip(boxes, outers, middles, strict=True):
            up = self._to_stride4(x, skip, box, HALOS[0], s4)
            up = self._part(up, middle.shift(-outer.y0, -outer.x0), 2)
            decoded.append((up, self._part(first, middle, 4)))
            del up
        del x, first, skip
        for box, middle, inner in zip(boxes, middles, inners, strict=True):
            up = self.up_2(*decoded.pop(0))
            up = self._part(up, inner.shift(-middle.y0, -middle.x0), 4)
            _put(self._in_strips(up, self._part(image, inner, 8)), inner, s1, box, 8)
        return Finals(s1, resize(s4, (image.shape[-2], image.shape[-1]), align_corners=False))

    def _to_stride4(self, x: Tensor, skip: Tensor, box: Box, halo: int, s4: Tensor) -> Tensor:
        """Decode a box and so many pixels of stride 8 around it; its logits go into ``s4``."""
        outer = box.grow(halo).clip(Size(*x.shape[-2:]))
        up = self.up_1(self._part(x, outer, 1), self._part(skip, outer, 2))
        _put(self.head_s4(up), outer, s4, box, 2)
        return cast(Tensor, up)

    def _part(self, x: Tensor, box: Box, scale: int) -> Tensor:
        """A box of stride 8 of what has ``scale`` times as many pixels on a side."""
        return self._place(x[..., *box.enlarge(scale).slices])

    def _in_strips(self, x: Tensor, image: Tensor) -> Tensor:
        """(N, up_channels[1], H/2, W/2) -> logits (N, 1, H, W), a strip of rows at a time."""
        height, width = image.shape[-2:]
        step = STRIP_PX if x.device.type == "cpu" else height
        logits = torch.empty(len(x), 1, height, width, device=x.device)
        for y0 in range(0, height, step):
            y1 = min(y0 + step, height)
            top, bottom = max(y0 - STRIP_HALO, 0), min(y1 + STRIP_HALO, height)
            strip = image[:, :, top:bottom]
            features = self.up_3(x[:, :, top // 2 : bottom // 2], strip)
            found = self.head_s1(torch.cat([features, strip], dim=1))
            logits[:, :, y0:y1] = found[:, :, y0 - top : y1 - top]
        return logits

    def _as_mask(self, logits: Tensor, full: tuple[int, int]) -> Tensor:
        return torch.tanh(resize(logits.float(), full, align_corners=False))

    def _place(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last)


def _as_settled(logits: Tensor, scale: int) -> Tensor:
    """Logits enlarged, and all of them sure; it is kept where nothing is open."""
    height, width = logits.shape[-2:]
    large = resize(logits.float(), (scale * height, scale * width), align_corners=False)
    return torch.where(large > 0, SETTLED_LOGIT, -SETTLED_LOGIT)


def _put(logits: Tensor, outer: Box, into: Tensor, box: Box, scale: int) -> None:
    """What was found for a box, in place; both boxes are of stride 8, ``outer`` is around it."""
    inside = box.shift(-outer.y0, -outer.x0).enlarge(scale)
    into[..., *box.enlarge(scale).slices] = logits[..., *inside.slices]


class _Trunk(nn.Module):
    """ResNet whose stem is split by input: image, given mask, the masks that change."""

    def __init__(self, trunk: ResNet, arithmetic: Arithmetic) -> None:
        super().__init__()
        stem = cast(nn.Conv2d, trunk.conv1)
        weight = stem.weight.detach()
        self.stem_image = like(stem, weight[:, :3], None)
        self.stem_seg = like(stem, weight[:, 3:4], None)
        self.stem_rest = like(stem, weight[:, 4:], None)
        self.norm = part_of_norm(trunk.bn1, slice(None))
        self.maxpool = trunk.maxpool
        layers = [trunk.get_submodule(f"layer{i}") for i in (1, 2, 3, 4)]
        first, *rest = (
            [ResidualForm(cast(Bottleneck, block), arithmetic) for block in layer.children()]
            for layer in layers
        )
        self.first = nn.Sequential(*first)
        self.rest = nn.Sequential(*(block for blocks in rest for block in blocks))

    def forward(self, stem: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 64, H/2, W/2) before its norm -> the first stage (H/4) and the last (H/8)."""
        x = self.maxpool(self.norm(stem)).relu_()  # a maximum of ReLUs is the ReLU of the maximum
        first = self.first(x)
        return first, self.rest(first)


class _Context(nn.Module):
    """Pyramid pooling and its bottleneck: a sum over the features and the pooled branches."""

    def __init__(self, pyramid: PyramidPooling, bottleneck: nn.Conv2d) -> None:
        super().__init__()
        pairs = [cast(nn.Sequential, branch) for branch in pyramid.branches]
        convs = [cast(nn.Conv2d, conv) for _, conv in pairs]
        weight, at = bottleneck.weight.detach(), 0
        self.pools = nn.ModuleList(pool for pool, _ in pairs)
        self.branches = nn.ModuleList()
        for conv in convs:
            part = weight[:, at : at + conv.out_channels, 0, 0]
            both = part @ conv.weight.detach()[:, :, 0, 0]
            self.branches.append(PointConv(like(conv, both[..., None, None], None)))
            at += conv.out_channels
        self.features = PointConv(like(bottleneck, weight[:, at:], bottleneck.bias))
        self.align_corners = pyramid.align_corners

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, pyramid_channels, h, w)."""
        out = self.features(x)
        for pool, branch in zip(self.pools, self.branches, strict=True):
            size = (x.shape[-2], x.shape[-1])
            out += resize(branch(pool(x)), size, align_corners=self.align_corners)
        return cast(Tensor, out.relu_())


class _Up(nn.Module):
    """UpBlock: enlarged features, normalised before, and the skip connection, joined in bands."""

    def __init__(self, block: UpBlock, arithmetic: Arithmetic) -> None:
        super().__init__()
        norm, _, conv1, norm1, _, conv2 = block.conv
        norm2, _, conv3, norm3, _, conv4 = block.conv2
        own = block.shortcut.in_channels
        self.norm_own = part_of_norm(cast(nn.BatchNorm2d, norm), slice(own))
        self.norm_skip = part_of_norm(cast(nn.BatchNorm2d, norm), slice(own, None))
        self.conv1 = arithmetic.conv(fold_norm(cast(nn.Conv2d, conv1), norm1))
        self.conv2 = arithmetic.conv(cast(nn.Conv2d, conv2))
        self.norm2 = part_of_norm(cast(nn.BatchNorm2d, norm2), slice(None))
        self.conv3 = arithmetic.conv(fold_norm(cast(nn.Conv2d, conv3), norm3))
        self.conv4 = arithmetic.conv(cast(nn.Conv2d, conv4))
        self.shortcut = PointConv(block.shortcut)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, channels, h, w), (N, skip_channels, 2h, 2w) -> (N, out_channels, 2h, 2w)."""
        out = self._joined(x, skip)
        size = (out.shape[-2], out.shape[-1])
        inner = self.conv3.from_rows(
            lambda y0, y1: self.norm2(out[:, :, y0:y1]).relu_(), out, size, relu=True
        )
        return self.conv4.from_rows(rows_of(inner), out, size, into=out)

    def _joined(self, x: Tensor, skip: Tensor) -> Tensor:
        """The first residual block; the large things it needs are gone when it returns."""
        size = (2 * x.shape[-2], 2 * x.shape[-1])
        own = self.norm_own(x)

        def rows(y0: int, y1: int) -> Tensor:
            beside = self.norm_skip(skip[:, :, y0:y1])
            return torch.cat([doubled(own, y0, y1), beside], dim=1).relu_()

        inner = self.conv1.from_rows(rows, x, size, relu=True)
        short = self.shortcut(x)
        return self.conv2.from_rows(
            rows_of(inner), x, size, add=lambda y0, y1: doubled(short, y0, y1)
        )


class _Head(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        first, _, last = cast(nn.Sequential, head)
        self.first, self.last = PointConv(cast(nn.Conv2d, first)), PointConv(cast(nn.Conv2d, last))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.first(x, relu=True)))
