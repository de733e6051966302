"""MagNet's refinement module: its size, and what it takes."""

from __future__ import annotations

import pytest
import torch

from crispseg.models.magnet import MagnetRefinement


@pytest.mark.parametrize(("classes", "parameters"), [(19, 103_500), (7, 88_092), (4, 84_240)])
def test_has_the_published_number_of_parameters(classes: int, parameters: int) -> None:
    # Counted in the authors' code by the specification this was written from.
    module = MagnetRefinement(classes)
    assert sum(p.numel() for p in module.parameters()) == parameters


def test_gives_logits_of_the_size_of_its_inputs_and_tells_them_apart() -> None:
    torch.manual_seed(0)
    module = MagnetRefinement(3).eval()
    coarse, fine = (torch.rand(2, 3, 9, 14).softmax(dim=1) for _ in range(2))
    logits = module(coarse, fine)
    assert logits.shape == (2, 3, 9, 14)
    assert not torch.allclose(logits, module(fine, coarse), atol=1e-3)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    module = MagnetRefinement(3).train()
    coarse, fine = (torch.randn(2, 3, 8, 8).softmax(dim=1) for _ in range(2))
    module(coarse, fine).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_wants_two_classes() -> None:
    with pytest.raises(ValueError, match="two classes"):
        MagnetRefinement(1)
