"""Networks of other libraries as segmenters; nothing else in crispseg sees the difference.

No library is imported: a network is taken by what it has, so that any version will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crispseg.layers.blocks import resize
from crispseg.models.zoo import IMAGENET_MEAN, IMAGENET_STD, Triple
from crispseg.segmenters.base import Colour, Inference, Probabilities
from crispseg.segmenters.modules import (
    ModuleNetwork,
    Output,
    named,
    to_probabilities,
)
from crispseg.segmenters.network import NetworkSegmenter
from crispseg.types import Image, InputError


def from_module(
    module: nn.Module,
    *,
    num_classes: int,
    class_names: Sequence[str] = (),
    colours: Sequence[Colour] = (),
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    device: str = "auto",
    multiple: int = 1,
    output: Output = "logits",
    align_corners: bool = False,
    inference: Inference | None = None,
    batch_size: int = 1,
) -> NetworkSegmenter:
    """A segmenter from any PyTorch network; see ``ModuleNetwork`` and ``NetworkSegmenter``.

    Raises:
        InputError: options that do not fit.
    """
    network = ModuleNetwork(
        module,
        num_classes=num_classes,
        class_names=class_names,
        colours=colours,
        mean=mean,
        std=std,
        device=device,
        multiple=multiple,
        output=output,
        align_corners=align_corners,
    )
    return NetworkSegmenter(network, inference, batch_size=batch_size)


def from_torchvision(
    model: nn.Module, *, class_names: Sequence[str] = (), **options: Any
) -> NetworkSegmenter:
    """A segmenter from ``torchvision.models.segmentation`` (FCN, DeepLabv3, LR-ASPP).

    Args:
        model: as torchvision builds it; returns {"out": logits}.
        class_names: ``weights.meta["categories"]``.
        options: of ``from_module``.

    Raises:
        InputError: not such a model.
    """
    layers = [m for m in _part(model, "classifier").modules() if isinstance(m, nn.Conv2d)]
    if not layers:
        raise InputError(f"{type(model).__name__} has no classifier with a convolution")
    num_classes = layers[-1].out_channels
    return from_module(model, num_classes=num_classes, class_names=class_names, **options)


def from_segmentation_models(
    model: nn.Module, *, class_names: Sequence[str] = (), **options: Any
) -> NetworkSegmenter:
    """A segmenter from segmentation_models_pytorch.

    An activation at the end is noticed. A model with ``classes=1`` gets the classes background
    and object.

    Args:
        model: any of its architectures.
        class_names: of each class.
        options: of ``from_module``; mean and std are those of
            ``smp.encoders.get_preprocessing_params``, ImageNet's if left out.

    Raises:
        InputError: not such a model.
    """
    head = _part(model, "segmentation_head")
    layers = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    if not layers:
        raise InputError(f"{type(model).__name__} has no segmentation_head with a convolution")
    last = getattr(list(head.children())[-1], "activation", nn.Identity())
    options.setdefault("output", "logits" if isinstance(last, nn.Identity) else "probabilities")
    options.setdefault("multiple", 32)
    channels = layers[-1].out_channels
    return from_module(model, num_classes=max(channels, 2), class_names=class_names, **options)


def from_hugging_face(model: nn.Module, **options: Any) -> NetworkSegmenter:
    """A segmenter from a semantic segmentation model of transformers, such as SegFormer.

    Names of classes are those of the model's configuration. Logits come at a quarter of the size
    and are enlarged before the softmax, as that library's post-processing does.

    Args:
        model: with ``config.id2label``; returns ``.logits`` (N, classes, h, w).
        options: of ``from_module``; mean and std are the image processor's ``image_mean`` and
            ``image_std``, ImageNet's if left out.

    Raises:
        InputError: not such a model.
    """
    names: Mapping[Any, str] = getattr(getattr(model, "config", None), "id2label", None) or {}
    if not names:
        raise InputError(f"{type(model).__name__} has no config.id2label; use from_module")
    ordered = [names[key] for key in sorted(names, key=int)]
    options.setdefault("class_names", ordered)
    return from_module(model, num_classes=len(ordered), **options)


def from_callable(
    function: Callable[[Image], NDArray[Any]],
    *,
    class_names: Sequence[str] = (),
    num_classes: int | None = None,
    output: Output = "probabilities",
    colours: Sequence[Colour] = (),
    mean: Triple = IMAGENET_MEAN,
    inference: Inference | None = None,
) -> NetworkSegmenter:
    """A segmenter from a function of an image, whatever is behind it.

    Args:
        function: (h, w, 3) RGB uint8 or uint16, as the image is -> (classes, h, w) numbers; h and
            w may be smaller, as ``(classes, h / 4, w / 4)``.
        class_names: of each class.
        num_classes: number of classes; not needed with ``class_names``.
        output: whether ``function`` returns logits or probabilities.
        colours: RGB of each class.
        mean: RGB in [0, 1] that tiles are padded with, where ``inference.pad`` says so.
        inference: tiles, scales, flip.

    Raises:
        InputError: neither names nor number of classes.
    """
    count = num_classes or len(class_names)
    network = _CallableNetwork(function, count, class_names, colours, mean, output)
    return NetworkSegmenter(network, inference)


class _CallableNetwork:
    largest_tile: int | None = None
    device = "unknown"

    def __init__(
        self,
        function: Callable[[Image], NDArray[Any]],
        num_classes: int,
        class_names: Sequence[str],
        colours: Sequence[Colour],
        mean: Triple,
        output: Output,
    ) -> None:
        if not num_classes:
            raise InputError("say class_names= or num_classes=")
        self.num_classes = num_classes
        self.class_names = named(class_names, num_classes)
        self.colours, self.mean = tuple(colours), mean
        self.source = getattr(function, "__name__", type(function).__name__)
        self._function, self._output = function, output

    def probabilities(self, tiles: Sequence[Image]) -> list[Probabilities]:
        return [self._one(np.ascontiguousarray(tile)) for tile in tiles]

    def _one(self, tile: Image) -> Probabilities:
        returned = np.asarray(self._function(tile))
        if returned.ndim != 3:
            raise InputError(f"{self.source} returns {returned.shape}, not (classes, h, w)")
        answer = torch.from_numpy(np.ascontiguousarray(returned, dtype=np.float32))[None]
        answer = resize(answer, (tile.shape[0], tile.shape[1]), align_corners=False)
        values = to_probabilities(answer, self._output, self.num_classes, self.source)
        result: Probabilities = values[0].numpy()
        return result


def _part(model: nn.Module, name: str) -> nn.Module:
    part = getattr(model, name, None)
    if not isinstance(part, nn.Module):
        raise InputError(f"{type(model).__name__} has no {name}; use from_module")
    return part
