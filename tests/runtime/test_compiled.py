"""Compiled networks against the networks as they are written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from crispseg.models import resnet
from crispseg.models.build import build
from crispseg.models.cascadepsp import RefinementModule
from crispseg.runtime import arithmetic as arithmetics
from crispseg.runtime.arithmetic import Arithmetic
from crispseg.runtime.compiled import PlainForm, compile_cascade
from crispseg.runtime.winograd import WinogradConv, WinogradRowConv
from lively import lively


@pytest.fixture(scope="module")
def module() -> Iterator[RefinementModule]:
    """The published network, narrow and not as deep, with logits of both signs, some tens large."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "WIDTHS", (16, 16, 24, 32))
        patch.setitem(resnet.LAYERS, 50, (2, 2, 2, 3))
        patch.setattr(arithmetics, "WINOGRAD_CHANNELS", 16)
        patch.setattr(arithmetics, "WINOGRAD_ROW_CHANNELS", 16)
        trunk = resnet.ResNet(50, in_channels=6, output_stride=8, first_dilation="one")
        module = RefinementModule(
            trunk, pyramid_channels=96, up_channels=(32, 24, 16), head_channels=8
        )
        for head, scale in ((module.head_s8, 300), (module.head_s4, 300), (module.head_s1, 20)):
            with torch.no_grad():
                head[-1].weight *= scale
        yield lively(module, largest=1.2, negative_every=7)


def scene(size: tuple[int, int], masks: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, *size, generator=generator)
    coarse = torch.rand(masks, 1, 1, 7, 5, generator=generator) * 2 - 1
    return [image, *(torch.nn.functional.interpolate(m, size=size) for m in coarse)]


@pytest.mark.parametrize("size", [(48, 88), (152, 40)])  # the second in two strips
@pytest.mark.parametrize("arithmetic", [Arithmetic(), Arithmetic(winograd=False)], ids=str)
@torch.inference_mode()
def test_same_probabilities(module, arithmetic, size) -> None:
    """Sums are made in another order, and Winograd's in another basis: that is all."""
    form = compile_cascade(module, arithmetic)
    assert not isinstance(form, PlainForm)
    is_winograd = [isinstance(layer, WinogradConv) for layer in form.modules()]
    assert any(is_winograd) == arithmetic.winograd
    for masks in (1, 2, 3):
        inputs = scene(size, masks)
        expected, found = module(*inputs), form(*inputs)
        assert expected.s1.std() > 1  # logits of a trained network
        for ours, theirs in ((found.s1, expected.s1), (found.s4, expected.s4_3)):
            torch.testing.assert_close(ours.sigmoid(), theirs.sigmoid(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)], ids=["bf16", "fp16"]
)
@pytest.mark.parametrize("winograd", [False, True], ids=["direct", "Winograd"])
@torch.inference_mode()
def test_half_precision_is_near(module, dtype, most, winograd) -> None:
    """How near depends on the network; random ones with large logits are hard."""
    inputs = scene((32, 40), 2)
    expected = module(*inputs)
    form = compile_cascade(module, Arithmetic(dtype, winograd=winograd))
    assert any(isinstance(layer, WinogradRowConv) for layer in form.modules()) == winograd
    for ours, theirs in zip(form(*inputs), (expected.s1, expected.s4_3), strict=True):
        assert ours.dtype == torch.float32
        difference = (ours.sigmoid() - theirs.sigmoid()).abs()
        assert difference.max() < (2.5 if winograd else 1) * most


def test_the_network_itself_stays_as_it_is(module) -> None:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for arithmetic in (Arithmetic(), Arithmetic(torch.bfloat16, winograd=False)):
        compile_cascade(module, arithmetic)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("size", [(64, 96), (50, 71)])
@torch.inference_mode()
def test_the_bundled_architecture_gives_the_same(size) -> None:
    torch.manual_seed(0)
    module = build("cascadepsp-lite")
    for head in (module.head_s8, module.head_s4, module.head_s1):
        head.weight *= 10
    module = lively(module, largest=1.2, negative_every=7)
    form = compile_cascade(module, Arithmetic())
    for masks in (1, 2):
        inputs = scene(size, masks)
        expected, found = module(*inputs), form(*inputs)
        assert expected.s1.std() > 0.5
        for ours, theirs in ((found.s1, expected.s1), (found.s4, expected.s4_3)):
            torch.testing.assert_close(ours.sigmoid(), theirs.sigmoid(), atol=1e-4, rtol=0)
    norms = [layer for layer in form.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 2 < sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())
