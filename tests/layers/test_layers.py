from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from crispseg.layers.blocks import pad_to_multiple, resize
from crispseg.layers.pyramid import AdaptivePool, PyramidPooling, WindowPool


def test_padding_goes_right_and_down() -> None:
    x = torch.ones(1, 2, 5, 8)
    padded = pad_to_multiple(x, 8, -1.0)
    assert padded.shape == (1, 2, 8, 8)
    assert torch.equal(padded[..., :5, :], x)
    assert (padded[..., 5:, :] == -1).all()
    assert pad_to_multiple(padded, 8, 0.0) is padded


def test_resize_by_hand() -> None:
    x = torch.tensor([[[[0.0, 1.0]]]])
    aligned = resize(x, (1, 4), align_corners=True)
    torch.testing.assert_close(aligned[0, 0, 0], torch.tensor([0, 1 / 3, 2 / 3, 1]))
    centred = resize(x, (1, 4), align_corners=False)
    torch.testing.assert_close(centred[0, 0, 0], torch.tensor([0, 0.25, 0.75, 1]))
    assert resize(x, (1, 2), align_corners=False) is x


def test_pyramid_against_a_loop() -> None:
    torch.manual_seed(0)
    layer = PyramidPooling(4, 3, bin_sizes=(1, 2, 3), align_corners=False)
    x = torch.randn(2, 4, 7, 9)
    expected = []
    for bins, branch in zip((1, 2, 3), layer.branches, strict=True):
        pooled = torch.zeros(2, 4, bins, bins)
        for i in range(bins):
            for j in range(bins):
                rows = slice(i * 7 // bins, -(-(i + 1) * 7 // bins))
                columns = slice(j * 9 // bins, -(-(j + 1) * 9 // bins))
                pooled[..., i, j] = x[..., rows, columns].mean((2, 3))
        reduced = torch.einsum("oc,nchw->nohw", branch[1].weight[..., 0, 0], pooled)
        expected.append(F.interpolate(reduced, (7, 9), mode="bilinear", align_corners=False))
    torch.testing.assert_close(layer(x), torch.cat([*expected, x], dim=1))
    assert layer.out_channels == 13


def brute_pool(x: torch.Tensor, bins: int, kind: str) -> torch.Tensor:
    height, width = x.shape[-2:]
    pooled = torch.zeros(*x.shape[:2], bins, bins)
    for i in range(bins):
        for j in range(bins):
            rows = slice(i * height // bins, -(-(i + 1) * height // bins))
            columns = slice(j * width // bins, -(-(j + 1) * width // bins))
            cell = x[..., rows, columns]
            pooled[..., i, j] = cell.amax((2, 3)) if kind == "max" else cell.mean((2, 3))
    return pooled


@pytest.mark.parametrize("kind", ["average", "max"])
@pytest.mark.parametrize("size", [(7, 9), (60, 60), (6, 6), (5, 1), (1, 1)])
def test_adaptive_pooling_and_its_exported_form(kind: str, size: tuple[int, int]) -> None:
    x = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    for bins in (1, 2, 3, 6):
        layer = AdaptivePool(bins, kind)
        expected = brute_pool(x, bins, kind)
        torch.testing.assert_close(layer(x), expected)
        exported_form = layer._pool_side(layer._pool_side(x, -2), -1)
        torch.testing.assert_close(exported_form, expected)


@pytest.mark.parametrize("kind", ["average", "max"])
def test_windows_equal_bins_at_the_training_size_and_keep_their_size(kind: str) -> None:
    x = torch.randn(1, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    for window, bins in zip((60, 30, 20, 10), (1, 2, 3, 6), strict=True):
        torch.testing.assert_close(WindowPool(window, kind)(x), AdaptivePool(bins, kind)(x))
    wide = torch.randn(1, 3, 60, 75, generator=torch.Generator().manual_seed(1))
    pooled = WindowPool(30, kind)(wide)
    assert pooled.shape == (1, 3, 2, 3)
    rest = wide[..., :30, 60:]  # the last window holds what is left
    expected = rest.amax((2, 3)) if kind == "max" else rest.mean((2, 3))
    torch.testing.assert_close(pooled[..., 0, 2], expected)
    assert WindowPool(60, kind)(torch.zeros(1, 3, 20, 90)).shape == (1, 3, 1, 2)


def test_pyramid_is_the_other_librarys() -> None:
    """segmentation_models_pytorch's PSP blocks, whose 1x1 branch has no norm."""
    decoder = pytest.importorskip("segmentation_models_pytorch.decoders.pspnet.decoder")
    torch.manual_seed(0)
    theirs = decoder.PSPModule(16).eval()
    ours = PyramidPooling(16, 4, align_corners=True, norm=True).eval()
    for block, branch in zip(theirs.blocks, ours.branches, strict=True):
        conv, norm, _ = block.pool[1]
        _, our_conv, our_norm, _ = branch
        our_conv.weight.data.copy_(conv.weight.data)
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.normal_()
            our_norm.load_state_dict(norm.state_dict())
        else:
            our_norm.eps = 0.0
            our_conv.bias = conv.bias  # they need one where there is no norm
    x = torch.randn(2, 16, 9, 13)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_pyramid_without_reduction_has_no_weights() -> None:
    layer = PyramidPooling(3, None, (1,), align_corners=True, norm=True)
    x = torch.randn(2, 3, 5, 4)
    assert not list(layer.parameters())
    assert layer.out_channels == 6
    expected = torch.cat([x.mean((2, 3), keepdim=True).expand_as(x), x], dim=1)
    torch.testing.assert_close(layer(x), expected)
