"""The refinement module against the released one, with the same random weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from crispseg.models.build import build
from crispseg.models.cascadepsp import CascadeLogits
from crispseg.models.weights import from_published_names
from crispseg.types import InputError

OUTPUTS = {
    "s1": "out_224",
    "s8_1": "out_28",
    "s4_2": "out_56",
    "s8_2": "out_28_2",
    "s8_3": "out_28_3",
    "s4_3": "out_56_2",
}


@pytest.fixture(scope="module")
def both() -> tuple[nn.Module, nn.Module]:
    published = pytest.importorskip("segmentation_refinement.models.psp.pspnet")
    torch.manual_seed(0)
    theirs = published.RefinementModule()
    with torch.no_grad():  # BatchNorm statistics from real passes
        for _ in range(3):
            theirs.train()(torch.randn(2, 3, 64, 64), torch.randn(2, 1, 64, 64).sign())
    ours = build("cascadepsp-resnet50")
    ours.load_state_dict(from_published_names(theirs.state_dict()))
    return theirs.eval(), ours.eval()


@pytest.mark.parametrize("given", [0, 1, 2])
def test_same_logits_as_the_released_network(both, given: int) -> None:
    theirs, ours = both
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(1, 3, 72, 96, generator=generator)
    masks = [torch.rand(1, 1, 72, 96, generator=generator) * 2 - 1 for _ in range(1 + given)]
    with torch.no_grad():
        expected, logits = theirs(image, *masks), ours(image, *masks)
    for name, value in logits._asdict().items():
        if value is None:
            assert OUTPUTS[name] not in expected
            continue
        reference = expected[OUTPUTS[name]]
        # Float32 on both sides; what differs is the order of sums.
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4 * float(reference.std()))
        assert value.shape == (1, 1, 72, 96)


def test_parameter_counts() -> None:
    full, lite = build("cascadepsp-resnet50"), build("cascadepsp-lite")
    assert sum(p.numel() for p in full.parameters()) == 67_683_433
    assert sum(p.numel() for p in full.trunk.parameters()) == pytest.approx(23.52e6, rel=1e-3)
    assert sum(p.numel() for p in lite.parameters()) < 3e6


def test_sizes_that_do_not_divide_by_eight_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        build("cascadepsp-resnet50")(torch.zeros(1, 3, 64, 60), torch.zeros(1, 1, 64, 60))


@pytest.mark.parametrize("given", [0, 1, 2])
def test_lite_pads_and_cuts_by_itself(given: int) -> None:
    """Any size is that of the padded image, background around it, cut."""
    torch.manual_seed(0)
    module = build("cascadepsp-lite").eval()
    image = torch.randn(1, 3, 40, 75)
    masks = [torch.rand(1, 1, 40, 75) * 2 - 1 for _ in range(1 + given)]
    padded = [torch.nn.functional.pad(m, (0, 21, 0, 24), value=-1.0) for m in masks]
    with torch.no_grad():
        logits = module(image, *masks)
        expected = module(torch.nn.functional.pad(image, (0, 21, 0, 24)), *padded)
    for mine, theirs in zip(logits, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert mine.shape == (1, 1, 40, 75)
            torch.testing.assert_close(mine, theirs[..., :40, :75])


def test_lite_sees_the_image_once() -> None:
    module = build("cascadepsp-lite").eval()
    calls: list[torch.Size] = []
    module.trunk.register_forward_hook(lambda _module, given, _out: calls.append(given[0].shape))
    with torch.no_grad():
        module(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64))
    assert calls == [(1, 3, 64, 64)]


def test_every_parameter_learns_and_the_loss_falls() -> None:
    torch.manual_seed(0)
    module = build("cascadepsp-lite").train()
    image, seg = torch.randn(2, 3, 64, 64), torch.randn(2, 1, 64, 64).sign()
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    losses = []
    for _ in range(5):
        logits: CascadeLogits = module(image, seg)
        loss: Tensor = sum((out - seg).square().mean() for out in logits)
        optimiser.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
        optimiser.step()
    assert losses[-1] < losses[0]


def test_unknown_network() -> None:
    with pytest.raises(InputError, match="known: cascadepsp-resnet50, cascadepsp-lite"):
        build("unet")
