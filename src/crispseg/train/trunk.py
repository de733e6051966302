"""Networks and trunks that start from weights learnt elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import nn

from crispseg.models.efficientnet import EfficientNetLite, load_imagenet
from crispseg.models.resnet import ResNet, widen_input
from crispseg.models.statefile import read_state
from crispseg.train.config import TrainConfig
from crispseg.types import InputError


def start_trunk(config: TrainConfig, trunk: nn.Module) -> None:
    """Fill the trunk as the recipe says; without a word there it stays random.

    Raises:
        InputError: the weights are not here, or are for another kind of trunk.
    """
    if config.imagenet_trunk:
        if not isinstance(trunk, EfficientNetLite):
            raise InputError(
                f"imagenet_trunk is for EfficientNet-Lite; {config.model} takes trunk_weights"
            )
        load_imagenet(trunk)
    if config.trunk_weights:
        if not isinstance(trunk, ResNet):
            raise InputError(f"trunk_weights is for a ResNet trunk, which {config.model} has not")
        load_torchvision(trunk, Path(config.trunk_weights))


def start_from(config: TrainConfig, module: nn.Module) -> None:
    """Fill the whole network from ``config.start_from``, if the recipe names a file.

    Raises:
        InputError: no such file, damaged, or of another network.
    """
    if not config.start_from:
        return
    try:
        module.load_state_dict(read_state(Path(config.start_from))[0])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"start_from = {config.start_from!r} does not fit {config.model}: {reason}"
        ) from None


def load_torchvision(trunk: ResNet, path: Path) -> None:
    """Fill a ResNet from a classifier's state dict; input channels beyond RGB get zero weights.

    Args:
        trunk: of the same depth.
        path: .pth or .safetensors with torchvision's names; its classifier ("fc.") is left out.

    Raises:
        InputError: no such file, damaged, or not of this depth.
    """
    state = {k: v for k, v in read_state(path)[0].items() if not k.startswith("fc.")}
    stem = cast(nn.Conv2d, trunk.conv1)
    wanted = trunk.state_dict()
    if "conv1.weight" in state and state["conv1.weight"].shape[1] <= stem.in_channels:
        state["conv1.weight"] = widen_input(state["conv1.weight"], stem.in_channels)
    wrong = [
        key
        for key in wanted.keys() | state.keys()
        if key not in wanted or key not in state or wanted[key].shape != state[key].shape
        if not key.endswith("num_batches_tracked")  # files of before 2018 have none
    ]
    if wrong:
        raise InputError(
            f"{path} does not fit the trunk: {len(wrong)} tensors differ (first: {min(wrong)})"
        )
    trunk.load_state_dict(state, strict=False)
