"""Names of networks and how each is built; add a line here to add a network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from crispseg.models.cascadepsp import RefinementModule
from crispseg.models.cascadepsp_lite import LiteRefinementModule
from crispseg.models.efficientnet import EfficientNetLite
from crispseg.models.resnet import ResNet
from crispseg.models.segmentation import SegmentationModule
from crispseg.types import InputError


def cascadepsp_resnet50() -> RefinementModule:
    """The published network, 67.68 M parameters."""
    trunk = ResNet(50, in_channels=6, output_stride=8, first_dilation="one")
    return RefinementModule(trunk)


def cascadepsp_lite() -> LiteRefinementModule:
    """The cascade over one EfficientNet-Lite0 encoding, for CPUs: 2.97 M parameters."""
    trunk = EfficientNetLite(stages=5, output_stride=32, norm=False)
    return LiteRefinementModule(trunk, residuals=(2, 1, 1, 1, 1))


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "cascadepsp-resnet50": cascadepsp_resnet50,
    "cascadepsp-lite": cascadepsp_lite,
}

SEGMENTATION_BUILDERS: dict[str, Callable[[int], SegmentationModule]] = {}
"""Number of classes -> a network that names the class of every pixel."""


def build(name: str) -> nn.Module:
    """A randomly initialised network.

    Raises:
        InputError: unknown name.
    """
    if name not in BUILDERS:
        raise InputError(f"unknown network {name!r}; known: {', '.join(BUILDERS)}")
    return BUILDERS[name]()
