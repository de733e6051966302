"""Networks of timm as trunks."""

from __future__ import annotations

import sys

import pytest
import torch

from crispseg.models.fpn import FPN
from crispseg.models.pspnet import PSPNet
from crispseg.models.resnet import ResNet
from crispseg.models.trunks import TimmTrunk
from crispseg.types import InputError

pytest.importorskip("timm")


def test_features_are_timms_and_ours() -> None:
    """Same weights, same features, dilated stages included, as our own ResNet."""
    torch.manual_seed(0)
    theirs = TimmTrunk("resnet18", 16).eval()
    ours = ResNet(18, output_stride=16).eval()
    ours.load_state_dict(theirs.network.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, timms in zip(ours(x)[1:], theirs(x)[1:], strict=True):
            torch.testing.assert_close(mine, timms, rtol=1e-4, atol=1e-5)
    assert theirs.strides == ours.strides == (2, 4, 8, 16, 16)
    assert tuple(theirs.channels) == ours.channels


@pytest.mark.parametrize(
    ("name", "output_stride"), [("mobilenetv3_small_100", 8), ("convnext_atto", 16)]
)
@pytest.mark.parametrize("size", [(97, 130), (1, 1)])
def test_sizes_are_rounded_up(name: str, output_stride: int, size: tuple[int, int]) -> None:
    trunk = TimmTrunk(name, output_stride).eval()
    assert trunk.training is False
    with torch.no_grad():
        stages = trunk(torch.zeros(1, 3, *size))
    assert trunk.output_stride == trunk.strides[-1] == output_stride
    for x, channels, stride in zip(stages, trunk.channels, trunk.strides, strict=True):
        assert x.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))


def test_heads_stand_on_it() -> None:
    torch.manual_seed(0)
    for module in (
        PSPNet(TimmTrunk("mobilenetv3_small_100", 8), 4, head_channels=16),
        FPN(TimmTrunk("convnext_atto", 32), 4, channels=32, branch_channels=16),
    ):
        with torch.no_grad():
            assert module.eval()(torch.randn(1, 3, 97, 130)).logits.shape == (1, 4, 97, 130)
            assert module(torch.randn(1, 3, 1, 1)).logits.shape == (1, 4, 1, 1)
        logits, aux = module.train()(torch.randn(2, 3, 65, 64))
        (logits if aux is None else aux).square().mean().backward()
        first = next(module.trunk.parameters())
        assert first.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("resnet1", 8, "knows no network 'resnet1'"),
        ("vgg11", 16, "cannot build vgg11 with output stride 16: it does not support that"),
        ("vit_tiny_patch16_224", 16, "cannot build .* take another network or stride"),
        ("resnet18", 7, "cannot build resnet18 with output stride 7"),
    ],
)
def test_what_cannot_be_built_says_so(name: str, output_stride: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TimmTrunk(name, output_stride)
    assert "\n" not in str(caught.value)


def test_missing_timm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"install crispseg\[backbones\]"):
        TimmTrunk("resnet18", 16)
