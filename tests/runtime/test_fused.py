"""Convolutions in one pass against the same in several, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.runtime import fused
from crispseg.runtime.fused import FusedConv, convolve
from crispseg.runtime.rows import DirectConv, rows_of

KINDS = [(1, 1, 1), (3, 1, 1), (3, 2, 1), (4, 2, 1), (3, 1, 6)]  # kernel, stride, groups


@pytest.fixture(params=[True, False], ids=["fused", "in steps"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and not fused.fuses(torch.zeros(1)):
        pytest.skip("this PyTorch has no convolution with an activation in it")
    if not request.param:
        monkeypatch.setattr(fused, "CONVOLVE", None)


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def close(found: Tensor, expected: Tensor) -> bool:
    """Within float32's rounding of sums of some tens of numbers near 1."""
    return bool((found - expected).abs().max() < 2e-5)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(("kernel", "stride", "groups"), KINDS)
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@torch.inference_mode()
def test_convolution_and_activation(
    kernel: int, stride: int, groups: int, activation: fused.Activation
) -> None:
    x, weight, bias = tensors((2, 6, 11, 14), (12, 6 // groups, kernel, kernel), (12,))
    how = {"stride": stride, "padding": 1, "groups": groups}
    found = convolve(x, weight, 3 * bias, activation=activation, **how)
    expected = F.conv2d(x.double(), weight.double(), 3 * bias.double(), **how)
    if activation != "none":
        expected = expected.clamp(0, 6 if activation == "relu6" else None)
    assert found.dtype is torch.float32
    assert close(found, expected)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("in_place", [True, False])
@torch.inference_mode()
def test_sum(in_place: bool) -> None:
    x, weight, more = tensors((1, 5, 9, 8), (7, 5, 3, 3), (1, 7, 9, 8))
    more = more.contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(x.double(), weight.double(), None, padding=1) + more.double()
    relu: fused.Activation = "none" if in_place else "relu"
    found = convolve(x, weight, None, padding=1, activation=relu, add=more, in_place=in_place)
    assert close(found, expected if in_place else expected.relu())
    assert (found.data_ptr() == more.data_ptr()) == in_place


@pytest.mark.usefixtures("_way")
@torch.inference_mode()
def test_layer_is_the_layer_that_it_copies() -> None:
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=2, dilation=2, groups=2)
    [x] = tensors((1, 6, 13, 12))
    expected = conv.double()(x.double()).clamp(0, 6)
    layer = FusedConv(conv.float(), "relu6")
    conv.weight.data.zero_()
    assert close(layer(x), expected)


@pytest.mark.parametrize("band_bytes", [1, 1 << 30])
@torch.inference_mode()
def test_one_band_is_as_many(band_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crispseg.runtime.rows.BAND_BYTES", band_bytes)
    x, add = tensors((1, 6, 40, 9), (1, 6, 40, 9))
    x, add = (t.contiguous(memory_format=torch.channels_last) for t in (x, add))
    conv = nn.Conv2d(6, 6, 3, padding=1)
    form = DirectConv(conv)
    plain = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)  # type: ignore[union-attr]
    size = (40, 9)
    assert close(form(x, relu=True), plain.relu())
    added = form.from_rows(rows_of(x), x, size, relu=True, add=rows_of(add))
    assert close(added, (plain + add).relu())
    into = add.clone(memory_format=torch.channels_last)
    found = form.from_rows(rows_of(x), x, size, into=into)
    assert found.data_ptr() == into.data_ptr()
    assert close(into, plain + add)
