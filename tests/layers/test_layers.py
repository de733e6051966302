from __future__ import annotations

import torch
from torch.nn import functional as F

from crispseg.layers.blocks import pad_to_multiple, resize
from crispseg.layers.pyramid import PyramidPooling


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
    layer = PyramidPooling(4, 3, bin_sizes=(1, 2, 3))
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
