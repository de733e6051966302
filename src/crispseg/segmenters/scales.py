"""One image in several sizes: tiles cut out of a size, and finished rows of it on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from crispseg.tiling.area import resize_area
from crispseg.tiling.bilinear import Part, bilinear_source, bilinear_window
from crispseg.tiling.blend import Values
from crispseg.tiling.cells import CellMerger
from crispseg.tiling.sliding import TilePlan, tile_steps
from crispseg.types import Box, Image, Size

Predict = Callable[[Sequence[Image]], Sequence[Values]]
"""Tiles of one size, (h, w, 3), to their values (channels, h, w)."""

MOST_REDUCTION = 2
"""Bilinear reduction looks at 2x2 pixels; beyond this factor pixels are averaged."""


class ScaledImage:
    """An image as it looks in another size; only the tiles asked for are made.

    Bilinear, as in the papers' code; to under half the size, averages over areas.

    Args:
        image: (H, W, 3), uint8 or uint16.
        size: to see it in.
    """

    def __init__(self, image: Image, size: Size) -> None:
        self.size = size
        self._dtype = image.dtype
        height = image.shape[0]
        if height > MOST_REDUCTION * size.height:
            image = np.rint(resize_area(image, size)).astype(self._dtype)
        self._image = image

    def tile(self, box: Box) -> Image:
        """The pixels of ``box``, (h, w, 3) of the image's own dtype."""
        if self._image.shape[:2] == tuple(self.size):
            return self._image[box.slices]
        window = bilinear_window(self._image.transpose(2, 0, 1), self.size, box)
        return np.rint(window).astype(self._dtype).transpose(1, 2, 0)


class RowStream:
    """Values of all tiles of one size, as finished rows; tiles run when their rows are wanted.

    Args:
        plan: tiles in rows.
        channels: of the values.
        read: gives the pixels of a tile.
        predict: runs the network.
        batch_size: most tiles in one call of ``predict``.
        on_tile: called after each tile.
    """

    def __init__(
        self,
        plan: TilePlan,
        channels: int,
        read: Callable[[Box], Image],
        predict: Predict,
        batch_size: int,
        on_tile: Callable[[Box], None],
    ) -> None:
        self.size = plan.size
        self._channels = channels
        self._final_row = 0
        self._bands: dict[int, Values] = {}
        self._steps = tile_steps(
            plan,
            lambda boxes: predict([read(box) for box in boxes]),
            CellMerger(plan.tiles, self._keep),
            selected=[True] * len(plan.tiles),
            batch_size=batch_size,
            on_tile=on_tile,
        )

    def window(self, size: Size, box: Box) -> Values:
        """``box`` of these values, resized to ``size``. Boxes only ever go down.

        Args:
            size: of the whole, resized.
            box: (y0, y1) not above those of earlier calls.

        Returns:
            (channels, box.height, box.width) float32.
        """
        source = bilinear_source(self.size, size, box)
        first, stop = source.y0, source.y1
        while self._final_row < stop:
            self._final_row = next(self._steps)
        for top, band in list(self._bands.items()):
            if top + band.shape[1] <= first:
                del self._bands[top]
        tops = sorted(top for top in self._bands if top < stop)
        parts = [self._bands[top][:, max(first - top, 0) : stop - top] for top in tops]
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        part = Part(self.size, Box(first, 0, stop, self.size.width))
        return bilinear_window(rows, size, box, part)

    def _keep(self, cell: Box, values: Values) -> None:
        if cell.y0 not in self._bands:
            shape = self._channels, cell.height, self.size.width
            self._bands[cell.y0] = np.empty(shape, np.float32)
        self._bands[cell.y0][:, :, cell.x0 : cell.x1] = values
