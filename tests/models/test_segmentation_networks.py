"""Segmentation networks against published packages, by count and at awkward sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crispseg.models.build import SEGMENTATION_BUILDERS, build_segmentation
from crispseg.models.efficientnet import EfficientNetLite
from crispseg.models.fcn import FCN8s, fcn_resnet
from crispseg.models.fpn import FPN
from crispseg.models.pspnet import PSPNet
from crispseg.models.segmentation import SegmentationModule
from crispseg.types import InputError
from lively import count_parameters, lively

SMALL = [name for name in SEGMENTATION_BUILDERS if name.endswith("-lite")]


def small_trunk(output_stride: int = 16) -> EfficientNetLite:
    return EfficientNetLite(stages=5, output_stride=output_stride)


def test_fcn_is_torchvisions() -> None:
    """Same weights, same logits of both heads; 1e-4 for another order of the sums."""
    published = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(0)
    theirs = lively(
        published.fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    )
    ours = fcn_resnet(50, 21)
    names = {"backbone.": "trunk.", "aux_classifier.": "aux_head.", "classifier.": "head."}
    state = {}
    for key, value in theirs.state_dict().items():
        prefix = next(prefix for prefix in names if key.startswith(prefix))
        state[names[prefix] + key.removeprefix(prefix)] = value
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        expected = theirs(x)
        logits, none = ours.eval()(x)
        assert none is None
        # The auxiliary head speaks while training, with the norms held as they are.
        ours.training = True
        ours.aux_head.eval()
        aux = ours(x).aux
    assert expected["out"].std() > 0.1
    torch.testing.assert_close(logits, expected["out"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(aux, expected["aux"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(97, 130), (1, 1), (5, 64)])
def test_any_image_size(name: str, size: tuple[int, int]) -> None:
    module = build_segmentation(name, 5).eval()
    image = torch.randn(1, 3, *size)
    before = image.clone()
    with torch.no_grad():
        logits, aux = module(image)
    assert logits.shape == (1, 5, *size)
    assert torch.isfinite(logits).all()
    assert aux is None
    assert torch.equal(image, before)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    module = build_segmentation(name, 5).train()
    logits, aux = module(torch.randn(2, 3, 65, 96))
    loss = logits.square().mean()
    if aux is not None:
        assert aux.shape == logits.shape
        loss = loss + 0.4 * aux.square().mean()
    loss.backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.any(), key


def test_gradient_of_aux_reaches_the_trunk_but_not_its_last_stage() -> None:
    module = PSPNet(small_trunk(), 3, head_channels=16)
    module(torch.randn(2, 3, 64, 64)).aux.square().mean().backward()
    assert module.trunk.conv_stem.weight.grad.abs().max() > 0
    assert module.trunk.blocks[-2][0].conv_pw.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in module.trunk.blocks[-1].parameters())
    assert all(p.grad is None for p in module.pyramid.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda: PSPNet(small_trunk(), 3, bin_sizes=(1,), pooling="max", head_channels=16),
        lambda: PSPNet(small_trunk(), 3, reduce=False, head_channels=16, aux=False),
        lambda: PSPNet(small_trunk(), 3, windows=(6, 3, 2, 1), head_channels=16),
        lambda: FPN(small_trunk(), 3, channels=32, branch_channels=16, merge="concat"),
        lambda: FCN8s(small_trunk(32), 3),
    ],
    ids=["global-max", "no-reduction", "windows", "fpn-concat", "fcn8s"],
)
def test_variants_learn_two_images(make: type[SegmentationModule]) -> None:
    """Thirty steps on two images with opposite labels cut the loss to a half."""
    torch.manual_seed(0)
    module = make().train()
    images = torch.stack([torch.zeros(3, 33, 48), torch.ones(3, 33, 48)])
    images = images + 0.3 * torch.randn(2, 3, 33, 48)
    labels = torch.tensor([0, 1])[:, None, None].expand(2, 33, 48)
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(module(images).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_fcn8s_adds_its_scores() -> None:
    """With skips that are constant, the fine scores are added to the upsampled coarse one."""
    torch.manual_seed(0)
    module = FCN8s(small_trunk(32), 2).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        coarse = module(image).logits
        module.scores[1].bias.copy_(torch.tensor([1.0, 2.0]))
        module.scores[2].bias.copy_(torch.tensor([10.0, 20.0]))
        shifted = module(image).logits
    expected = torch.tensor([11.0, 22.0])[None, :, None, None].expand_as(coarse)
    torch.testing.assert_close(shifted - coarse, expected)


def test_fcn8s_needs_its_strides() -> None:
    with pytest.raises(ValueError, match="no stage of stride 32; it has"):
        FCN8s(small_trunk(16), 2)


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="unknown segmentation network 'psp'; known: pspnet-"):
        build_segmentation("psp", 3)


@pytest.mark.parametrize(
    ("name", "count"),
    [("pspnet-lite", 3_864_694), ("fcn-lite", 3_393_014), ("fpn-lite", 3_321_275)],
)
def test_compact_networks_are_small(name: str, count: int) -> None:
    assert count_parameters(build_segmentation(name, 11)) == count
