"""Scenes of any size with exact truth, made window by window: nothing large is ever held.

Every pixel follows from its coordinates and a seed, so any window of an image, of its truth and of
a rough mask can be had without the rest, on any machine, the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crispseg.types import Box, Image, Size

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Disc:
    """A disc: centre and radius in pixels."""

    y: float
    x: float
    radius: float

    def covers(self, box: Box) -> Flags:
        """(box.height, box.width) whether a pixel's centre lies inside."""
        y = np.arange(box.y0, box.y1, dtype=np.float64)[:, None] + 0.5 - self.y
        x = np.arange(box.x0, box.x1, dtype=np.float64)[None, :] + 0.5 - self.x
        return np.asarray(y * y + x * x < self.radius**2)


@dataclass(frozen=True)
class SyntheticScene:
    """Bright discs on a dark ground, both with grain.

    Attributes:
        size: of the image, up to 2^31 pixels a side.
        discs: the objects.
        seed: of the grain.
        offset_px: how far down and to the right the rough mask is off.
    """

    size: Size
    discs: tuple[Disc, ...]
    seed: int = 0
    offset_px: float = 12

    def truth(self, box: Box) -> Flags:
        """(box.height, box.width) the objects."""
        return self._union(self.discs, box)

    def rough(self, box: Box) -> Flags:
        """(box.height, box.width) the objects, in the wrong place."""
        off = self.offset_px
        moved = tuple(Disc(d.y + off, d.x + off, d.radius) for d in self.discs)
        return self._union(moved, box)

    def image(self, box: Box) -> Image:
        """(box.height, box.width, 3) uint8."""
        y = np.arange(box.y0, box.y1, dtype=np.uint64)[:, None]
        x = np.arange(box.x0, box.x1, dtype=np.uint64)[None, :]
        # a multiplicative hash of both coordinates (Knuth, volume 3, section 6.4)
        code = (y * np.uint64(0x9E3779B97F4A7C15)) ^ (x * np.uint64(0xC2B2AE3D27D4EB4F))
        code = (code + np.uint64(self.seed)) * np.uint64(0xD6E8FEB86659FD93)
        grain = (code >> np.uint64(59)).astype(np.uint8)  # 0..31
        base = np.where(self.truth(box)[..., None], (190, 150, 90), (50, 80, 110))
        return (base + grain[..., None]).astype(np.uint8)

    @staticmethod
    def _union(discs: tuple[Disc, ...], box: Box) -> Flags:
        covered = np.zeros(box.size, np.bool_)
        for disc in discs:
            reach = int(disc.radius) + 2
            y, x = int(disc.y), int(disc.x)
            around = Box(y - reach, x - reach, y + reach, x + reach)
            y0, x0 = max(around.y0, box.y0), max(around.x0, box.x0)
            part = Box(y0, x0, min(around.y1, box.y1), min(around.x1, box.x1))
            if min(part.size) > 0:
                covered[part.shift(-box.y0, -box.x0).slices] |= disc.covers(part)
        return covered
