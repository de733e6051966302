"""Training samples of MagNet's refinement module: one place of an image, at every magnification.

A sample is a chain of tiles, each inside the one before: the whole image, made small, then a tile
of every larger size of the image around one point. As with all samples here, the seed and the
index decide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crispseg.data.crops import decode
from crispseg.data.datasets.base import Dataset
from crispseg.data.seeded import SeededSamples
from crispseg.types import InputError, Size


class StageViews(NamedTuple):
    """One sample; a batch of them collates to a ``StageViews`` of batched tensors.

    Attributes:
        images: (S, 3, h, w) uint8 RGB: the whole image, then a tile of each later stage.
        boxes: (S, 4) float32: where they lie, y0, x0, y1, x1 as shares of the image's sides.
        labels: (S, h, w) uint8; 255 is void.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor


class StageSamples(SeededSamples[StageViews]):
    """Samples 0 .. length-1 of a data set.

    Args:
        dataset: the images.
        sides: long side of the image at each stage, rising; 0 is the image's own. The first
            stage's is that of ``tile``, whatever it says: the whole image is made that small.
        tile: what the network sees at every stage.
        flip: mirror half of the samples.
        seed: with the index, decides every sample.
        length: number of samples.

    Raises:
        InputError: fewer than two stages, or sides that fall.
    """

    def __init__(
        self,
        dataset: Dataset,
        sides: Sequence[int],
        tile: Size,
        *,
        flip: bool = True,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        super().__init__(seed, length)
        known = [side for side in sides if side]
        if len(sides) < 2 or known != sorted(known) or 0 in sides[:-1]:
            raise InputError("stage_sides: two or more, rising; only the last may be 0")
        self._dataset, self._sides, self._tile, self._flip = dataset, tuple(sides), tile, flip

    def __getitem__(self, index: int) -> StageViews:
        """Sample ``index``; the same whenever and wherever it is asked for."""
        rng = self.draw_of(index)
        image, labels = decode(self._dataset, index % len(self._dataset))
        boxes = chain_of_tiles(Size(*labels.shape), self._sides, self._tile, rng)
        views = [_cut(image, box, self._tile, cv2.INTER_AREA) for box in boxes]
        maps = [_cut(labels, box, self._tile, cv2.INTER_NEAREST) for box in boxes]
        shares = np.array(boxes, np.float32)
        pixels, classes = np.stack(views), np.stack(maps)
        if self._flip and rng.random() < 0.5:
            pixels, classes = pixels[:, :, ::-1], classes[:, :, ::-1]
            shares[:, [1, 3]] = 1 - shares[:, [3, 1]]
        return StageViews(
            torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))),
            torch.from_numpy(shares),
            torch.from_numpy(np.ascontiguousarray(classes)),
        )


Shares = tuple[float, float, float, float]


def chain_of_tiles(
    size: Size, sides: Sequence[int], tile: Size, rng: np.random.Generator
) -> list[Shares]:
    """Boxes (y0, x0, y1, x1 as shares of the image's sides), each inside the one before.

    The last tile lies anywhere; each earlier one anywhere that holds the next.
    """
    chain: list[Shares] = []
    inner = None
    for side in reversed(sides[1:]):
        factor = 1.0 if side in (0, max(size)) else side / max(size)
        spans = [min(t / (n * factor), 1.0) for t, n in zip(tile, size, strict=True)]
        if inner is None:
            low, high = [0.0, 0.0], [1 - span for span in spans]
        else:
            low = [max(inner[axis + 2] - spans[axis], 0.0) for axis in (0, 1)]
            high = [min(inner[axis], 1 - spans[axis]) for axis in (0, 1)]
        y, x = (float(rng.uniform(a, max(a, b))) for a, b in zip(low, high, strict=True))
        inner = (y, x, min(y + spans[0], 1.0), min(x + spans[1], 1.0))
        chain.append(inner)
    return [(0.0, 0.0, 1.0, 1.0), *reversed(chain)]


def _cut(array: NDArray[np.uint8], box: Shares, tile: Size, way: int) -> NDArray[np.uint8]:
    """The pixels of a box, resized to a tile."""
    height, width = array.shape[:2]
    y0, x0 = round(box[0] * height), round(box[1] * width)
    y1, x1 = max(round(box[2] * height), y0 + 1), max(round(box[3] * width), x0 + 1)
    part = np.ascontiguousarray(array[y0:y1, x0:x1])
    resized: NDArray[np.uint8] = cv2.resize(part, (tile.width, tile.height), interpolation=way)
    return resized
