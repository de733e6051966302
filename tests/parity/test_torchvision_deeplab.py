"""DeepLabv3 against torchvision's, with the same random weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crispseg.models.deeplabv3 import deeplabv3_torchvision
from crispseg.models.published import from_torchvision

segmentation = pytest.importorskip("torchvision.models.segmentation")


def published(depth: int, num_classes: int) -> nn.Module:
    """With statistics from a forward pass, and logits of both signs and of a size that tells."""
    build = getattr(segmentation, f"deeplabv3_resnet{depth}")
    net = build(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=True)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # the mean over all passes: one
                layer.weight.uniform_(0.8, 1.2)
                layer.bias.uniform_(-0.2, 0.2)
        net.train()(torch.randn(2, 3, 33, 33))
        net.classifier[-1].weight.normal_(0, 0.1)
    return net


@pytest.mark.parametrize("depth", [50, 101])
def test_same_logits(depth: int) -> None:
    torch.manual_seed(0)
    theirs = published(depth, 7).eval()
    ours = deeplabv3_torchvision(depth, 7)
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    ours.eval()
    x = torch.randn(1, 3, 43, 62)
    with torch.no_grad():
        expected, output = theirs(x), ours(x)
        aux = ours.aux_head(ours.trunk(x)[-2])
    assert expected["out"].std() > 0.3
    torch.testing.assert_close(output.logits, expected["out"], rtol=1e-4, atol=1e-4)
    assert output.aux is None
    size = dict(size=(43, 62), mode="bilinear", align_corners=False)
    aux = nn.functional.interpolate(aux, **size)
    torch.testing.assert_close(aux, expected["aux"], rtol=1e-4, atol=1e-4)


def test_same_losses_in_training() -> None:
    """Dropout aside, which draws its own numbers, training mode is the same as well."""
    torch.manual_seed(0)
    theirs = published(50, 3)
    ours = deeplabv3_torchvision(50, 3)
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    for net in (theirs, ours):
        net.double().train()
        for layer in net.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
    x = torch.randn(2, 3, 24, 32, dtype=torch.float64)
    with torch.no_grad():
        expected, output = theirs(x), ours(x)
    torch.testing.assert_close(output.logits, expected["out"])
    torch.testing.assert_close(output.aux, expected["aux"])


def test_parameter_counts_are_torchvisions() -> None:
    weights = (
        segmentation.DeepLabV3_ResNet50_Weights.DEFAULT,
        segmentation.DeepLabV3_ResNet101_Weights.DEFAULT,
    )
    for depth, theirs in zip((50, 101), weights, strict=True):
        with torch.device("meta"):
            ours = deeplabv3_torchvision(depth, 21)
        assert sum(p.numel() for p in ours.parameters()) == theirs.meta["num_params"]
