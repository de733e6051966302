"""ASPP against a loop over its branches, and frozen norms against BatchNorm in evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crispseg.layers.aspp import ASPP
from crispseg.layers.norm import FrozenNorm, freeze_norms, set_norm_momentum


def dilated(x: torch.Tensor, weight: torch.Tensor, rate: int) -> torch.Tensor:
    """3x3 convolution with ``rate``, tap by tap, zero outside."""
    h, w = x.shape[-2:]
    wide = F.pad(x, (rate, rate, rate, rate))
    out = torch.zeros(x.shape[0], weight.shape[0], h, w, dtype=x.dtype)
    for i in range(3):
        for j in range(3):
            shifted = wide[..., i * rate : i * rate + h, j * rate : j * rate + w]
            out += torch.einsum("oc,nchw->nohw", weight[..., i, j], shifted)
    return out


def lively(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize(("stride", "rates"), [(16, (2, 4)), (8, (4, 8)), (32, (1, 2))])
@pytest.mark.parametrize("crop_px", [None, 64])
def test_aspp_against_a_loop(stride: int, rates: tuple[int, ...], crop_px: int | None) -> None:
    torch.manual_seed(0)
    layer = ASPP(5, 3, rates=(2, 4), pool_crop_px=crop_px).double().eval()
    lively(layer)
    layer.set_output_stride(stride)
    x = torch.randn(2, 5, 11, 13, dtype=torch.float64)

    one, *threes = layer.branches
    outputs = [torch.einsum("oc,nchw->nohw", one[0].weight[..., 0, 0], x)]
    outputs += [dilated(x, b[0].weight, rate) for b, rate in zip(threes, rates, strict=True)]
    outputs = [F.relu(b[1](y)) for b, y in zip(layer.branches, outputs, strict=True)]
    if crop_px is None:
        pooled = x.mean((2, 3), keepdim=True)
    else:  # windows of 64 px: 4, 8 or 2 cells
        side = 64 // stride
        rows = [
            [x[..., i : i + side, j : j + side].mean((2, 3)) for j in range(13 - side + 1)]
            for i in range(11 - side + 1)
        ]
        pooled = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    pooled = layer.pooled(pooled)
    outputs.append(F.interpolate(pooled, (11, 13), mode="bilinear", align_corners=True))
    expected = layer.project(torch.cat(outputs, dim=1))
    torch.testing.assert_close(layer(x), expected)


def test_a_window_larger_than_the_map_is_the_map() -> None:
    layer = ASPP(2, 3, pool_crop_px=513)
    x = torch.randn(2, 2, 5, 7)
    torch.testing.assert_close(layer.pool(x), x.mean((2, 3), keepdim=True))


def test_rates_must_stay_whole() -> None:
    with pytest.raises(ValueError, match="no whole form at stride 32"):
        ASPP(2, 3, rates=(1, 2), output_stride=32)


def test_frozen_norms_stay_in_training() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    lively(net)
    x = torch.randn(2, 3, 5, 5)
    expected = net.eval()(x)
    names = list(net.state_dict())
    assert freeze_norms(net) == 2
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.train()
    torch.testing.assert_close(net(x), expected)
    net(x).sum().backward()
    assert list(net.state_dict()) == names
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert isinstance(synced[1], FrozenNorm)


def test_norm_momentum_is_the_new_batchs_share() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1))
    set_norm_momentum(net, 0.0003)
    net(torch.full((1, 1, 2, 2), 10.0))
    torch.testing.assert_close(net[0].running_mean, torch.tensor([0.003]))
