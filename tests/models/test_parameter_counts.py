"""Parameters of every named network, on the meta device.

torchvision publishes counts of its FCNs. For PSPNet on the deep stem, FCN-8s and FPN no count is
published by the authors; those are held against the closed form of the paper's layers, whose
trunk part is checked against torchvision's counts.
"""

from __future__ import annotations

import pytest
import torch

from crispseg.models.build import build_segmentation
from crispseg.models.resnet import LAYERS, WIDTHS
from lively import count_parameters


def conv_norm(before: int, after: int, kernel: int) -> int:
    return before * after * kernel**2 + 2 * after


def stages(depth: int, channels: int) -> int:
    """layer1 to layer4 after a stem of ``channels``."""
    total, wide = 0, depth >= 50
    for stage, (blocks, width) in enumerate(zip(LAYERS[depth], WIDTHS, strict=True)):
        after = 4 * width if wide else width
        for block in range(blocks):
            if wide:
                total += conv_norm(channels, width, 1) + conv_norm(width, width, 3)
                total += conv_norm(width, after, 1)
            else:
                total += conv_norm(channels, width, 3) + conv_norm(width, width, 3)
            if block == 0 and (stage > 0 or channels != after):
                total += conv_norm(channels, after, 1)
            channels = after
    return total


def class_head(before: int, hidden: int, num_classes: int) -> int:
    return conv_norm(before, hidden, 3) + (hidden + 1) * num_classes


def plain_stem() -> int:
    return conv_norm(3, 64, 7)


def built(name: str, num_classes: int) -> int:
    with torch.device("meta"):
        return count_parameters(build_segmentation(name, num_classes))


@pytest.mark.parametrize(
    ("depth", "published", "classifier"),
    [
        (18, 11_689_512, 513_000),
        (34, 21_797_672, 513_000),
        (50, 25_557_032, 2_049_000),
        (101, 44_549_160, 2_049_000),
        (152, 60_192_808, 2_049_000),
    ],
)
def test_closed_form_gives_torchvisions_resnets(
    depth: int, published: int, classifier: int
) -> None:
    assert plain_stem() + stages(depth, 64) == published - classifier


@pytest.mark.parametrize("depth", sorted(LAYERS))
def test_pspnet(depth: int) -> None:
    """Deep stem, 1x1 to a quarter in four branches, 3x3 to 512, auxiliary 3x3 to a quarter."""
    deep = 2048 if depth >= 50 else 512
    stem = conv_norm(3, 64, 3) + conv_norm(64, 64, 3) + conv_norm(64, 128, 3)
    pyramid = 4 * conv_norm(deep, deep // 4, 1)
    heads = class_head(2 * deep, 512, 150) + class_head(deep // 2, deep // 8, 150)
    expected = stem + stages(depth, 128) + pyramid + heads
    assert built(f"pspnet-resnet{depth}", 150) == expected


@pytest.mark.parametrize(("depth", "published"), [(50, 35_322_218), (101, 54_314_346)])
def test_fcn_has_torchvisions_count(depth: int, published: int) -> None:
    models = pytest.importorskip("torchvision.models.segmentation")
    weights = getattr(models, f"FCN_ResNet{depth}_Weights").DEFAULT
    assert weights.meta["num_params"] == published
    assert built(f"fcn-resnet{depth}", 21) == published


@pytest.mark.parametrize("depth", [50, 101])
def test_fcn8s(depth: int) -> None:
    scores = sum((channels + 1) * 21 for channels in (2048, 1024, 512))
    assert built(f"fcn8s-resnet{depth}", 21) == plain_stem() + stages(depth, 64) + scores


@pytest.mark.parametrize("depth", [50, 101])
def test_fpn(depth: int) -> None:
    """Laterals to 256; 1, 1, 2, 3 convolutions of 128 at strides 4, 8, 16, 32."""
    laterals = sum((channels + 1) * 256 for channels in (256, 512, 1024, 2048))
    branches = 4 * conv_norm(256, 128, 3) + 3 * conv_norm(128, 128, 3)
    head = 129 * 19
    expected = plain_stem() + stages(depth, 64) + laterals + branches + head
    assert built(f"fpn-resnet{depth}", 19) == expected
