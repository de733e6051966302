"""Segmentation weights that others published: their names of tensors -> ours.

Known are the files of torchvision (DeepLabv3, FCN), of hszhao/semseg (PSPNet) and of
DrSleep/refinenet-pytorch and DrSleep/light-weight-refinenet (on ResNets). Classifiers on ImageNet
of torchvision, and timm's plain ResNets, have our trunk's names already.

Where they are to be had: torchvision's at download.pytorch.org; semseg's in its authors' Google
Drive folder (code MIT). DrSleep's (academic use BSD-2, commercial: ask the authors) are no longer
hosted: issue 80 of the light repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# Beginning of a name -> what stands there in ours; the first that fits counts.
TORCHVISION_FCN = {
    "backbone.": "trunk.",
    "aux_classifier.": "aux_head.",
    "classifier.": "head.",
}
TORCHVISION_DEEPLAB = {
    "backbone.": "trunk.",
    "aux_classifier.": "aux_head.",
    "classifier.0.convs.4.1.": "head.aspp.pooled.0.",
    "classifier.0.convs.4.2.": "head.aspp.pooled.1.",
    "classifier.0.convs.": "head.aspp.branches.",
    "classifier.0.project.": "head.aspp.project.",
    "classifier.1.": "head.extra.0.",
    "classifier.2.": "head.extra.1.",
    "classifier.4.": "classifier.",
}
SEMSEG = {
    "layer0.7.": "trunk.bn1.",
    "layer0.": "trunk.conv1.",
    "layer": "trunk.layer",
    "ppm.features.": "pyramid.branches.",
    "cls.": "head.",
    "aux.": "aux_head.",
}
SEMSEG_TRUNK = {  # its classifiers on ImageNet, for the deep stem
    "conv1.": "conv1.0.",
    "bn1.": "conv1.1.",
    "conv2.": "conv1.3.",
    "bn2.": "conv1.4.",
    "conv3.": "conv1.6.",
    "bn3.": "bn1.",
}
DEPTHS = {(4, 6): 50, (4, 23): 101, (8, 36): 152}  # by the blocks of layer2 and layer3


class Published(NamedTuple):
    """A published file, as ours.

    Attributes:
        architecture: key of ``crispseg.models.build.SEGMENTATION_BUILDERS``.
        num_classes: what to build it with.
        state: named tensors for ``load_state_dict``, strictly.
    """

    architecture: str
    num_classes: int
    state: dict[str, Tensor]


def recognise(state: Mapping[str, Tensor]) -> Published | None:
    """What network a published state dict is of, by its names; None if none of those known.

    All of them expect RGB with ImageNet's mean and standard deviation.

    Args:
        state: without the prefix "module.", as ``crispseg.models.statefile.read_state`` gives it.
    """
    found = _family(state)
    if found is None:
        return None
    family, classifier, renamed = found
    prefix = "backbone." if family in ("deeplabv3-torchvision", "fcn") else ""
    depth = DEPTHS.get((_blocks(state, f"{prefix}layer2"), _blocks(state, f"{prefix}layer3")))
    if depth is None or classifier not in state:
        return None
    return Published(f"{family}-resnet{depth}", len(state[classifier]), renamed)


def _family(state: Mapping[str, Tensor]) -> tuple[str, str, dict[str, Tensor]] | None:
    """Beginning of the architecture's name, name of the classifier's bias, renamed tensors."""
    if "classifier.4.bias" in state:
        deeplab = "classifier.0.project.0.weight" in state
        family = "deeplabv3-torchvision" if deeplab else "fcn"
        return family, "classifier.4.bias", from_torchvision(state)
    if "ppm.features.0.1.weight" in state:
        return "pspnet", "cls.4.bias", from_semseg(state)
    if "mflow_conv_g1_pool.0.1_outvar_dimred.weight" in state:
        full = any(name.startswith("adapt_stage1_b.") for name in state)
        return "refinenet" if full else "lwrefinenet", "clf_conv.bias", from_drsleep(state)
    return None


def _blocks(names: Iterable[str], layer: str) -> int:
    """How many numbers follow ``layer`` among the names."""
    start = f"{layer}."
    return len({n.removeprefix(start).partition(".")[0] for n in names if n.startswith(start)})


def replace_beginnings(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under new names; a name that begins like none of ``names`` stays."""
    renamed = {}
    for key, value in state.items():
        old = next((old for old in names if key.startswith(old)), "")
        renamed[names.get(old, "") + key[len(old) :]] = value
    return renamed


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of torchvision's ``deeplabv3_resnet*`` or ``fcn_resnet*``, with the auxiliary head or not."""
    deeplab = "classifier.0.project.0.weight" in state
    return replace_beginnings(state, TORCHVISION_DEEPLAB if deeplab else TORCHVISION_FCN)


def from_semseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of semseg's PSPNet; its head reads features before the pyramid's branches, ours after."""
    renamed = replace_beginnings(state, SEMSEG)
    if "head.0.weight" in renamed:
        weight = renamed["head.0.weight"]
        pooled = sum(
            len(value)
            for key, value in renamed.items()
            if re.fullmatch(r"pyramid\.branches\.\d+\.1\.weight", key)
        )
        features = weight.shape[1] - pooled
        renamed["head.0.weight"] = torch.cat([weight[:, features:], weight[:, :features]], dim=1)
    return renamed


def from_semseg_trunk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of semseg's ResNets with the deep stem, trained on ImageNet; the classifier is left out."""
    kept = {key: value for key, value in state.items() if not key.startswith("fc.")}
    return replace_beginnings(kept, SEMSEG_TRUNK)


def from_drsleep(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of DrSleep's RefineNet or Light-Weight RefineNet on a ResNet."""
    return replace_beginnings(state, _drsleep_names())


def _drsleep_names() -> dict[str, str]:
    """Theirs count from 1, the deepest; the way up belongs to the block above in ours."""
    names = {"conv1.": "trunk.conv1.", "bn1.": "trunk.bn1.", "layer": "trunk.layer"}
    names["clf_conv."] = "classifier."
    for block in range(4):
        theirs, ours = block + 1, f"blocks.{block}"
        names[f"p_ims1d2_outl{theirs}_dimred."] = f"{ours}.paths.0.2."
        names[f"adapt_stage{theirs}_b2_joint_varout_dimred."] = f"{ours}.fusion.convs.0."
        names[f"mflow_conv_g{theirs}_b3_joint_varout_dimred."] = f"blocks.{theirs}.fusion.convs.1."
        for i in range(4):
            link = f"mflow_conv_g{theirs}_pool.0.{i + 1}_outvar_dimred."
            names[link] = f"{ours}.pooling.links.{i}."
        for i in range(3):
            convs = {"_conv.": "conv1.", "_conv_relu_varout_dimred.": "conv2."}
            for suffix, conv in convs.items():
                names[f"adapt_stage{theirs}_b.0.{i + 1}{suffix}"] = f"{ours}.paths.0.{i + 3}.{conv}"
                names[f"mflow_conv_g{theirs}_b.0.{i + 1}{suffix}"] = f"{ours}.output.{i}.{conv}"
    return names
