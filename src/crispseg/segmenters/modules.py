"""The door between tiles and PyTorch networks: normalise, pad, run, resize, softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.layers.blocks import pad_to_multiple, resize
from crispseg.models.zoo import IMAGENET_MEAN, IMAGENET_STD, Triple
from crispseg.runtime.device import best_format, resolve_device
from crispseg.runtime.segmenting import SegmentationForm
from crispseg.segmenters.base import Colour, Labels, Probabilities, label_dtype
from crispseg.types import Image, InputError

Output = Literal["logits", "probabilities"]
"""What a network returns."""


def named(class_names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Names of classes, made up where there are none.

    Raises:
        InputError: another number of names than of classes.
    """
    if not class_names:
        if num_classes == 2:
            return "background", "object"
        return tuple(f"class {i}" for i in range(num_classes))
    if len(class_names) != num_classes:
        raise InputError(f"{len(class_names)} class names for {num_classes} classes")
    return tuple(class_names)


class ModuleNetwork:
    """A PyTorch network as a TileNetwork.

    On the CPU every tile is a pass of its own, so that no result depends on the batch.

    Args:
        module: (N, 3, H, W) float32, normalised -> logits (N, classes, h, w), or a mapping with
            "out" or "logits", an object with ``.logits``, or a sequence whose first they are.
            h and w may be smaller than H and W. One channel is taken as the object's.
        num_classes: number of classes; 2 for a network with one channel.
        class_names: of each class; "class 0" and so on if empty.
        colours: RGB of each class.
        mean: subtracted from RGB in [0, 1].
        std: what is then divided by.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        multiple: sides that the network takes; tiles are padded to them with the mean.
        output: whether the network returns logits or probabilities.
        align_corners: how answers smaller than the tile are enlarged; a constant of the network.
        source: for messages.

    Raises:
        InputError: names or colours that do not fit, or a device that is not here.
    """

    largest_tile: int | None = None

    def __init__(
        self,
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
        source: str = "",
    ) -> None:
        self.num_classes = num_classes
        self.class_names = named(class_names, num_classes)
        if colours and len(colours) != num_classes:
            raise InputError(f"{len(colours)} colours for {num_classes} classes")
        self.colours = tuple(colours)
        self.mean = mean
        self.source = source or type(module).__name__
        self._device = resolve_device(device)
        self.device = str(self._device)
        # a compiled form lays out memory itself
        is_compiled = isinstance(module, SegmentationForm)
        self._format = torch.channels_last if is_compiled else best_format(module)
        self.module = module.eval().to(self._device).to(memory_format=self._format)
        self._mean = torch.tensor(mean).view(1, 3, 1, 1)
        self._std = torch.tensor(std).view(1, 3, 1, 1)
        self._multiple, self._output, self._align_corners = multiple, output, align_corners

    @torch.inference_mode()
    def probabilities(self, tiles: Sequence[Image]) -> list[Probabilities]:
        """(h, w, 3) RGB tiles of one size -> for each (num_classes, h, w) float32.

        Raises:
            InputError: the network returns something else than was said.
        """
        if self._device.type == "cpu":
            return [self._run([tile])[0] for tile in tiles]
        return self._run(tiles)

    @torch.inference_mode()
    def labels(self, tile: Image) -> Labels | None:
        """(h, w, 3) RGB -> (h, w) class numbers without full-size probabilities.

        None where the network has no compiled form.
        """
        if not isinstance(self.module, SegmentationForm):
            return None
        found = self.module.labels(self._given([tile]))[0].cpu().numpy()
        return found.astype(label_dtype(self.num_classes))

    def _given(self, tiles: Sequence[Image]) -> Tensor:
        images = torch.cat([normalised(tile, self._mean, self._std) for tile in tiles])
        images = pad_to_multiple(images, self._multiple, 0.0)
        return images.to(self._device).contiguous(memory_format=self._format)

    def _run(self, tiles: Sequence[Image]) -> list[Probabilities]:
        height, width = tiles[0].shape[:2]
        given = self._given(tiles)
        size = given.shape[-2], given.shape[-1]
        answer = answer_of(self.module(given), self.source).float()
        answer = resize(answer, size, align_corners=self._align_corners)[:, :, :height, :width]
        values = to_probabilities(answer, self._output, self.num_classes, self.source)
        return list(values.cpu().numpy())


def normalised(tile: Image, mean: Tensor, std: Tensor) -> Tensor:
    """(h, w, 3) uint8 or uint16 -> (1, 3, h, w) float32, normalised."""
    pixels = torch.from_numpy(np.ascontiguousarray(tile, dtype=np.float32))
    return (pixels.permute(2, 0, 1)[None] / float(np.iinfo(tile.dtype).max) - mean) / std


def answer_of(returned: Any, source: str) -> Tensor:
    """The one tensor (N, C, h, w) that matters in what a network returns.

    Raises:
        InputError: there is none.
    """
    if isinstance(returned, Mapping):
        returned = returned.get("out", returned.get("logits"))
    elif hasattr(returned, "logits"):
        returned = returned.logits
    elif isinstance(returned, list | tuple) and returned:
        returned = returned[0]
    if isinstance(returned, Tensor) and returned.ndim == 4:
        return returned
    raise InputError(
        f"{source} does not return (N, classes, h, w), nor such a tensor as 'out' or 'logits'"
    )


def to_probabilities(answer: Tensor, output: Output, num_classes: int, source: str) -> Tensor:
    """(N, C, h, w) logits or probabilities -> (N, num_classes, h, w) probabilities.

    One channel, the object's, becomes background and object.

    Raises:
        InputError: another number of channels, or no probabilities where they were promised.
    """
    channels = answer.shape[1]
    if channels != num_classes and not (channels == 1 and num_classes == 2):
        raise InputError(f"{source} returns {channels} channels, not {num_classes} classes")
    if channels == 1:
        answer = answer.sigmoid() if output == "logits" else answer
    elif output == "logits":
        return F.softmax(answer, dim=1)
    if not bool(((answer >= 0) & (answer <= 1)).all()):
        raise InputError(f"{source} returns no probabilities in 0..1; say output='logits'")
    if channels == 1:
        return torch.cat([1 - answer, answer], dim=1)
    total = answer.sum(dim=1, keepdim=True)
    if not bool(((total - 1).abs() < 1e-2).all()):
        raise InputError(f"{source}: probabilities of a pixel do not add up to 1; say output=")
    return answer / total
