"""ONNX files as segmenters, run by onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from crispseg.layers.blocks import resize
from crispseg.models.statefile import one_line
from crispseg.models.zoo import IMAGENET_MEAN, IMAGENET_STD, Triple
from crispseg.segmenters.base import Colour, Inference, Probabilities
from crispseg.segmenters.modules import Output, named, normalised, to_probabilities
from crispseg.segmenters.network import NetworkSegmenter
from crispseg.types import Image, InputError


def from_onnx(
    path: str | Path,
    *,
    class_names: Sequence[str] = (),
    colours: Sequence[Colour] = (),
    mean: Triple | None = None,
    std: Triple | None = None,
    output: Output = "logits",
    align_corners: bool = False,
    inference: Inference | None = None,
) -> NetworkSegmenter:
    """A segmenter from an ONNX file, run by onnxruntime on the CPU.

    The file's metadata may hold class_names, colours, mean and std as JSON; what is given here
    goes before that, and ImageNet's mean and std where nothing says otherwise. A file with a fixed
    input size is run on tiles of that size.

    Args:
        path: of a network (N, 3, H, W) -> (N, classes, h, w).
        class_names: of each class.
        colours: RGB of each class.
        mean: subtracted from RGB in [0, 1].
        std: what is then divided by.
        output: whether the network returns logits or probabilities.
        align_corners: how answers smaller than the tile are enlarged.
        inference: tiles, scales, flip.

    Raises:
        InputError: onnxruntime is missing, or the file cannot be used.
    """
    network = _OnnxNetwork(Path(path), output, align_corners)
    network.describe(class_names, colours, mean, std)
    if inference is None:
        inference = Inference(tile_size=network.largest_tile or Inference.tile_size)
    return NetworkSegmenter(network, inference)


class _OnnxNetwork:
    device = "cpu"
    class_names: tuple[str, ...]
    colours: tuple[Colour, ...]
    mean: Triple

    def __init__(self, path: Path, output: Output, align_corners: bool) -> None:
        try:
            import onnxruntime  # noqa: PLC0415
        except ImportError:
            raise InputError("ONNX files need onnxruntime: pip install 'crispseg[onnx]'") from None
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has no common class for what it raises
            raise InputError(f"{path} is not a usable ONNX file: {one_line(error)}") from None
        self.source = str(path)
        self._output, self._align_corners = output, align_corners
        inputs, answers = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (3, "channels"):
            raise InputError(f"{path} does not take one image (N, 3, H, W) but {shape}")
        self._input, self._answer = inputs[0].name, answers[0].name
        channels = answers[0].shape[1] if len(answers[0].shape) == 4 else None
        if not isinstance(channels, int):
            raise InputError(f"{path} does not return (N, classes, h, w) but {answers[0].shape}")
        self.num_classes = max(channels, 2)
        self._fixed = [side if isinstance(side, int) else None for side in shape[2:]]
        sides = [side for side in self._fixed if side]
        self.largest_tile = min(sides) if sides else None

    def describe(
        self,
        class_names: Sequence[str],
        colours: Sequence[Colour],
        mean: Triple | None,
        std: Triple | None,
    ) -> None:
        """Names, colours and preprocessing: those given, else the file's, else ImageNet's."""
        said = self._session.get_modelmeta().custom_metadata_map
        try:
            found = {
                key: json.loads(said[key])
                for key in ("class_names", "colours", "mean", "std")
                if key in said
            }
            red, green, blue = mean or map(float, found.get("mean", IMAGENET_MEAN))
            self.mean = red, green, blue
            self._mean = torch.tensor(self.mean).view(1, 3, 1, 1)
            self._std = torch.tensor(std or found.get("std", IMAGENET_STD)).view(1, 3, 1, 1)
            self.class_names = named(class_names or found.get("class_names", ()), self.num_classes)
            self.colours = tuple(tuple(c) for c in colours or found.get("colours", ()))
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.source}: unusable metadata: {one_line(error)}") from None

    def probabilities(self, tiles: Sequence[Image]) -> list[Probabilities]:
        return [self._one(tile) for tile in tiles]

    def _one(self, tile: Image) -> Probabilities:
        height, width = tile.shape[:2]
        image = normalised(tile, self._mean, self._std)
        sides = [fixed or side for fixed, side in zip(self._fixed, (height, width), strict=True)]
        image = nn.functional.pad(image, (0, sides[1] - width, 0, sides[0] - height))
        try:
            [answer] = self._session.run([self._answer], {self._input: image.numpy()})
        except Exception as error:  # as above
            raise InputError(
                f"{self.source} fails on a tile of {width}x{height}: {one_line(error)}"
            ) from None
        logits = resize(
            torch.from_numpy(answer).float(),
            (sides[0], sides[1]),
            align_corners=self._align_corners,
        )
        logits = logits[:, :, :height, :width]
        values = to_probabilities(logits, self._output, self.num_classes, self.source)
        result: Probabilities = values[0].numpy()
        return result
