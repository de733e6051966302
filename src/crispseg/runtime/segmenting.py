"""PSPNet and DeepLabv3 rewritten for inference: the same class logits with less work and memory.

Every step is exact but for rounding (``tests/runtime/test_segmentation_form.py``):

* BatchNorm goes into the convolution before it; the auxiliary head is gone.
* What joins branches is a sum over the branches: no concatenated map is made, and what was pooled
  stays at its own few pixels. For PSPNet's 3x3 convolution over enlarged grids that is a product
  of three small matrices for each channel (``_GridHead``): half of the head's work.
* A convolution with a large dilation is a plain one on every phase of the map (``dilated.py``).
* Logits stay at the trunk's stride; ``labels`` enlarges some rows, takes the likeliest class and
  forgets them.

The pieces are those of the compiled cascade (``compiled.py``, ``winograd.py``).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, cast
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.blocks import pad_to_multiple, resize
from crispseg.layers.pyramid import PyramidPooling
from crispseg.models.deeplabv3 import AsppHead, DeepLabV3
from crispseg.models.pspnet import PSPNet
from crispseg.models.resnet import Bottleneck, ResNet
from crispseg.models.segmentation import SegmentationModule
from crispseg.runtime.arithmetic import Arithmetic
from crispseg.runtime.dilated import AsppForm
from crispseg.runtime.fold import fold_norm, like
from crispseg.runtime.graphs import Graphed
from crispseg.runtime.residual import ResidualForm, has_bottlenecks
from crispseg.runtime.rows import PointConv

STRIP_ROWS = 32
"""Rows of full-size logits that exist at a time."""


class Coarse(NamedTuple):
    """Class logits as the network makes them.

    Attributes:
        logits: (N, num_classes, h, w) float32.
        size: (height, width) that they are enlarged to; larger than the image where it was padded.
        align_corners: how.
    """

    logits: Tensor
    size: tuple[int, int]
    align_corners: bool


class SegmentationForm(nn.Module):
    """A compiled network; ``forward`` gives logits at the size of the image, as the original.

    Args:
        module: the network as it is written, which answers where float16 is too small.
        arithmetic: how to compute.
    """

    def __init__(self, module: SegmentationModule, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.dtype = arithmetic.dtype
        self._written = [module] if self.dtype is torch.float16 else []  # a list: no submodule

    def _convert(self) -> None:
        for child in self.children():
            (child.blocks if isinstance(child, _Trunk) else child).to(self.dtype)

    def coarse(self, image: Tensor) -> Coarse:
        """(N, 3, H, W) float32, normalised -> logits before they are enlarged."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) float32, normalised -> (N, num_classes, H, W) float32."""
        logits, size, align = self._finite(image)
        return resize(logits, size, align_corners=align)[..., : image.shape[-2], : image.shape[-1]]

    def labels(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) float32, normalised -> (N, H, W) int64, the likeliest class; of equals one.

        Full-size logits exist for ``STRIP_ROWS`` rows at a time.
        """
        coarse = self._finite(image)
        height, width = image.shape[-2:]
        found = torch.empty(len(image), height, width, dtype=torch.int64, device=image.device)
        for y0 in range(0, height, STRIP_ROWS):
            y1 = min(y0 + STRIP_ROWS, height)
            rows = _enlarged_rows(coarse, y0, y1)[..., :width]
            found[:, y0:y1] = rows.argmax(dim=1)
        return found

    @cached_property
    def _graphed(self) -> Graphed:
        coarse = WeakMethod(self.coarse)  # what is recorded goes with the network

        def run(image: Tensor) -> Coarse:
            method = coarse()
            assert method is not None
            return method(image)

        return Graphed(run)

    def _finite(self, image: Tensor) -> Coarse:
        coarse: Coarse = (self._graphed if image.is_cuda else self.coarse)(image)
        if not self._written or bool(coarse.logits.isfinite().all()):
            return coarse
        logits = self._written[0].to(image.device)(image).logits
        return Coarse(logits, (logits.shape[-2], logits.shape[-1]), coarse.align_corners)


def compile_segmentation(
    module: SegmentationModule, arithmetic: Arithmetic | None
) -> SegmentationForm | None:
    """The compiled form of a network in evaluation; ``module`` stays as it is.

    None for a network without such a form, and for no arithmetic.
    """
    if arithmetic is None or not has_compiled_form(module):
        return None
    form: SegmentationForm
    if isinstance(module, PSPNet):
        form = CompiledPSPNet(module, arithmetic)
    else:
        form = CompiledDeepLabV3(cast(DeepLabV3, module), arithmetic)
    return form.eval().requires_grad_(False)


def has_compiled_form(module: nn.Module) -> bool:
    """Whether a network is PSPNet, or DeepLabv3 with ASPP, on a ResNet of bottlenecks."""
    if not has_bottlenecks(getattr(module, "trunk", None)):
        return False
    if type(module) is PSPNet:
        return _is_reduced(module.pyramid)
    return type(module) is DeepLabV3 and isinstance(module.head, AsppHead)


def _is_reduced(pyramid: PyramidPooling) -> bool:
    return all(len(cast(nn.Sequential, branch)) == 4 for branch in pyramid.branches)


class CompiledPSPNet(SegmentationForm):
    """PSPNet: trunk, pooled grids, and the head's 3x3 convolution as a sum over them."""

    def __init__(self, module: PSPNet, arithmetic: Arithmetic) -> None:
        super().__init__(module, arithmetic)
        conv, norm, _, _, classifier = module.head
        self.trunk = _Trunk(cast(ResNet, module.trunk), arithmetic)
        self.head = _GridHead(module.pyramid, fold_norm(cast(nn.Conv2d, conv), norm), arithmetic)
        self.classifier = PointConv(cast(nn.Conv2d, classifier))
        self.align_corners = module.align_corners
        self._convert()

    def coarse(self, image: Tensor) -> Coarse:
        """See SegmentationForm."""
        size = (image.shape[-2], image.shape[-1])
        x = image.float().contiguous(memory_format=torch.channels_last)
        x = self.classifier(self.head(self.trunk(x)))
        return Coarse(x.float(), size, self.align_corners)


class CompiledDeepLabV3(SegmentationForm):
    """DeepLabv3 with ASPP."""

    def __init__(self, module: DeepLabV3, arithmetic: Arithmetic) -> None:
        super().__init__(module, arithmetic)
        head = cast(AsppHead, module.head)
        self.trunk = _Trunk(cast(ResNet, module.trunk), arithmetic)
        self.aspp = AsppForm(head.aspp, arithmetic)
        self.extra: nn.Module | None = None
        if isinstance(head.extra, nn.Sequential):
            conv, norm, _ = head.extra
            self.extra = arithmetic.conv(fold_norm(cast(nn.Conv2d, conv), norm))
        self.classifier = PointConv(module.classifier)
        self.pad, self.align_corners = module.pad, module.align_corners
        self.stride = module.output_stride
        self._convert()

    def coarse(self, image: Tensor) -> Coarse:
        """See SegmentationForm."""
        if self.pad:
            image = pad_to_multiple(image, self.stride, 0.0, plus=int(self.align_corners))
        size = (image.shape[-2], image.shape[-1])
        x = image.float().contiguous(memory_format=torch.channels_last)
        x = self.aspp(self.trunk(x))
        if self.extra is not None:
            x = self.extra(x, relu=True)
        return Coarse(self.classifier(x).float(), size, self.align_corners)


class _Trunk(nn.Module):
    """ResNet of bottlenecks, to its last stage only.

    Stem and first block stay float32: to round them, and the image, makes more than half of the
    labels that differ in 16 bits, and they are a few hundredths of the work.
    """

    def __init__(self, trunk: ResNet, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.dtype = arithmetic.dtype
        self.stem = _stem(trunk)
        self.maxpool = trunk.maxpool
        stages = (trunk.get_submodule(f"layer{i}").children() for i in (1, 2, 3, 4))
        first, *blocks = (cast(Bottleneck, block) for stage in stages for block in stage)
        self.first = ResidualForm(first, replace(arithmetic, dtype=torch.float32))
        self.blocks = nn.Sequential(*(ResidualForm(block, arithmetic) for block in blocks))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) float32 -> (N, C, H / stride, W / stride)."""
        x = self.maxpool(self.stem(image)).relu_()  # a maximum of ReLUs is the ReLU of the maximum
        return cast(Tensor, self.blocks(self.first(x).to(self.dtype)))


def _stem(trunk: ResNet) -> nn.Sequential:
    """The first convolutions with their norms in them; without the last ReLU."""
    if isinstance(trunk.conv1, nn.Conv2d):
        return nn.Sequential(fold_norm(trunk.conv1, trunk.bn1))
    layers = list(trunk.conv1.children())
    norms = [*(n for n in layers if isinstance(n, nn.BatchNorm2d)), trunk.bn1]
    convs = [c for c in layers if isinstance(c, nn.Conv2d)]
    folded: list[nn.Module] = []
    for conv, norm in zip(convs, norms, strict=True):
        folded += [fold_norm(conv, norm), nn.ReLU(inplace=True)]
    return nn.Sequential(*folded[:-1])


class _GridHead(nn.Module):
    """PSPNet's 3x3 convolution over features and enlarged grids, one part after the other.

    An enlarged grid is A g B', with the rows of A and B the weights of bilinear enlarging. A tap
    of a 3x3 convolution moves and mixes it: with the tap's weights applied to the grid, and A and
    B moved by one row, it is A g B' again. The nine taps are one product with three times the
    rows. Nothing of the size of the features is convolved.
    """

    def __init__(self, pyramid: PyramidPooling, conv: nn.Conv2d, arithmetic: Arithmetic) -> None:
        super().__init__()
        weight, at = conv.weight.detach(), 0
        self.pools, self.reductions = nn.ModuleList(), nn.ModuleList()
        self.taps = nn.ParameterList()
        for branch in pyramid.branches:
            pool, reduction, norm, _ = cast(nn.Sequential, branch)
            reduced = fold_norm(cast(nn.Conv2d, reduction), norm)
            self.pools.append(pool)
            self.reductions.append(PointConv(reduced))
            part = weight[:, at : at + reduced.out_channels].float()  # (out, in, 3, 3)
            taps = part.permute(2, 3, 0, 1).reshape(-1, reduced.out_channels).contiguous()
            self.taps.append(nn.Parameter(taps, requires_grad=False))
            at += reduced.out_channels
        self.features = arithmetic.conv(like(conv, weight[:, at:], cast(Tensor, conv.bias)))
        self.align_corners = pyramid.align_corners

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, head_channels, h, w)."""
        height, width = x.shape[-2:]
        downs, products = [], []
        for pool, reduction, taps in zip(self.pools, self.reductions, self.taps, strict=True):
            grid = reduction(pool(x), relu=True)
            n, channels, rows, columns = grid.shape
            mixed = taps @ grid.reshape(n, channels, -1)  # (n, 9 out, rows columns)
            mixed = mixed.view(n, 3, 3, -1, rows, columns).permute(0, 3, 1, 4, 2, 5)
            mixed = mixed.reshape(n, -1, 3 * rows, 3 * columns)
            across = self._moved(columns, width, x)  # (width, 3 columns)
            products.append((mixed @ across.T).permute(0, 2, 3, 1).flatten(2))
            downs.append(self._moved(rows, height, x))
        # (n, h, w out), so that it lies in memory as the features do
        pooled = torch.cat(downs, dim=1) @ torch.cat(products, dim=1)
        out = self.features(x)
        out += pooled.view(n, height, width, -1).permute(0, 3, 1, 2)
        return cast(Tensor, out.relu_())

    def _moved(self, cells: int, length: int, like: Tensor) -> Tensor:
        """(length, 3 cells): weights of enlarging, at the row above, here, below; 0 outside."""
        unit = torch.eye(cells, device=like.device).view(1, cells, cells, 1)
        weights = resize(unit, (length, 1), align_corners=self.align_corners)[0, :, :, 0].T
        padded = F.pad(weights, (0, 0, 1, 1))
        moved = [padded[tap : tap + length] for tap in range(3)]
        return torch.cat(moved, dim=1).to(like.dtype)


def _enlarged_rows(coarse: Coarse, y0: int, y1: int) -> Tensor:
    """Rows y0 <= y < y1 of the enlarged logits, (N, C, y1 - y0, width)."""
    logits, (height, width), align = coarse
    length = logits.shape[-2]
    y = torch.arange(y0, y1, device=logits.device, dtype=torch.float64)
    if align:
        source = y * ((length - 1) / max(height - 1, 1))
    else:
        source = ((y + 0.5) * (length / height) - 0.5).clamp(min=0)
    low = source.floor().long().clamp(max=length - 1)
    share = (source - low).float()[:, None]
    above, below = logits[:, :, low], logits[:, :, (low + 1).clamp(max=length - 1)]
    return resize(torch.lerp(above, below, share), (y1 - y0, width), align_corners=align)
