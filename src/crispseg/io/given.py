"""The mask that is to be refined, where there is an image; what is flat is not read again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crispseg.io.outlines import Region
from crispseg.io.windows import CELL, Flags, ImageSource, MaskSource, Ranges, windows_of
from crispseg.types import Box, Mask

SCAN_PX = 1 << 21
COUNT_PX = 1 << 18


class GivenMask:
    """A mask, thresholded, and empty outside the image's valid area and the region.

    Args:
        soft: the mask, of the image's size.
        image: says where there is an image.
        region: polygons outside which nothing counts.
    """

    def __init__(self, soft: MaskSource, image: ImageSource, region: Region | None) -> None:
        self.size = image.size
        self._soft = soft
        self._image = image
        self._region = region
        self._valid_ranges: Ranges | None = None
        if region is not None or image.valid(Box(0, 0, 1, 1)) is not None:
            ranges = Ranges(self.size)
            for box in windows_of(Box(0, 0, *self.size), image.block, SCAN_PX):
                valid = self.valid(box)
                ranges.add(box, np.ones(box.size, np.bool_) if valid is None else valid)
            self._valid_ranges = ranges

    def read(self, box: Box) -> Flags:
        """(box.height, box.width) True where the mask is above 0.5 and there is an image."""
        given = np.empty(box.size, np.bool_)
        for part, value in self._runs(box):
            at = part.shift(-box.y0, -box.x0).slices
            if value is not None:
                given[at] = value
                continue
            given[at] = self._soft.read(part) > 0.5
            valid = self.valid(part)
            if valid is not None:
                given[at] &= valid
        return given

    def constant(self, box: Box) -> float | None:
        """0 or 1 if ``read`` is that all over, and it is known without reading."""
        valid = 1.0 if self._valid_ranges is None else self._valid_ranges.constant(box)
        soft = self._soft.constant(box)
        if valid == 0 or (soft is not None and not soft > 0.5):
            return 0.0
        return None if soft is None or valid is None else 1.0

    def soft(self, box: Box) -> Mask:
        """(box.height, box.width) float32 before the threshold; 0 where there is no image."""
        soft, valid = self._soft.read(box), self.valid(box)
        return soft if valid is None else soft * valid

    def valid(self, box: Box) -> Flags | None:
        """(box.height, box.width) where there is an image, inside the region; None: all over."""
        known = self._valid_ranges.constant(box) if self._valid_ranges else None
        if known is not None:
            return None if known else np.zeros(box.size, np.bool_)
        valid = self._image.valid(box)
        if self._region is None:
            return valid
        inside = self._region.read(box)
        return inside if valid is None else inside & valid

    def count(self, area: Box) -> tuple[int, int]:
        """How many pixels of a part are given, and how many could be."""
        given, possible = 0, 0
        for box in windows_of(area, self._image.block, COUNT_PX):
            value, pixels = self.constant(box), box.height * box.width
            given += int(np.count_nonzero(self.read(box)) if value is None else value * pixels)
            valid = self.valid(box)
            possible += pixels if valid is None else int(np.count_nonzero(valid))
        return given, possible

    def _runs(self, box: Box) -> Iterator[tuple[Box, float | None]]:
        """Parts side by side that are known to hold one value, and the parts between."""
        whole = self.constant(box)
        if whole is not None or box.width <= CELL:
            yield box, whole
            return
        start, known = box.x0, self.constant(Box(box.y0, box.x0, box.y1, box.x0 + CELL))
        for x in range(box.x0 + CELL, box.x1, CELL):
            value = self.constant(Box(box.y0, x, box.y1, min(x + CELL, box.x1)))
            if value != known:
                yield Box(box.y0, start, box.y1, x), known
                start, known = x, value
        yield Box(box.y0, start, box.y1, box.x1), known
