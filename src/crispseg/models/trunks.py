"""Trunks from elsewhere: the networks of timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from crispseg.layers.blocks import pad_to_multiple
from crispseg.types import InputError


class TimmTrunk(nn.Module):
    """A convolutional network of timm as a ``Trunk``.

    The image is padded with zeros, right and below, to a multiple of the output stride, and
    features are cut to the image's size divided by their stride, rounded up: some networks round
    down. At sizes that divide, features are timm's own.

    Args:
        name: of the network in timm.
        output_stride: what timm builds it for; 8, 16 or 32, not all by every network.
        pretrained: with the weights that timm names, which it downloads.

    Raises:
        InputError: timm is missing, knows no such network, cannot build it with this output
            stride, or the network takes only images of one size.
    """

    def __init__(self, name: str, output_stride: int, *, pretrained: bool = False) -> None:
        super().__init__()
        self.network = _create(name, output_stride, pretrained)
        info = cast(Any, self.network).feature_info
        self.channels: Sequence[int] = tuple(info.channels())
        self.strides: Sequence[int] = tuple(info.reduction())
        self.output_stride = self.strides[-1]
        if self.output_stride != output_stride:
            raise InputError(
                f"timm's {name} has output stride {self.output_stride} only, not {output_stride}"
            )
        self._try_out(name)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> one (N, channels[i], H / strides[i], W / strides[i]) per stage."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.output_stride, 0.0)
        return [
            features[..., : -(-height // stride), : -(-width // stride)]
            for features, stride in zip(self.network(padded), self.strides, strict=True)
        ]

    def _try_out(self, name: str) -> None:
        """Transformers of a fixed size, or with channels last, fail here, not in training."""
        height, width = 2 * self.output_stride, 3 * self.output_stride
        expected = [
            (1, channels, height // stride, width // stride)
            for channels, stride in zip(self.channels, self.strides, strict=True)
        ]
        was_training = self.training
        try:
            with torch.no_grad():
                found = [tuple(x.shape) for x in self.eval()(torch.zeros(1, 3, height, width))]
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"timm's {name} does not take images of any size: {reason}") from None
        finally:
            self.train(was_training)
        if found != expected:
            raise InputError(
                f"timm's {name} returns features of {found} where a trunk returns {expected}; "
                "take a convolutional network"
            )


def _create(name: str, output_stride: int, pretrained: bool) -> nn.Module:
    try:
        import timm  # noqa: PLC0415
    except ImportError:
        raise InputError(
            f"the trunk {name} needs the package timm; install crispseg[backbones]"
        ) from None
    if not timm.is_model(name):
        raise InputError(f"timm knows no network {name!r}; timm.list_models() has their names")
    options: dict[str, Any] = {"features_only": True, "pretrained": pretrained}
    try:
        return timm.create_model(name, output_stride=output_stride, **options)
    except (TypeError, NotImplementedError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:120] or "it does not support that"
        raise InputError(
            f"timm cannot build {name} with output stride {output_stride}: {reason}; "
            "take another network or stride"
        ) from None
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"timm could not build {name}: {reason}; "
            "with pretrained=True it downloads weights, without it does not"
        ) from None
