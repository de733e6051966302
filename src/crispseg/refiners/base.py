"""What every refiner takes, gives and promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from crispseg.refiners.guard import Kept
from crispseg.types import Box, Image, Mask

Progress = Callable[[int, int], None]
"""Called with (network runs done, network runs in all)."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """A refined mask and the work behind it.

    Attributes:
        mask: (H, W) float32 in [0, 1].
        tiles_run: boxes, in pixels of the full image, of the full-resolution tiles that were run.
        tiles_planned: how many full-resolution tiles the image has.
        network_runs: calls of the network in all, at every magnification.
        kept: where the guard kept the given mask, largest change first.
    """

    mask: Mask
    tiles_run: tuple[Box, ...]
    tiles_planned: int
    network_runs: int
    kept: tuple[Kept, ...] = ()


class Refiner(Protocol):
    """Anything that improves masks; the promises are in docs/architecture.md and tested."""

    def refine(
        self,
        image: Image,
        mask: Mask,
        *,
        roi: Box | None = None,
        progress: Progress | None = None,
    ) -> Mask:
        """(H, W, 3) RGB and (H, W) in [0, 1] -> (H, W) float32 in [0, 1]."""
