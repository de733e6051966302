"""Any network, any size of image: the segmenter that everything else here is wrapped in.

Tiles run one after another; what no later tile can touch is averaged over scales, turned into
labels and forgotten. No array of classes x height x width exists unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from crispseg.models.weights import MAX_CLASSES
from crispseg.segmenters.base import (
    Inference,
    LabelNetwork,
    Labels,
    Probabilities,
    Progress,
    TileNetwork,
    label_dtype,
)
from crispseg.segmenters.scales import RowStream, ScaledImage
from crispseg.tiling.blend import Values
from crispseg.tiling.cells import CellMerger
from crispseg.tiling.grid import plan_tiles
from crispseg.tiling.sliding import TilePlan, run_tiles
from crispseg.types import Box, Image, InputError, Size, check_image

ROWS_AT_ONCE = 32
"""Rows of the result that are averaged over scales in one go."""

Write = Callable[[Box, Values], None]
"""Receives each part of the result once: its box and (classes, h, w) probabilities."""


class NetworkSegmenter:
    """A Segmenter from a network that sees tiles.

    The result does not depend on ``batch_size`` where the network does not; ours do not on a CPU.

    Attributes:
        num_classes: number of classes.
        class_names: of each class.
        colours: RGB of each class; none if there are no usual ones.
        network: what is asked.
        inference: how the network looks at an image.
        batch_size: most tiles in one call of the network.

    Args:
        network: see ``TileNetwork``.
        inference: tiles, scales, flip.
        batch_size: most tiles in one call of the network.

    Raises:
        InputError: too many classes, a batch size below 1, or tiles that the network cannot see.
    """

    def __init__(
        self, network: TileNetwork, inference: Inference | None = None, *, batch_size: int = 1
    ) -> None:
        if not 2 <= network.num_classes <= MAX_CLASSES:
            raise InputError(f"{network.source} has {network.num_classes} classes; 2 are needed")
        if batch_size < 1:
            raise InputError(f"batch_size must be 1 or more, not {batch_size}")
        self.network = network
        self.inference = inference or Inference()
        self.num_classes, self.class_names = network.num_classes, network.class_names
        self.colours = network.colours
        self.batch_size = batch_size
        tile, largest = self.inference.tile_size, network.largest_tile
        if largest is not None and (tile is None or tile > largest):
            raise InputError(
                f"{network.source} sees tiles of {largest} px at most; give tile_size={largest} "
                f"(--tile-size {largest})"
            )

    def segment(self, image: Image, *, progress: Progress | None = None) -> Labels:
        """The likeliest class of every pixel; the first of equals.

        Args:
            image: (H, W, 3) RGB, uint8 or uint16, any size.
            progress: called with (network runs done, network runs in all).

        Returns:
            (H, W) uint8, or uint16 with more than 255 classes.

        Raises:
            InputError: not such an image.
        """
        image = check_image(image)
        alone = self._seen_whole(image)
        if alone is not None:
            _Counter(1, progress)(Box(0, 0, *alone.shape))
            return alone
        labels = np.zeros(image.shape[:2], label_dtype(self.num_classes))
        self.run(image, partial(write_labels_to, labels), progress=progress)
        return labels

    def _seen_whole(self, image: Image) -> Labels | None:
        """Labels of an image that is one tile, seen once as it is, where the network has a way."""
        way, size = self.inference, Size(*image.shape[:2])
        fits = way.tile_size is None or max(size) <= way.tile_size
        plain = not way.flip and not way.pad and way.sizes(size) == [size]
        if not fits or not plain or not isinstance(self.network, LabelNetwork):
            return None
        return self.network.labels(image)

    def probabilities(self, image: Image, *, progress: Progress | None = None) -> Probabilities:
        """Probabilities of every class; classes x height x width x 4 bytes.

        Args:
            image: (H, W, 3) RGB, uint8 or uint16, any size.
            progress: called with (network runs done, network runs in all).

        Returns:
            (num_classes, H, W) float32 in [0, 1], the classes of a pixel adding up to 1.

        Raises:
            InputError: not such an image.
        """
        result = np.zeros((self.num_classes, *check_image(image).shape[:2]), np.float32)
        self.run(image, partial(write_values_to, result), progress=progress)
        return result

    def run(self, image: Image, write: Write, *, progress: Progress | None = None) -> None:
        """Hand the probabilities of an image to ``write``, part by part; nothing is kept.

        Parts are rectangles in no promised order that cover the image once. Bounded memory: tiles
        follow the shorter side, so that what waits for neighbours is as little as can be.

        Args:
            image: (H, W, 3) RGB, uint8 or uint16.
            write: called with (box, (num_classes, h, w) float32) of each part.
            progress: called with (network runs done, network runs in all).

        Raises:
            InputError: not such an image.
        """
        image = check_image(image)
        turned = image.shape[1] > image.shape[0]
        if not turned:
            self._run_rows(image, self.predict, write, progress)
            return

        def predict(tiles: Sequence[Image]) -> list[Values]:
            answers = self.predict([tile.swapaxes(0, 1) for tile in tiles])
            return [values.swapaxes(1, 2) for values in answers]

        def write_back(box: Box, values: Values) -> None:
            write(Box(box.x0, box.y0, box.x1, box.y1), values.swapaxes(1, 2))

        self._run_rows(image.swapaxes(0, 1), predict, write_back, progress)

    def _run_rows(
        self,
        image: Image,
        predict: Callable[[Sequence[Image]], list[Values]],
        write: Write,
        progress: Progress | None,
    ) -> None:
        size = Size(*image.shape[:2])
        plans = [self._plan(scaled) for scaled in self.inference.sizes(size)]
        count = _Counter(sum(len(plan.tiles) for plan in plans), progress)
        if len(plans) == 1 and plans[0].size == size:
            run_tiles(
                plans[0],
                lambda boxes: predict([image[box.slices] for box in boxes]),
                CellMerger(plans[0].tiles, write),
                selected=[True] * len(plans[0].tiles),
                batch_size=self.batch_size,
                on_tile=count,
            )
            return
        streams = [
            RowStream(
                plan,
                self.num_classes,
                ScaledImage(image, plan.size).tile,
                predict,
                self.batch_size,
                count,
            )
            for plan in plans
        ]
        for y0 in range(0, size.height, ROWS_AT_ONCE):
            box = Box(y0, 0, min(y0 + ROWS_AT_ONCE, size.height), size.width)
            total = streams[0].window(size, box)
            for stream in streams[1:]:
                total += stream.window(size, box)
            total /= np.float32(len(streams))
            write(box, total)

    def _plan(self, size: Size) -> TilePlan:
        way = self.inference
        tiles = plan_tiles(size, way.tile_size or max(size), way.overlap)
        return TilePlan(size, tiles, way.margin_px, way.ramp_px)

    def predict(self, tiles: Sequence[Image]) -> list[Values]:
        """Probabilities of tiles of one size; padding and mirror images are dealt with here."""
        height, width = tiles[0].shape[:2]
        y, x = 0, 0
        if self.inference.pad and self.inference.tile_size:
            bottom, right = (max(self.inference.tile_size - n, 0) for n in (height, width))
            y, x = bottom // 2, right // 2
            tiles = [self._padded(tile, (y, bottom - y), (x, right - x)) for tile in tiles]
        answers = self.network.probabilities(tiles)
        if self.inference.flip:
            mirrored = self.network.probabilities([tile[:, ::-1] for tile in tiles])
            answers = [_mean(a, b[:, :, ::-1]) for a, b in zip(answers, mirrored, strict=True)]
        return [values[:, y : y + height, x : x + width] for values in answers]

    def _padded(self, tile: Image, rows: tuple[int, int], columns: tuple[int, int]) -> Image:
        height, width = tile.shape[0] + sum(rows), tile.shape[1] + sum(columns)
        peak = np.iinfo(tile.dtype).max
        padded = np.empty((height, width, 3), tile.dtype)
        padded[:] = np.rint(np.asarray(self.network.mean) * peak)
        inside = Box(rows[0], columns[0], rows[0] + tile.shape[0], columns[0] + tile.shape[1])
        padded[inside.slices] = tile
        return padded


def write_labels_to(labels: Labels, box: Box, values: Values) -> None:
    """Put the likeliest classes of one part into ``labels`` (H, W)."""
    part = labels[box.slices]
    for y0 in range(0, len(part), ROWS_AT_ONCE):  # argmax copies what it is given
        rows = slice(y0, y0 + ROWS_AT_ONCE)
        part[rows] = values[:, rows].argmax(axis=0)


def write_values_to(result: Probabilities, box: Box, values: Values) -> None:
    """Put one part into ``result`` (classes, H, W), which may be a file mapped into memory."""
    result[:, *box.slices] = values


class _Counter:
    """Counts tiles for a progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress
        if progress:
            progress(0, total)

    def __call__(self, _box: Box) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)


def _mean(first: Values, second: Values) -> Values:
    mean: Values = first + second
    mean /= 2
    return mean
