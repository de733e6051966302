"""Converters of published weights, each on a state dict in the published layout.

Layouts are written here by name and shape; what a network does with them is computed from these
names alone, and must be what ours does with the converted ones.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.models.build import SEGMENTATION_BUILDERS
from crispseg.models.pspnet import PSPNet
from crispseg.models.published import from_drsleep, from_semseg, from_semseg_trunk, recognise
from crispseg.models.refinenet import LIGHT_WEIGHT, RefineNet, RefineOptions
from crispseg.models.resnet import ResNet
from crispseg.models.weights import load_model
from lively import lively

State = dict[str, Tensor]
WIDTH, CLASSES = 6, 3


def drsleep_decoder(light: bool, stages: tuple[int, ...], width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes; ``stages``: channels of the trunk's, deepest first."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, before: int, after: int, side: int, bias: bool = False) -> None:
        shapes[f"{name}.weight"] = (after, before, side, side)
        if bias:
            shapes[f"{name}.bias"] = (after,)

    def units(name: str, count: int, channels: int) -> None:
        for i in range(1, count + 1):
            conv(f"{name}.0.{i}_conv", channels, channels, 3, bias=True)
            conv(f"{name}.0.{i}_conv_relu_varout_dimred", channels, channels, 3)

    side = 1 if light else 3
    for k, channels in enumerate(stages, start=1):
        own = 2 * width if k == 1 else width
        conv(f"p_ims1d2_outl{k}_dimred", channels, own, side)
        if not light:
            units(f"adapt_stage{k}_b", 2, own)
            units(f"mflow_conv_g{k}_b", 3, own)
        if k > 1:
            conv(f"adapt_stage{k}_b2_joint_varout_dimred", own, own, side)
        for i in range(1, 5):
            conv(f"mflow_conv_g{k}_pool.0.{i}_outvar_dimred", own, own, side)
        if k < 4:
            conv(f"mflow_conv_g{k}_b3_joint_varout_dimred", own, width, side)
    conv("clf_conv", width, CLASSES, 3, bias=True)
    return shapes


def drsleep_logits(state: State, features: list[Tensor], light: bool) -> Tensor:
    """At the size of the finest features, which come deepest first."""

    def conv(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def units(name: str, count: int, x: Tensor) -> Tensor:
        for i in range(1, count + 1):
            inner = conv(f"{name}.0.{i}_conv", F.relu(x))
            x = x + conv(f"{name}.0.{i}_conv_relu_varout_dimred", F.relu(inner))
        return x

    below = None
    for k, feature in enumerate(features, start=1):
        x = conv(f"p_ims1d2_outl{k}_dimred", feature)
        if not light:
            x = units(f"adapt_stage{k}_b", 2, x)
        if below is not None:
            x = conv(f"adapt_stage{k}_b2_joint_varout_dimred", x)
            x = x + F.interpolate(below, x.shape[-2:], mode="bilinear", align_corners=True)
        x = F.relu(x)
        top = x
        for i in range(1, 5):
            top = conv(f"mflow_conv_g{k}_pool.0.{i}_outvar_dimred", F.max_pool2d(top, 5, 1, 2))
            x = x + top
        if not light:
            x = units(f"mflow_conv_g{k}_b", 3, x)
        if k < 4:
            below = conv(f"mflow_conv_g{k}_b3_joint_varout_dimred", x)
    return conv("clf_conv", x)


@pytest.mark.parametrize("light", [False, True])
def test_drsleep(light: bool) -> None:
    torch.manual_seed(0)
    trunk = ResNet(18)
    shapes = drsleep_decoder(light, (512, 256, 128, 64), WIDTH)
    state = {name: torch.randn(shape) / shape[0] ** 0.5 / 3 for name, shape in shapes.items()}
    options = LIGHT_WEIGHT if light else RefineOptions()
    options = RefineOptions(**(vars(options) | {"width": WIDTH}))
    net = RefineNet(ResNet(18), CLASSES, options=options)
    net.load_state_dict(from_drsleep(state | trunk.state_dict()))
    net.double()
    state = {name: value.double() for name, value in state.items()}
    image = torch.randn(1, 3, 75, 90, dtype=torch.float64)
    with torch.no_grad():
        features = net.eval().trunk(image)
        expected = drsleep_logits(state, features[:0:-1], light)
        expected = F.interpolate(expected, (75, 90), mode="bilinear", align_corners=True)
        torch.testing.assert_close(net(image).logits, expected)


def bottlenecks(depth: int) -> State:
    """A ResNet's tensors without data, under the names that everyone uses."""
    with torch.device("meta"):
        return ResNet(depth).state_dict()


@pytest.mark.parametrize(
    ("light", "depth"), [*itertools.product([True], [50, 101, 152]), (False, 101)]
)
def test_drsleeps_files_are_recognised(light: bool, depth: int) -> None:
    shapes = drsleep_decoder(light, (2048, 1024, 512, 256), 256)
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes.items()} | bottlenecks(depth)
    found = recognise(state)
    assert found is not None
    assert found.architecture == f"{'lwrefinenet' if light else 'refinenet'}-resnet{depth}"
    assert found.num_classes == CLASSES
    fits(found.architecture, found.num_classes, found.state)


def fits(architecture: str, num_classes: int, state: State) -> None:
    with torch.device("meta"):
        wanted = SEGMENTATION_BUILDERS[architecture](num_classes).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in wanted.items()}


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize(
    ("theirs", "ours"), [("deeplabv3", "deeplabv3-torchvision"), ("fcn", "fcn")]
)
def test_torchvisions_files_are_recognised(theirs: str, ours: str, depth: int) -> None:
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    build = getattr(segmentation, f"{theirs}_resnet{depth}")
    with torch.device("meta"):
        state = build(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    found = recognise(state.state_dict())
    assert found is not None
    assert found.architecture == f"{ours}-resnet{depth}"
    fits(found.architecture, 21, found.state)


def semseg_names(state: State) -> State:
    """Our PSPNet's tensors as semseg has them, part by part."""
    theirs = {}
    for name, value in state.items():
        first, second, rest = name.split(".", 2)
        if first == "trunk":
            scope = {"conv1": "layer0", "bn1": "layer0.7"}.get(second, second)
            theirs[f"{scope}.{rest}"] = value
        elif first == "pyramid":
            theirs[f"ppm.features.{rest}"] = value
        else:
            theirs[f"{'cls' if first == 'head' else 'aux'}.{second}.{rest}"] = value
    return theirs


def test_semsegs_file() -> None:
    """Its head reads (features, branches); a network with that order must say the same."""
    torch.manual_seed(0)
    trunk = ResNet(18, output_stride=8, first_dilation="stage", deep_stem=True)
    net = lively(PSPNet(trunk, CLASSES, head_channels=8)).double()
    theirs = semseg_names(net.state_dict())
    assert {"layer0.7.running_var", "layer3.0.conv2.weight", "ppm.features.3.2.bias"} <= set(theirs)
    image = torch.randn(1, 3, 57, 73, dtype=torch.float64)
    with torch.no_grad():
        *_, deep = net.trunk(image)
        branches = net.pyramid(deep)[:, :512]
        hidden = F.conv2d(torch.cat([deep, branches], 1), theirs["cls.0.weight"], padding=1)
        expected = nn.Sequential(*list(net.head)[1:])(hidden)
        expected = F.interpolate(expected, (57, 73), mode="bilinear", align_corners=True)
        net.load_state_dict(from_semseg(theirs))
        torch.testing.assert_close(net(image).logits, expected)


@pytest.mark.parametrize("depth", [50, 101])
def test_semsegs_files_are_recognised(depth: int) -> None:
    with torch.device("meta"):
        state = SEGMENTATION_BUILDERS[f"pspnet-resnet{depth}"](19).state_dict()
    found = recognise(semseg_names(state))
    assert found is not None
    assert found[:2] == (f"pspnet-resnet{depth}", 19)
    fits(found.architecture, 19, found.state)


class SemsegStem(nn.Module):
    """Three convolutions under the names of semseg's classifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        self.conv3, self.bn3 = nn.Conv2d(64, 128, 3, 1, 1, bias=False), nn.BatchNorm2d(128)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)))


def test_semsegs_trunk() -> None:
    torch.manual_seed(0)
    stem = SemsegStem()
    stem(torch.randn(2, 3, 32, 32))  # statistics that tell
    layers = {k: v for k, v in ResNet(18, deep_stem=True).state_dict().items() if "layer" in k}
    ours = ResNet(18, deep_stem=True)
    ours.load_state_dict(from_semseg_trunk(stem.state_dict() | layers | {"fc.bias": torch.ones(2)}))
    x = torch.randn(1, 3, 33, 41)
    with torch.no_grad():
        mine = F.relu(ours.eval().bn1(ours.conv1(x)))
        torch.testing.assert_close(mine, stem.eval()(x))


def test_others_are_not_recognised() -> None:
    assert recognise({}) is None
    assert recognise(bottlenecks(50)) is None
    assert recognise({"classifier.4.bias": torch.zeros(3)}) is None


def test_a_published_file_loads_as_it_is(tmp_path: Path) -> None:
    shapes = drsleep_decoder(True, (2048, 1024, 512, 256), 256)
    shapes |= {name: tuple(value.shape) for name, value in bottlenecks(50).items()}
    # One value each, seen as many: the file stays small.
    state = {name: torch.tensor(0.5).expand(shape) for name, shape in shapes.items()}
    state["clf_conv.bias"] = torch.tensor([1.0, 2.0, 3.0])
    counters = {name: torch.tensor(0) for name in state if name.endswith("num_batches_tracked")}
    path = tmp_path / "rf_lw50.pth.tar"
    torch.save(state | counters, path)
    loaded = load_model(path)
    assert loaded.architecture == "lwrefinenet-resnet50"
    assert loaded.metadata["num_classes"] == "3"
    assert loaded.mean == (0.485, 0.456, 0.406)
    assert torch.equal(loaded.module.classifier.bias, state["clf_conv.bias"])
