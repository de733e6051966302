"""Convolutions by bands of rows against torch's own, where bands and patches do not divide."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crispseg.runtime.rows import DirectConv, PointConv, doubled
from crispseg.runtime.winograd import (
    WinogradConv,
    WinogradRowConv,
    to_pixels,
    to_planes,
    toom_cook,
    transforms,
)

SIZES = [(1, 1), (3, 7), (13, 9), (57, 61)]


def plain(channels: int, out_channels: int, dilation: int) -> nn.Conv2d:
    torch.manual_seed(channels + dilation)
    return nn.Conv2d(channels, out_channels, 3, padding=dilation, dilation=dilation)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("form", [DirectConv, WinogradConv, WinogradRowConv])
@torch.inference_mode()
def test_same_as_the_library(form, dilation, size) -> None:
    conv = plain(5, 7, dilation)
    ours = form(conv)
    ours.band_height = lambda *_: 4 * dilation  # several bands, the last one incomplete
    x = torch.randn(2, 5, *size)
    torch.testing.assert_close(ours(x), conv(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x, relu=True), conv(x).relu(), atol=1e-5, rtol=1e-5)


def wide() -> tuple[nn.Conv2d, torch.Tensor, torch.Tensor]:
    """A layer as wide as CascadePSP's decoder, an input, the output in float64 (variance 1)."""
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 64, 3, padding=1, bias=False)
    nn.init.normal_(conv.weight, std=(2 / 9 / 256) ** 0.5)
    x = torch.randn(1, 256, 40, 40).relu().bfloat16().float()
    exact = torch.nn.functional.conv2d(x.double(), conv.weight.double(), padding=1)
    return conv, x, exact


@torch.inference_mode()
def test_winograd_in_float32_is_about_as_exact_as_the_direct_convolution() -> None:
    """The library's own errs by 1e-6 to 8e-6 at most, as the processor has it add."""
    conv, x, exact = wide()
    error = (WinogradConv(conv)(x) - exact).abs()
    assert error.max() < 2e-5
    assert error.square().mean().sqrt() < 3e-6


@torch.inference_mode()
def test_winograd_along_rows_in_bfloat16_errs_by_twice_the_direct_convolution() -> None:
    """Both round weights and outputs; it rounds planes of the input and of the output as well."""
    conv, x, exact = wide()
    direct, along = (form(conv).bfloat16() for form in (DirectConv, WinogradRowConv))
    errors = [(form(x.bfloat16()) - exact).square().mean().sqrt() for form in (direct, along)]
    assert 1.5e-3 < errors[0] < 3.5e-3
    assert errors[1] < 3 * errors[0]


def test_sums_along_rows_are_the_matrices() -> None:
    output, _, data = toom_cook()
    one = torch.eye(6, dtype=torch.float64)
    room = torch.empty(2, 6, dtype=torch.float64)
    planes = torch.stack([plane.clone() for plane in to_planes(list(one.unbind()), *room)])
    torch.testing.assert_close(planes, data)
    pixels = torch.stack([row.clone() for row in to_pixels(*one.clone().unbind())])
    torch.testing.assert_close(pixels, output)


def test_transforms_are_exact_in_float64() -> None:
    output, weight, data = transforms()
    signal, kernel = torch.randn(6, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    expected = torch.stack([(signal[i : i + 3] * kernel).sum() for i in range(4)])
    torch.testing.assert_close(output @ ((weight @ kernel) * (data @ signal)), expected)


@torch.inference_mode()
def test_rows_and_what_is_added() -> None:
    """A band's zeros lie around the image, not around the band."""
    conv = plain(6, 8, 1)
    low, more = torch.randn(1, 6, 9, 11), torch.randn(1, 8, 18, 22)
    large = nn.functional.interpolate(low, size=(18, 22), mode="bilinear", align_corners=False)
    expected = (conv(large.relu()) + more).relu()
    for form in (DirectConv, WinogradConv, WinogradRowConv):
        ours = form(conv)
        ours.band_height = lambda *_: 8
        found = ours.from_rows(
            lambda a, b: doubled(low, a, b).relu(),
            low,
            (18, 22),
            relu=True,
            add=lambda a, b: more[:, :, a:b],
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_doubled_rows_are_the_whole_doubled() -> None:
    x = torch.randn(1, 3, 7, 5).contiguous(memory_format=torch.channels_last)
    whole = nn.functional.interpolate(x, size=(14, 10), mode="bilinear", align_corners=False)
    for y0 in range(14):
        for y1 in range(y0 + 1, 15):
            assert torch.equal(doubled(x, y0, y1), whole[:, :, y0:y1])


@pytest.mark.parametrize("stride", [1, 2])
@torch.inference_mode()
def test_point_convolution(stride) -> None:
    conv = nn.Conv2d(6, 4, 1, stride)
    x = torch.randn(2, 6, 9, 7)
    torch.testing.assert_close(PointConv(conv)(x), conv(x))
    torch.testing.assert_close(PointConv(conv)(x, relu=True), conv(x).relu())
