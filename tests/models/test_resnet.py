"""ResNet against torchvision's, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crispseg.models.resnet import ResNet, widen_input

models = pytest.importorskip("torchvision.models")


def dilations(net: ResNet, layer: str) -> list[int]:
    """Of the 3x3 convolution that carries it, block by block."""
    return [
        next(
            conv.dilation[0]
            for conv in block.modules()
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)
        )
        for block in net.get_submodule(layer)
    ]


@pytest.mark.parametrize(
    ("depth", "output_stride"), [(18, 32), (34, 32), (50, 32), (50, 16), (50, 8), (101, 8)]
)
def test_same_features_as_torchvision(depth: int, output_stride: int) -> None:
    torch.manual_seed(0)
    options = {}
    if output_stride < 32:
        options["replace_stride_with_dilation"] = [False, output_stride == 8, True]
    theirs = getattr(models, f"resnet{depth}")(**options).eval()
    ours = ResNet(depth, output_stride=output_stride).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 65, 96)
    with torch.no_grad():
        expected = theirs.conv1(x)
        stages = ours(x)
        torch.testing.assert_close(stages[0], expected)
        y = theirs.maxpool(theirs.relu(theirs.bn1(expected)))
        for i, name in enumerate(("layer1", "layer2", "layer3", "layer4"), start=1):
            y = getattr(theirs, name)(y)
            torch.testing.assert_close(stages[i], y, rtol=1e-4, atol=1e-5)
    assert ours.channels == tuple(stage.shape[1] for stage in stages)


def test_dilations_of_each_convention() -> None:
    tail = [2, 2, 2, 2, 2]
    one = ResNet(50, output_stride=8, first_dilation="one")  # CascadePSP
    assert dilations(one, "layer3") == [1, *tail]
    assert dilations(one, "layer4") == [1, 4, 4]
    previous = ResNet(50, output_stride=8)  # torchvision, timm
    assert dilations(previous, "layer3") == [1, *tail]
    assert dilations(previous, "layer4") == [2, 4, 4]
    stage = ResNet(50, output_stride=8, first_dilation="stage")  # PSPNet
    assert dilations(stage, "layer3") == [2, *tail]
    assert dilations(stage, "layer4") == [4, 4, 4]
    grid = ResNet(50, output_stride=16, multi_grid=(1, 2, 4))  # DeepLabv3
    assert dilations(grid, "layer4") == [2, 4, 8]
    assert dilations(grid, "layer3") == [1] * 6


@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
def test_output_stride(output_stride: int) -> None:
    net = ResNet(18, output_stride=output_stride).eval()
    with torch.no_grad():
        deep = net(torch.zeros(1, 3, 64, 96))[-1]
    assert deep.shape[-2:] == (64 // output_stride, 96 // output_stride)


def test_deep_stem_and_more_input_channels() -> None:
    net = ResNet(50, in_channels=6, deep_stem=True)
    stages = net(torch.zeros(1, 6, 64, 64))
    assert stages[0].shape == (1, 128, 32, 32)
    assert stages[1].shape == (1, 256, 16, 16)


def test_widened_input_is_blind_to_the_new_channels() -> None:
    weight = torch.randn(8, 3, 7, 7)
    wide = widen_input(weight, 6)
    x = torch.randn(1, 6, 20, 20)
    expected = torch.conv2d(x[:, :3], weight)
    torch.testing.assert_close(torch.conv2d(x, wide), expected)
    with pytest.raises(ValueError, match="already has 3"):
        widen_input(weight, 2)


def test_what_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="depth"):
        ResNet(51)
    with pytest.raises(ValueError, match="output_stride"):
        ResNet(50, output_stride=2)
