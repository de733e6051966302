"""3x3 convolutions with fewer multiplications: a quarter of them in float32, half in 16 bits.

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016): 4x4 outputs from a 6x6 patch take 36 products a channel instead of 144. The
usual points 0, 1, -1, 2, -2 cost a digit of precision. With 0, 2/3, -2/3, 3/2, -3/2 the largest
error is below 1e-5 for outputs of variance 1 (``tests/runtime/test_winograd.py``), where the direct
convolution has 1e-6 to 8e-6, as the processor has it add; of 150 choices tried they had
the smallest (why the choice matters: Barabasz et al., "Error analysis and improving the accuracy of
Winograd convolution for deep neural networks", 2020).

For float32 (``WinogradConv``) everything is a matrix product: patches to 36 planes, planes times
weights, planes to pixels. With 16 bits that would cost too many of them: the planes are rounded.
There (``WinogradRowConv``) only rows are transformed, F(4, 3): 4 outputs from 6 inputs take 6
instead of 12 products for each of three rows, and each of 6 planes is convolved down its columns by
the library. The error is then about twice that of the direct convolution in 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.runtime.rows import RowConv, own

OUT, PATCH = 4, 6
POINTS = (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))
BAND_FLOATS = 1 << 16
"""Patches times channels of a band: its 36 planes then pass through the cache, not memory."""
LEAST_PATCHES, MOST_PATCHES = 128, 512
ROWS_FLOATS, LEAST_ROWS = 1 << 22, 8
"""Pixels times channels of a band of WinogradRowConv, and rows at least."""


@cache
def toom_cook() -> tuple[Tensor, Tensor, Tensor]:
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
    return a, g, b


def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """``toom_cook`` with rows of the input's matrix of about one size; times powers of two."""
    a, g, b = toom_cook()
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

    def convolve(self, band: Tensor, above: int, below: int, room: list[Tensor]) -> Tensor:
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


class WinogradRowConv(RowConv):
    """A 3x3 convolution of stride 1 and any dilation, as F(4, 3) along rows; for 16 bits on a CPU.

    Transforms are sums in float32; planes and weights are rounded once.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        output, weight, _ = toom_cook()
        kernels = conv.weight.detach()  # (out, in, 3, 3)
        self.weights = nn.ParameterList()
        for point in range(PATCH):
            kernel = torch.einsum("oiyx,x->oiy", kernels.double(), weight[point])[..., None]
            kernel = kernel.float().contiguous(memory_format=torch.channels_last)
            self.weights.append(nn.Parameter(kernel, requires_grad=False))
        self.biases = nn.ParameterList()
        if conv.bias is not None:  # planes of which every output is 1: the library adds them
            ones = torch.linalg.pinv(output) @ torch.ones(OUT, dtype=torch.float64)
            for share in ones:
                bias = (share * conv.bias.detach().double()).float()
                self.biases.append(nn.Parameter(bias, requires_grad=False))

    def band_height(self, like: Tensor, size: tuple[int, int]) -> int:
        """See RowConv."""
        row = len(like) * size[1] * max(self.channels, self.out_channels)
        return min(max(ROWS_FLOATS // row, LEAST_ROWS, 2 * self.dilation), size[0])

    def room(self, like: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """See RowConv.

        Returns:
            The band with zeros around it, in groups of 4 pixels of every phase of a row; two sums
            of its pixels; one plane, rounded; six convolved planes; the pixels that they give.
        """
        step, rows = self.dilation, self.band_height(like, size)
        across, height = -(-size[1] // (OUT * step)), rows + 2 * step
        patches = (len(like), height, across, step, self.channels)
        found = (len(like), rows, across, step, self.out_channels)
        return [
            like.new_zeros(*patches[:2], OUT * across + 2, *patches[3:], dtype=torch.float32),
            like.new_empty(2, *patches, dtype=torch.float32),
            like.new_empty(patches),
            like.new_empty(PATCH, *found, dtype=torch.float32),
            like.new_empty(*found[:3], OUT, *found[3:]),
        ]

    def convolve(self, band: Tensor, above: int, below: int, room: list[Tensor]) -> Tensor:
        """See RowConv."""
        height = above + band.shape[2] + below
        rows = height - 2 * self.dilation
        padded, sums, rounded = room[0][:, :height], room[1][:, :, :height], room[2][:, :height]
        found, out = room[3][:, :, :rows], room[4][:, :rows]
        padded[:, :above] = padded[:, height - below :] = 0
        inside = padded.flatten(2, 3)[:, above : height - below]
        inside[:, :, self.dilation : self.dilation + band.shape[3]] = band.permute(0, 2, 3, 1)
        length = padded.shape[2] - 2
        taps = [padded[:, :, i : i + length : OUT] for i in range(PATCH)]
        for i, plane in enumerate(to_planes(taps, *sums)):
            rounded.copy_(plane)
            image = rounded.flatten(2, 3).permute(0, 3, 1, 2)
            bias = self.biases[i] if self.biases else None
            pixels = F.conv2d(image, self.weights[i], bias, dilation=(self.dilation, 1))
            found[i].copy_(pixels.permute(0, 2, 3, 1).view(found[i].shape))
        for i, pixels in enumerate(to_pixels(*found)):
            out[:, :, :, i] = pixels
        return out.flatten(2, 4)[:, :, : band.shape[3]].permute(0, 3, 1, 2)


def to_planes(taps: list[Tensor], even: Tensor, odd: Tensor) -> Iterator[Tensor]:
    """Six inputs in a row to six planes, as ``toom_cook`` has them; float32.

    Points come in pairs p, -p: the plane of p is what is even in p and what is odd, that of -p the
    difference. A plane is to be used before the next is asked for.

    Args:
        taps: the inputs, of one shape.
        even: room for as much.
        odd: room for as much.
    """
    small, large = (float(p) ** 2 for p in (POINTS[1], POINTS[3]))  # their product is 1
    d0, d1, d2, d3, d4, d5 = taps
    yield torch.sub(d0, d2, alpha=small + large, out=even).add_(d4)
    for point, other in ((POINTS[1], large), (POINTS[3], small)):
        torch.sub(d4, d2, alpha=other, out=even)
        torch.sub(d3, d1, alpha=other, out=odd)
        yield even.add_(odd, alpha=float(point))
        yield even.sub_(odd, alpha=2 * float(point))
    yield torch.sub(d5, d3, alpha=small + large, out=even).add_(d1)


def to_pixels(
    first: Tensor, plus: Tensor, minus: Tensor, plus_2: Tensor, minus_2: Tensor, last: Tensor
) -> Iterator[Tensor]:
    """Six planes, in place, to four outputs in a row, as ``toom_cook`` has them; float32."""
    p, q = float(POINTS[1]), float(POINTS[3])
    odd, odd_2 = plus.sub_(minus), plus_2.sub_(minus_2)
    even, even_2 = minus.mul_(2).add_(odd), minus_2.mul_(2).add_(odd_2)
    yield first.add_(even).add_(even_2)
    yield torch.mul(odd, p, out=first).add_(odd_2, alpha=q)
    yield even.mul_(p**2).add_(even_2, alpha=q**2)
    yield last.add_(odd, alpha=p**3).add_(odd_2, alpha=q**3)
