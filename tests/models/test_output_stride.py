"""Strides turned into dilation, with the same weights.

A convolution that strides by 2 computes every second of what it computes without; one with twice
the dilation computes, at these places, what the plain one computes on every second. Zero padding
fits as well: it grows with the dilation, so that outside is outside for both. So features at
stride 8 hold those at 16, at every second row and column, and those at 32 at every fourth.

In a ResNet, whose 3x3 convolutions are padded by 1 on both sides, output i of a strided one looks
at input 2 i: even places. EfficientNet-Lite pads an even side as TensorFlow does, where it looks at
2 i + 1: odd places.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from crispseg.models.deeplabv3 import AsppOptions, CascadeOptions, DeepLabV3
from crispseg.models.efficientnet import EfficientNetLite
from crispseg.models.resnet import ResNet
from lively import lively

# Differences are those of the order of sums; activations are about 1.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@torch.no_grad()
def deepest(trunk: nn.Module, output_stride: int, image: Tensor) -> Tensor:
    trunk.set_output_stride(output_stride)
    assert trunk.output_stride == output_stride
    return trunk(image)[-1]


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("size", [(32, 64), (65, 33)])
def test_resnet_features_hold_those_of_larger_strides(size: tuple[int, int], depth: int) -> None:
    torch.manual_seed(0)
    trunk = lively(ResNet(depth)).double()
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    at32 = deepest(trunk, 32, image)
    for stride in (16, 8, 4):
        step = 32 // stride
        features = deepest(trunk, stride, image)
        torch.testing.assert_close(features[..., ::step, ::step], at32, **CLOSE)
    torch.testing.assert_close(deepest(trunk, 32, image), at32, rtol=0, atol=0)


@pytest.mark.parametrize("trunk", [ResNet(18), EfficientNetLite(stages=6)], ids=["resnet", "lite"])
def test_changed_there_and_built_there_are_the_same(trunk: nn.Module) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 32, 64)
    lively(trunk)
    for stride in (16, 32, 4, 8):
        kind = type(trunk)
        options = {"depth": 18} if kind is ResNet else {"stages": 6}
        built = kind(**options, output_stride=stride).eval()
        built.load_state_dict(trunk.state_dict())
        with torch.no_grad():
            expected = built(image)
        assert torch.equal(deepest(trunk, stride, image), expected[-1])
        assert trunk.strides == built.strides
        for x, s in zip(expected, built.strides, strict=True):
            assert x.shape[-2:] == (32 // s, 64 // s)


def test_efficientnet_features_hold_those_of_larger_strides() -> None:
    torch.manual_seed(0)
    trunk = lively(EfficientNetLite(stages=6, output_stride=32)).double()
    image = torch.randn(1, 3, 64, 128, dtype=torch.float64)
    at32, at16, at8 = (deepest(trunk, stride, image) for stride in (32, 16, 8))
    assert at8.shape == (1, 320, 8, 16)
    torch.testing.assert_close(at16[..., 1::2, 1::2], at32, **CLOSE)
    torch.testing.assert_close(at8[..., 1::2, 1::2], at16, **CLOSE)


def test_efficientnet_rounds_odd_sizes_up() -> None:
    """On 32 k + 1 points every stage holds every second point of the one before, ends included."""
    torch.manual_seed(0)
    trunk = lively(EfficientNetLite(stages=6, output_stride=32)).double()
    image = torch.randn(1, 3, 65, 33, dtype=torch.float64)
    assert [tuple(x.shape[-2:]) for x in trunk(image)][-1] == (3, 2)
    at32, at16 = deepest(trunk, 32, image), deepest(trunk, 16, image)
    torch.testing.assert_close(at16[..., ::2, ::2], at32, **CLOSE)


@pytest.mark.parametrize("form", ["aspp", "cascade"])
def test_deeplab_at_8_holds_its_logits_at_16(form: str) -> None:
    """With corners aligned on 16 k + 1 points, resizing keeps the places of the features.

    Image pooling is the one part that sees a different mean; its branch is silenced.
    """
    torch.manual_seed(0)
    trunk = ResNet(50, output_stride=16, multi_grid=(1, 2, 4))
    net = DeepLabV3(
        trunk,
        3,
        form=form,
        aspp=AsppOptions(channels=8),
        cascade=CascadeOptions(last_block=5, multi_grid=(1, 2)),
    )
    lively(net).double()
    if form == "aspp":
        for parameter in net.head.aspp.pooled.parameters():
            nn.init.zeros_(parameter)
    image = torch.randn(1, 3, 33, 17, dtype=torch.float64)
    with torch.no_grad():
        at16 = net(image).logits
        net.set_output_stride(8)
        at8 = net(image).logits
    assert (at8 - at16).abs().max() > 1e-3 * at16.std()  # between the places they differ
    torch.testing.assert_close(at8[..., ::16, ::16], at16[..., ::16, ::16], **CLOSE)
    net.set_output_stride(16)
    with torch.no_grad():
        torch.testing.assert_close(net(image).logits, at16, rtol=0, atol=0)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("kind", [ResNet, EfficientNetLite])
def test_first_centre_is_the_middle_of_what_a_cell_sees(kind: type, stride: int) -> None:
    """With equal weights everywhere, the gradient of a cell is symmetric about its middle."""
    options = {"depth": 18} if kind is ResNet else {"stages": 4, "norm": False}
    trunk = kind(**options, output_stride=stride).eval()
    if kind is ResNet:  # hands its gradient to one of several equal values
        trunk.maxpool = nn.AvgPool2d(3, stride=2, padding=1)
    for name, parameter in trunk.named_parameters():
        value = 1 / parameter[0].numel() if parameter.ndim == 4 else 1.0
        nn.init.constant_(parameter, 1e-3 if name.endswith("bias") else value)
    image = torch.full((1, 3, 320, 320), 1e-3, requires_grad=True)
    cell = 160 // stride
    trunk(image)[-1][0, 0, cell, cell].backward()
    for axis in (0, 1):
        weight = image.grad[0, 0].double().abs().sum(axis)
        middle = float((weight * torch.arange(320)).sum() / weight.sum())
        assert middle == pytest.approx(cell * stride + trunk.first_centre, abs=0.1)


class Ramp(nn.Module):
    """A trunk whose cells hold the place, in pixels, of what they see; ``first`` by stride."""

    channels, strides = (1, 1), (8, 16)

    def __init__(self, output_stride: int, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        self.output_stride = output_stride
        self.first_centre = 0.0 if self.symmetric else output_stride - 1.0

    def forward(self, image: Tensor) -> list[Tensor]:
        n = image.shape[-1] // self.output_stride
        places = self.first_centre + self.output_stride * torch.arange(float(n))
        cells = (100 * places[:, None] + places)[None, None]
        return [cells, cells]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("stride", [4, 8, 32])
def test_objects_stay_where_training_put_them(stride: int, symmetric: bool) -> None:
    """A linear function of place passes bilinear stretching whole, so any move would show."""
    net = DeepLabV3(Ramp(16, symmetric), 1, aspp=AsppOptions(channels=1), align_corners=False)
    net.head, net.classifier = IgnoreStride(), nn.Identity()
    net.eval()
    image, inside = torch.zeros(1, 3, 256, 256), (..., slice(48, 208), slice(48, 208))
    trained = net(image).logits[inside]
    net.set_output_stride(stride)
    torch.testing.assert_close(net(image).logits[inside], trained, rtol=0, atol=0.01)


class IgnoreStride(nn.Identity):
    def set_output_stride(self, output_stride: int) -> None:
        del output_stride


def test_dilations_of_the_deeper_blocks() -> None:
    net = DeepLabV3(ResNet(18, output_stride=16, multi_grid=(1, 2)), 2, form="cascade")
    found = {
        name: [unit.conv2.dilation[0] for unit in block]
        for name, block in net.head.named_children()
    }
    assert found == {"block5": [4, 8, 4], "block6": [8, 16, 8], "block7": [16, 32, 16]}
    net.set_output_stride(8)
    assert [unit.conv2.dilation[0] for unit in net.head.block5] == [8, 16, 8]
    assert [block.conv1.dilation[0] for block in net.trunk.layer4] == [4, 8]


def test_other_strides_and_trunks_are_refused() -> None:
    net = DeepLabV3(ResNet(18, output_stride=16), 2, aspp=AsppOptions(channels=4))
    with pytest.raises(ValueError, match="must be 4, 8, 16 or 32, not 64"):
        net.set_output_stride(64)
    with pytest.raises(ValueError, match="must be 4, 8, 16 or 32, not 1"):
        EfficientNetLite().set_output_stride(1)
    fixed = nn.Module()
    fixed.channels, fixed.strides, fixed.output_stride = (4, 8), (8, 16), 16
    with pytest.raises(ValueError, match="output stride of a Module cannot change"):
        DeepLabV3(fixed, 2, aspp=AsppOptions(channels=4)).set_output_stride(8)
