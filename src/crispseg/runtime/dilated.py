"""ASPP rewritten for inference: convolutions with large dilations, and a sum over branches.

Every step is exact but for rounding (``tests/runtime/test_segmentation_form.py``).
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.aspp import ASPP
from crispseg.layers.blocks import resize
from crispseg.runtime.arithmetic import Arithmetic
from crispseg.runtime.fold import fold_norm, like
from crispseg.runtime.rows import PointConv, own
from crispseg.runtime.winograd import MOST_PATCHES, OUT, PATCH, WinogradConv
from crispseg.types import Box, Size

LARGE_DILATION = 8
"""From there on, patches of all phases of a row of patches no longer fit a cache."""


class AsppForm(nn.Module):
    """ASPP as a sum over its branches, the pooled one at its own size."""

    def __init__(self, aspp: ASPP, arithmetic: Arithmetic) -> None:
        super().__init__()
        project = fold_norm(cast(nn.Conv2d, aspp.project[0]), aspp.project[1])
        weight, at = project.weight.detach(), 0
        self.branches, self.joins = nn.ModuleList(), nn.ModuleList()
        for branch in (*aspp.branches, aspp.pooled):
            conv, norm, _ = cast(nn.Sequential, branch)
            folded = fold_norm(cast(nn.Conv2d, conv), norm)
            self.branches.append(_branch(folded, arithmetic))
            bias = cast(Tensor, project.bias) if at == 0 else None
            part = weight[:, at : at + folded.out_channels]
            self.joins.append(PointConv(like(project, part, bias)))
            at += folded.out_channels
        self.pool, self.align_corners = aspp.pool, aspp.align_corners

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, channels, h, w)."""
        size = (x.shape[-2], x.shape[-1])
        (first, join), *others, (branch, pooled) = zip(self.branches, self.joins, strict=True)
        out = cast(Tensor, join(first(x, relu=True)))
        for other, join in others:
            out += join(other(x, relu=True))
        out += resize(
            pooled(branch(self.pool(x), relu=True)), size, align_corners=self.align_corners
        )
        return out.relu_()


def _branch(conv: nn.Conv2d, arithmetic: Arithmetic) -> nn.Module:
    if conv.kernel_size == (1, 1):
        return PointConv(conv)
    if cast(tuple[int, int], conv.dilation)[0] < LARGE_DILATION or not arithmetic.winograd:
        return arithmetic.conv(conv)
    return PhasesConv(conv) if arithmetic.takes_patches(conv) else TapsConv(conv)


class TapsConv(nn.Module):
    """A 3x3 convolution with a large dilation: a sum of matrix products, one for each tap.

    Only where the tap lies inside the map: with rate 36 on 128x256 that is 74 % of it.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.dilation = cast(tuple[int, int], conv.dilation)[0]
        weight = conv.weight.detach().permute(2, 3, 1, 0).contiguous()
        self.taps = nn.Parameter(weight, requires_grad=False)
        self.bias = own(conv.bias)

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, H, W)."""
        height, width = x.shape[-2:]
        pixels = x.permute(0, 2, 3, 1)
        out = self._product(pixels, 1, 1).float()  # of 16 bits the sum would be rounded nine times
        if self.bias is not None:
            out += self.bias
        for i, j in ((i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)):
            down, across = (i - 1) * self.dilation, (j - 1) * self.dilation
            if abs(down) < height and abs(across) < width:
                to = Box(0, 0, height, width).shift(-down, -across).clip(Size(height, width))
                source = pixels[:, *to.shift(down, across).slices]
                out[:, *to.slices] += self._product(source, i, j)
        found = out.to(x.dtype).permute(0, 3, 1, 2)
        return found.relu_() if relu else found

    def _product(self, pixels: Tensor, i: int, j: int) -> Tensor:
        """One matrix product: of pixels with gaps, torch would make one for each row."""
        product = pixels.reshape(-1, pixels.shape[-1]) @ self.taps[i, j]
        return product.view(*pixels.shape[:-1], -1)


class PhasesConv(TapsConv):
    """A 3x3 convolution with a large dilation: every phase of the map by itself, undilated.

    On small maps, where a phase has fewer pixels than a patch, by taps instead.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        plain = like(conv, conv.weight.detach(), cast(Tensor, conv.bias))
        plain.dilation = plain.padding = (1, 1)
        self.conv = WinogradConv(plain)

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """(N, channels, H, W) -> (N, out_channels, H, W)."""
        if not self._is_worth_it(*x.shape[-2:]):
            return super().forward(x, relu=relu)
        found = self._by_phases(x)
        return found.relu_() if relu else found

    def _is_worth_it(self, height: int, width: int) -> bool:
        """Whether patches take fewer products than taps, by enough to pay for their making."""
        step = self.dilation
        taps = (height + 2 * max(height - step, 0)) * (width + 2 * max(width - step, 0))
        return PATCH**2 * step * self._patches(1, height, width) < 0.75 * taps

    def _patches(self, n: int, height: int, width: int) -> int:
        """Patches of one row of phases."""
        rows, columns = -(-height // self.dilation), -(-width // self.dilation)
        return self.dilation * n * -(-rows // OUT) * -(-columns // OUT)

    def _by_phases(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        step = self.dilation
        padded = F.pad(x, (0, -width % step, 0, -height % step)).permute(0, 2, 3, 1)
        rows, columns = padded.shape[1] // step, padded.shape[2] // step
        phases = padded.reshape(n, rows, step, columns, step, channels)
        phases = phases.permute(2, 4, 0, 1, 3, 5)  # phase down, phase across, n, rows, columns
        out = x.new_empty(step, step, n, rows, columns, self.conv.out_channels)
        group = max(1, MOST_PATCHES // self._patches(n, height, width))
        for top in range(0, step, group):
            part = phases[top : top + group]
            found = self.conv(part.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2))
            out[top : top + group] = found.permute(0, 2, 3, 1).reshape(*part.shape[:-1], -1)
        whole = out.permute(2, 3, 0, 4, 1, 5).reshape(n, rows * step, columns * step, -1)
        return whole[:, :height, :width].permute(0, 3, 1, 2)
