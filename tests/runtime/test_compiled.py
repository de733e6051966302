"""Compiled networks against the networks as they are written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crispseg.models import resnet
from crispseg.models.build import build
from crispseg.models.cascadepsp import RefinementModule
from crispseg.runtime import arithmetic as arithmetics
from crispseg.runtime.arithmetic import Arithmetic
from crispseg.runtime.compiled import CompiledRefinement, PlainForm, compile_cascade
from crispseg.runtime.compiled_lite import LiteForm
from crispseg.runtime.winograd import WinogradConv, WinogradRowConv
from crispseg.types import Box
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.inference_mode()
def test_blocks_of_masks_are_those_of_pixel_unshuffle(dtype) -> None:
    form = LiteForm(build("cascadepsp-lite"))
    masks = [torch.rand((2, 1, 64, 96), dtype=dtype) for _ in range(3)]
    masks[0] = masks[0].contiguous(memory_format=torch.channels_last)
    masks[1] = torch.rand((2, 3, 80, 96), dtype=dtype)[:, 1:2, 16:]
    for count in (1, 2, 3):
        expected = F.pixel_unshuffle(torch.cat(masks[:count], dim=1), 2)
        assert torch.equal(form.mask_blocks(*masks[:count]), expected)


@pytest.mark.parametrize("box", [Box(7, 8, 12, 15), Box(0, 20, 9, 33), Box(18, 3, 25, 9)], ids=str)
@torch.inference_mode()
def test_the_decoder_finds_in_a_box_what_it_finds_in_the_whole(module, box, monkeypatch) -> None:
    """Inside the same sums, so float32's rounding at most; outside what stride 8 says."""
    form = compile_cascade(module, Arithmetic())
    inputs = scene((200, 264), 3)
    whole = form(*inputs)
    monkeypatch.setattr(CompiledRefinement, "_open_boxes", lambda *_: [box])
    part = form(*inputs)
    at = box.enlarge(8).slices
    torch.testing.assert_close(part.s1[..., *at], whole.s1[..., *at], atol=1e-4, rtol=1e-5)
    inside = [slice(edge.start and edge.start + 2, edge.stop - 2) for edge in at]
    torch.testing.assert_close(part.s4[..., *inside], whole.s4[..., *inside], atol=1e-4, rtol=1e-5)
    outside = torch.ones(200, 264, dtype=torch.bool)
    outside[at] = False
    expected = module(*inputs).s8_3[0, 0]
    clear = outside & (expected.abs() > 1e-3)
    assert ((part.s1[0, 0] == 100) == (expected > 0))[clear].all()
    assert (part.s1[0, 0][outside].abs() == 100).all()


class _Halves(nn.Module):
    """A head that is sure: the left half is object."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        left = torch.arange(width) < width // 2
        return torch.where(left, 9.0, -9.0).expand(len(x), 1, height, width).to(x.dtype)


@torch.inference_mode()
def test_only_what_is_open_is_decoded(module, monkeypatch) -> None:
    """Nothing is open but a strip down the middle."""
    seen: list[list[Box]] = []
    real = CompiledRefinement._open_boxes

    def spy(self: CompiledRefinement, s8: torch.Tensor, *masks: torch.Tensor) -> list[Box]:
        seen.append(real(self, s8, *masks))
        return seen[-1]

    monkeypatch.setattr(CompiledRefinement, "_open_boxes", spy)
    image, mask = scene((64, 320), 1)
    mask = torch.where(torch.arange(320) < 160, 1.0, -1.0).expand(mask.shape)
    for everywhere in (True, False):
        seen.clear()
        form = compile_cascade(module, Arithmetic(), everywhere=everywhere)
        form.head_s8 = _Halves()
        found = form.finals(form.encode_image(image), mask, None, None)
        assert len(seen) == 2  # the second level and the third
        if everywhere:
            assert seen == [[Box(0, 0, 8, 40)]] * 2
            continue
        assert seen[0] == [Box(0, 18, 8, 22)]
        [last] = seen[1]  # what was found at stride 4 is open around the strip as well
        assert last.width < 12
        for values in found:
            assert (values[..., : 8 * last.x0 - 4] == 100).all()
            assert (values[..., 8 * last.x1 + 4 :] == -100).all()
        assert not (found.s1[..., 8 * last.x0 : 8 * last.x1].abs() == 100).any()
