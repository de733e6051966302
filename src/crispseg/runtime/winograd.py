"""3x3 convolutions with a quarter of the multiplications, in float32 and as exact as usual.

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016): 4x4 outputs from a 6x6 patch take 36 products a channel instead of 144. The
usual points 0, 1, -1, 2, -2 cost a digit of precision. With 0, 2/3, -2/3, 3/2, -3/2 the largest
error is that of the direct convolution (``tests/runtime/test_winograd.py``); of 150 choices tried
they had the smallest (why the choice matters: Barabasz et al., "Error analysis and improving the
accuracy of Winograd convolution for deep neural networks", 2020).

Everything here is a matrix product: patches to 36 planes, planes times weights, planes to pixels.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import torch
from torch import Tensor, nn

from crispseg.runtime.rows import RowConv, own

OUT, PATCH = 4, 6
POINTS = (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))
BAND_FLOATS = 1 << 16
"""Patches times channels of a band: its 36 planes then pass through the cache, not memory."""
LEAST_PATCHES, MOST_PATCHES = 128, 512


@cache
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Toom and Cook's matrices for ``POINTS`` and infinity.

    Returns:
        (4, 6) of the output, (6, 3) of the weights and (6, 6) of the input, float64:
        ``y = A ((G g) * (B d))`` for a row of 4 outputs, 3 weights and 6 inputs.
    """
    output = [[p**i for p in POINTS] + [Fraction(i == OUT - 1)] for i in range(OUT)]
    weight, data = [], []
    for i, point in enumerate(POINTS):
        others = POINTS[:i] + POINTS[i + 1 :]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        weight.append([point**j / scale for j in range(3)])
        data.append([*_expand(others), Fraction(0)])
    weight.append([Fraction(0), Fraction(0), Fraction(1)])
    data.append(_expand(POINTS))
    a, g, b = (
        torch.tensor([[float(value) for value in row] for row in matrix], dtype=torch.float64)
        for matrix in (output, weight, data)
    )
    # Powers of two, exact: brings the rows of the input's matrix to one size.
    size = 2.0 ** -torch.round(torch.log2(b.abs().sum(1, keepdim=True) / 4))
    return a, g / size, b * size


def _expand(roots: tuple[Fraction, ...]) -> list[Fraction]:
    """Coefficients of the product of (x - root), the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [root * c for c in coefficients] + [Fraction(0)]
        coefficients = [s - t for s, t in zip(shifted, scaled, strict=True)]
    return coefficients


class WinogradConv(RowConv):
    """A 3x3 convolution of stride 1 and any dilation, as F(4x4, 3x3); float32 on a CPU.

    A dilated convolution is a plain one on every phase of the image, so patches of a phase are
    taken with the dilation as their step.
    """

    weight: Tensor
    to_planes: Tensor
    to_pixels: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        output, weight, data = transforms()
        kernels = conv.weight.detach().permute(2, 3, 1, 0).reshape(9, -1)
        planes = torch.empty(PATCH**2, kernels.shape[1])
        for at in range(0, kernels.shape[1], 1 << 18):  # in parts: float64 takes memory
            part = kernels[:, at : at + (1 << 18)].double()
            planes[:, at : at + (1 << 18)] = torch.kron(weight, weight) @ part
        planes = planes.view(PATCH**2, self.channels, self.out_channels)
        self.register_buffer("weight", planes)
        self.register_buffer("to_planes", torch.kron(data, data).float())
        self.register_buffer("to_pixels", torch.kron(output, output).float())
        self.bias = own(conv.bias)

    def band_height(self, like: Tensor, size: tuple[int, int]) -> int:
        """See RowConv: whole rows of patches, of all phases."""
        cell = OUT * self.dilation
        across = len(like) * self.dilation**2 * -(-size[1] // cell)
        patches = min(max(BAND_FLOATS // self.channels, LEAST_PATCHES), MOST_PATCHES)
        return cell * max(1, patches // across)

    def convolve(self, band: Tensor, above: int, below: int) -> Tensor:
        """See RowConv."""
        n, channels, height, width = band.shape
        step = self.dilation
        out_height = above + height + below - 2 * step
        down, across = -(-out_height // (OUT * step)), -(-width // (OUT * step))
        padded = band.new_zeros(n, (OUT * down + 2) * step, (OUT * across + 2) * step, channels)
        padded[:, above : above + height, step : step + width] = band.permute(0, 2, 3, 1)
        batch, row, column, _ = padded.stride()
        patches = padded.as_strided(  # a patch's row and column, then which patch, which phase
            (PATCH, PATCH, n, down, step, across, step, channels),
            (
                *(step * row, step * column, batch),
                *(OUT * step * row, row, OUT * step * column, column, 1),
            ),
        )
        planes = self.to_planes @ patches.reshape(PATCH**2, -1)
        planes = torch.bmm(planes.view(PATCH**2, -1, channels), self.weight)
        pixels = self.to_pixels @ planes.view(PATCH**2, -1)
        pixels = pixels.view(OUT, OUT, n, down, step, across, step, self.out_channels)
        pixels = pixels.permute(2, 3, 0, 4, 5, 1, 6, 7)  # row = (which patch, in it, phase)
        out = pixels.reshape(n, OUT * step * down, OUT * step * across, self.out_channels)
        if self.bias is not None:
            out += self.bias
        return out[:, :out_height, :width].permute(0, 3, 1, 2)
