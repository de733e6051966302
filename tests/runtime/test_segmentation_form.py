"""Compiled segmentation networks against the networks as they are written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from crispseg.models import resnet
from crispseg.models.deeplabv3 import AsppOptions, DeepLabV3
from crispseg.models.fcn import fcn_resnet
from crispseg.models.pspnet import PSPNet
from crispseg.models.resnet import ResNet
from crispseg.models.segmentation import SegmentationModule
from crispseg.runtime import arithmetic as arithmetics
from crispseg.runtime.dilated import PhasesConv, TapsConv
from crispseg.runtime.precision import BF16, BF16_WINOGRAD, DIRECT, EXACT, FP16
from crispseg.runtime.segmenting import SegmentationForm, compile_segmentation

SIZES = [(97, 129), (64, 83)]


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Iterator[None]:
    """ResNet-50 with few channels and blocks, all of which Winograd takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "WIDTHS", (16, 16, 24, 32))
        patch.setitem(resnet.LAYERS, 50, (1, 2, 2, 3))
        patch.setattr(arithmetics, "WINOGRAD_CHANNELS", 16)
        patch.setattr(arithmetics, "WINOGRAD_ROW_CHANNELS", 16)
        yield


def randomised(module: SegmentationModule) -> SegmentationModule:
    """Norms that are not the identity, some of them negative; every class somewhere the likeliest.

    The mean logit of each class on the test's image becomes 0.
    """
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low, high in (
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.5, 2.0),
                (layer.weight.data, 0.4, 1.2),
                (layer.bias.data, -0.2, 0.2),
            ):
                values.uniform_(low, high, generator=generator)
            layer.weight.data[::7] *= -1
    module.eval()
    last = module.head[-1] if isinstance(module, PSPNet) else module.classifier
    with torch.inference_mode():
        logits = module(image(97, 129)).logits
    last.weight.data /= logits.std()
    last.bias.data -= logits.mean(dim=(0, 2, 3))
    last.bias.data /= logits.std()
    return module


def pspnet() -> PSPNet:
    return PSPNet(
        ResNet(50, output_stride=8, first_dilation="stage", deep_stem=True), 7, head_channels=96
    )


def pspnet_max_windows() -> PSPNet:
    trunk = ResNet(50, output_stride=16)
    return PSPNet(trunk, 7, pooling="max", windows=(2, 5), head_channels=64, align_corners=False)


def torchvisions() -> DeepLabV3:
    aspp = AsppOptions(channels=64, extra_conv=True)
    return DeepLabV3(
        ResNet(50, output_stride=8), 7, aspp=aspp, auxiliary=True, align_corners=False, pad=False
    )


def papers() -> DeepLabV3:
    aspp = AsppOptions(channels=64, rates=(6, 12), pool_crop_px=48)
    return DeepLabV3(ResNet(50, output_stride=16, multi_grid=(1, 2, 4)), 7, aspp=aspp)


@pytest.fixture(scope="module", params=[pspnet, pspnet_max_windows, torchvisions, papers])
def pair(request: pytest.FixtureRequest) -> tuple[SegmentationModule, SegmentationForm]:
    torch.manual_seed(0)
    module = randomised(request.param())
    form = compile_segmentation(module, EXACT)
    assert form is not None
    return module, form


def image(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_logits_are_those_of_the_network(pair, size) -> None:
    module, form = pair
    expected, found = module(image(*size)).logits, form(image(*size))
    assert found.shape == expected.shape
    assert 0.1 < expected.std() < 10
    assert float((found - expected).abs().max()) < 1e-4


@torch.inference_mode()
def test_labels_are_the_likeliest_class(pair) -> None:
    """But where two classes are as likely as each other, within rounding."""
    module, form = pair
    logits = module(image(97, 129)).logits
    labels = form.labels(image(97, 129))
    taken = logits.gather(1, labels[:, None])[:, 0]
    assert float((logits.amax(dim=1) - taken).max()) < 1e-3
    assert float((labels != logits.argmax(dim=1)).float().mean()) < 1e-3
    assert len(labels.unique()) > 1


@torch.inference_mode()
def test_direct_convolutions_say_the_same(pair) -> None:
    module, _ = pair
    form = compile_segmentation(module, DIRECT)
    assert form is not None
    expected = module(image(64, 83)).logits
    assert float((form(image(64, 83)) - expected).abs().max()) < 1e-4


@torch.inference_mode()
def test_fewer_bits_are_near(pair) -> None:
    """Logits have a standard deviation of 1."""
    module, _ = pair
    expected = module(image(64, 83)).logits
    for arithmetic, most in ((BF16, 0.01), (BF16_WINOGRAD, 0.01)):
        form = compile_segmentation(module, arithmetic)
        assert form is not None
        found = form(image(64, 83))
        assert found.dtype == torch.float32
        assert 1e-4 < float((found - expected).square().mean().sqrt()) < most


def test_what_is_rounded_first_stays_float32(pair) -> None:
    module, _ = pair
    for arithmetic in (BF16, FP16):
        form = compile_segmentation(module, arithmetic)
        assert form is not None
        for name, parameter in form.named_parameters():
            early = name.startswith(("trunk.stem", "trunk.first"))
            assert parameter.dtype == (torch.float32 if early else arithmetic.dtype), name
        seen = []
        form.trunk.stem.register_forward_hook(lambda m, args, out, seen=seen: seen.append(args[0]))
        form.trunk.first.register_forward_hook(lambda m, args, out, seen=seen: seen.append(out))
        form(image(64, 83))
        assert [x.dtype for x in seen] == [torch.float32] * 2


def test_the_network_stays_as_it_is() -> None:
    torch.manual_seed(0)
    module = randomised(torchvisions())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    compile_segmentation(module, EXACT)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_others_have_no_compiled_form() -> None:
    with torch.device("meta"):
        module = fcn_resnet(50, 3)
    assert compile_segmentation(module, EXACT) is None
    assert compile_segmentation(randomised(torchvisions()), None) is None


@torch.inference_mode()
def test_where_float16_is_too_small_the_network_as_written_answers() -> None:
    torch.manual_seed(0)
    module = randomised(torchvisions())
    form = compile_segmentation(module, FP16)
    assert form is not None
    expected = module(image(32, 40)).logits
    assert 0 < float((form(image(32, 40)) - expected).abs().max()) < 0.1
    module.head.extra[1].weight.data *= 1e6
    module.classifier.weight.data /= 1e6
    form = compile_segmentation(module, FP16)
    expected = module(image(32, 40)).logits
    assert torch.equal(form(image(32, 40)), expected)
    assert torch.equal(form.labels(image(32, 40)), expected.argmax(dim=1))


@pytest.mark.parametrize(
    ("dilation", "height", "width"), [(12, 41, 64), (9, 37, 90), (12, 10, 70), (30, 7, 9)]
)
@torch.inference_mode()
def test_a_large_dilation_by_phases_and_by_taps(dilation: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 20, 3, padding=dilation, dilation=dilation)
    x = torch.randn(2, 16, height, width).contiguous(memory_format=torch.channels_last)
    form = PhasesConv(conv)
    expected = conv(x)
    for found in (form._by_phases(x), TapsConv(conv)(x), form(x)):
        assert float((found - expected).abs().max()) < 1e-5
    assert form(x, relu=True).min() == 0


def test_large_maps_go_by_phases_and_small_ones_by_taps() -> None:
    form = PhasesConv(nn.Conv2d(16, 16, 3, padding=12, dilation=12))
    assert form._is_worth_it(128, 256)
    assert not form._is_worth_it(9, 12)
