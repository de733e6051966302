"""Names of networks and how each is built; add a line here to add a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from crispseg.models.cascadepsp import RefinementModule
from crispseg.models.cascadepsp_lite import LiteRefinementModule
from crispseg.models.deeplabv3 import AsppOptions, DeepLabV3, Form, deeplabv3_torchvision
from crispseg.models.efficientnet import EfficientNetLite
from crispseg.models.fcn import FCN, fcn8s_resnet, fcn_resnet
from crispseg.models.fpn import FPN, fpn_resnet
from crispseg.models.pspnet import PSPNet, pspnet_resnet
from crispseg.models.refinenet import LightWeightRefineNet, RefineNet, Variant
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


def build(name: str) -> nn.Module:
    """A randomly initialised network.

    Raises:
        InputError: unknown name.
    """
    if name not in BUILDERS:
        raise InputError(f"unknown network {name!r}; known: {', '.join(BUILDERS)}")
    return BUILDERS[name]()


def lite_trunk(output_stride: int = 16) -> EfficientNetLite:
    """The compact trunk of the segmentation networks: all stages, 2.94 M parameters, no norm."""
    return EfficientNetLite(stages=6, output_stride=output_stride, norm=False)


def deeplabv3_resnet(num_classes: int, *, depth: int, form: Form) -> DeepLabV3:
    """The paper's best forms: ASPP with multi-grid (1, 2, 4), cascade with (1, 2, 1)."""
    grid = (1, 2, 4) if form == "aspp" else (1, 2, 1)
    trunk = ResNet(depth, output_stride=16, multi_grid=grid)
    return DeepLabV3(trunk, num_classes, form=form, norm_momentum=0.0003)


def deeplabv3_lite(num_classes: int) -> DeepLabV3:
    """ASPP of 128 channels on EfficientNet-Lite0."""
    aspp = AsppOptions(channels=128)
    return DeepLabV3(lite_trunk(16), num_classes, aspp=aspp, align_corners=False)


def refinenet_resnet(num_classes: int, *, depth: int, variant: Variant) -> RefineNet:
    """RefineNet on one ResNet."""
    return RefineNet(ResNet(depth), num_classes, variant=variant)


def refinenet_two_scales(num_classes: int, *, depth: int) -> RefineNet:
    """4-cascaded on two ResNets that see the image at 1.2 and at 0.6 of its size."""
    trunks = [ResNet(depth), ResNet(depth)]
    return RefineNet(trunks, num_classes, scales=(1.2, 0.6))


def lwrefinenet_resnet(num_classes: int, *, depth: int) -> LightWeightRefineNet:
    """Light-Weight RefineNet as published."""
    return LightWeightRefineNet(ResNet(depth), num_classes)


def lwrefinenet_lite(num_classes: int) -> LightWeightRefineNet:
    """Light-Weight RefineNet of 128 channels on EfficientNet-Lite0."""
    return LightWeightRefineNet(
        lite_trunk(32),
        num_classes,
        width=128,
        deepest_width=128,
        input_norm=True,
        align_corners=False,
    )


def pspnet_lite(num_classes: int) -> PSPNet:
    """PSPNet for CPUs."""
    return PSPNet(lite_trunk(), num_classes, head_channels=128, align_corners=False)


def fcn_lite(num_classes: int) -> FCN:
    """The dilated FCN for CPUs."""
    return FCN(lite_trunk(), num_classes, head_channels=128)


def fpn_lite(num_classes: int) -> FPN:
    """The panoptic FPN for CPUs, down to stride 32."""
    trunk = lite_trunk(output_stride=32)
    return FPN(trunk, num_classes, channels=96, branch_channels=64, lateral_norm=True)


# Networks from an image to class logits: a function of the number of classes.
SEGMENTATION_BUILDERS: dict[str, Callable[[int], SegmentationModule]] = {
    "pspnet-resnet18": partial(pspnet_resnet, 18),
    "pspnet-resnet34": partial(pspnet_resnet, 34),
    "pspnet-resnet50": partial(pspnet_resnet, 50),
    "pspnet-resnet101": partial(pspnet_resnet, 101),
    "pspnet-resnet152": partial(pspnet_resnet, 152),
    "pspnet-resnet269": partial(pspnet_resnet, 269),
    "pspnet-lite": pspnet_lite,
    "fcn-resnet50": partial(fcn_resnet, 50),
    "fcn-resnet101": partial(fcn_resnet, 101),
    "fcn8s-resnet50": partial(fcn8s_resnet, 50),
    "fcn8s-resnet101": partial(fcn8s_resnet, 101),
    "fcn-lite": fcn_lite,
    "fpn-resnet50": partial(fpn_resnet, 50),
    "fpn-resnet101": partial(fpn_resnet, 101),
    "fpn-lite": fpn_lite,
    "deeplabv3-resnet50": partial(deeplabv3_resnet, depth=50, form="aspp"),
    "deeplabv3-resnet101": partial(deeplabv3_resnet, depth=101, form="aspp"),
    "deeplabv3-cascade-resnet50": partial(deeplabv3_resnet, depth=50, form="cascade"),
    "deeplabv3-cascade-resnet101": partial(deeplabv3_resnet, depth=101, form="cascade"),
    "deeplabv3-torchvision-resnet50": partial(deeplabv3_torchvision, 50),
    "deeplabv3-torchvision-resnet101": partial(deeplabv3_torchvision, 101),
    "deeplabv3-lite": deeplabv3_lite,
    "refinenet-resnet50": partial(refinenet_resnet, depth=50, variant="4-cascaded"),
    "refinenet-resnet101": partial(refinenet_resnet, depth=101, variant="4-cascaded"),
    "refinenet-resnet152": partial(refinenet_resnet, depth=152, variant="4-cascaded"),
    "refinenet-single-resnet50": partial(refinenet_resnet, depth=50, variant="single"),
    "refinenet-2cascaded-resnet50": partial(refinenet_resnet, depth=50, variant="2-cascaded"),
    "refinenet-2scale-resnet50": partial(refinenet_two_scales, depth=50),
    "lwrefinenet-resnet50": partial(lwrefinenet_resnet, depth=50),
    "lwrefinenet-resnet101": partial(lwrefinenet_resnet, depth=101),
    "lwrefinenet-resnet152": partial(lwrefinenet_resnet, depth=152),
    "lwrefinenet-lite": lwrefinenet_lite,
}


def build_segmentation(name: str, num_classes: int) -> SegmentationModule:
    """A randomly initialised segmentation network.

    Raises:
        InputError: unknown name.
    """
    if name not in SEGMENTATION_BUILDERS:
        known = ", ".join(SEGMENTATION_BUILDERS)
        raise InputError(f"unknown segmentation network {name!r}; known: {known}")
    return SEGMENTATION_BUILDERS[name](num_classes)
