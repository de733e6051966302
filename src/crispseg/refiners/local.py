"""The local step: what it is given, where it has to look, and a look at some tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crispseg.refiners.network import CascadeNetwork
from crispseg.refiners.objects import Flags
from crispseg.refiners.thin import undecided
from crispseg.tiling.bilinear import Part, bilinear_reach, bilinear_source, bilinear_window
from crispseg.tiling.blend import AXIS_WEIGHT, axis_weights
from crispseg.tiling.grid import enlargement, even_tile
from crispseg.tiling.pieces import bounding_box
from crispseg.types import Box, Size

Array = NDArray[np.float32]

UNCERTAIN = (0.05, 0.95)
AROUND_PX, AROUND_SHARE = 32, 0.25
"""What is seen around an object, in pixels at least, and as a share of its size."""
MARGIN_PX = 16
"""Outer pixels of a tile, towards its neighbours, that count nothing."""
OVERLAP_SHARE = 6
"""Neighbouring tiles share at least this part of their size."""
CONTEXT_PX = 96
"""What the network sees around the edges of a tile, at least; not beyond the tile."""
STEP_PX = 64
"""Sides of what it sees are multiples of this, or the tile's: few sizes, so batches stay whole."""
ROUND_PX = 16
"""Sides of what is looked at again at twice the size: the network need not be given more."""


@dataclass(frozen=True)
class Coarse:
    """What one magnification hands to the next, at its own, smaller size.

    Attributes:
        given: (h, w) what ``final`` would be had nothing changed: the caller's mask at that size,
            soft if the network saw it soft (global step), hard if it saw it hard (local step).
        final: (h, w) refined probabilities.
        stride4: (h, w) probabilities of the stride-4 head; of the last magnification, which hands
            nothing on, the final ones.
        part: where these arrays lie, if they are a part of the magnification only.
    """

    given: Array
    final: Array
    stride4: Array
    part: Part | None = None

    def around(self, size: Size, box: Box) -> Coarse:
        """What ``box`` of the enlarged magnification is made from."""
        whole = Size(*self.final.shape)
        source = bilinear_source(whole, size, box)
        at = source.slices
        return Coarse(self.given[at], self.final[at], self.stride4[at], Part(whole, source))

    def keeping_thin(self) -> Coarse:
        """With the given mask where this magnification is too small to decide.

        Of a part of one, the outer ``HALO_PX`` may come out wrong, but at the image's border.
        """
        return replace(
            self, final=np.where(undecided(self.given, self.final), self.given, self.final)
        )


def enlarged_by(given: Flags | Array, tile_size: int) -> int:
    """By what whole number the refiner enlarges an image for its object.

    Args:
        given: (h, w) the caller's mask, 0 or 1.
        tile_size: in pixels.
    """
    size = Size(*given.shape)
    if max(size) > tile_size:
        return 1
    return enlargement(size, bounding_box(given), tile_size)


def box_of_edges(given: Array, final: Array) -> Box | None:
    """Around all edges of both masks and all that is uncertain, with a margin; None: nothing is.

    Sides are multiples of ``ROUND_PX``, or the image's.

    Args:
        given: (h, w) the caller's mask, 0 or 1.
        final: (h, w) refined probabilities.
    """
    box = bounding_box(_uncertain(final) | edges_of(given > 0.5) | edges_of(final > 0.5))
    if not box.height:
        return None
    margin = max(AROUND_PX, round(AROUND_SHARE * (box.height * box.width) ** 0.5))
    return _rounded(box.grow(margin), Size(*given.shape), ROUND_PX)


def edges_of(mask: Flags) -> Flags:
    """(h, w) bool: where the pixel above or to the left differs."""
    edges = np.zeros(mask.shape, np.bool_)
    edges[1:] |= mask[1:] != mask[:-1]
    edges[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    return edges


def _uncertain(probability: Array) -> Flags:
    return (probability > UNCERTAIN[0]) & (probability < UNCERTAIN[1])


def pasted(whole: Array, part: Array, box: Box) -> Array:
    """``whole`` with ``part`` in the box; where the box ends within the image, it fades in.

    Args:
        whole: (..., h, w) float32 in [0, 1].
        part: (..., box.height, box.width) of the same.
        box: inside it.
    """
    size = Size(*whole.shape[-2:])
    if box.size == size:
        return part
    quarter = AROUND_PX // 4
    rows, columns = (
        axis_weights(*span, margin_px=quarter, ramp_px=2 * quarter).astype(np.float32) / AXIS_WEIGHT
        for span in ((box.y0, box.y1, size.height), (box.x0, box.x1, size.width))
    )
    result = whole.copy()
    inside = result[..., *box.slices]
    change = part - inside
    change *= rows[:, None] * columns  # exact: eight bits each
    inside += change  # equal values stay what they are
    np.clip(inside, 0, 1, out=inside)
    return result


@dataclass(frozen=True)
class Look:
    """One tile of the local step.

    Attributes:
        values: (channels, h, w) probabilities that stay where the network does not look: the final
            ones, and those at stride 4.
        stride4: (window.height, window.width) the latter in the window.
        window: where it looks, in pixels of the tile.
    """

    values: Array
    stride4: Array
    window: Box

    def for_network(self, *, soft: bool) -> list[Array]:
        """The local step's two masks in [-1, 1]: S1 and S4.

        Args:
            soft: see ``CascadeModule.takes_soft``; False: S1 binarised (released code).
        """
        final = self.values[0, *self.window.slices]
        if not soft:
            final = (final > 0.5).astype(np.float32)
        return [final * 2 - 1, self.stride4 * 2 - 1]

    def with_result(self, found: Array) -> Array:
        """(channels, h, w) probabilities of the tile, those that the network found among them."""
        return pasted(self.values, found, self.window)


def tiling(size: Size, tile_size: int) -> tuple[Size, int]:
    """How large tiles of at most ``tile_size`` x ``tile_size`` are, and how much they share."""
    overlap_px = max(tile_size // OVERLAP_SHARE, 3 * MARGIN_PX) // 2 * 2
    return even_tile(size, tile_size, overlap_px), overlap_px


def window_around(marked: Box, tile: Size) -> Box:
    """What the network sees of a tile in which it has to look at ``marked``; nothing if none."""
    return _rounded(marked.grow(CONTEXT_PX), tile, STEP_PX) if marked.height else marked


def _rounded(box: Box, size: Size, step: int) -> Box:
    """Around the part of a box inside ``size``; sides are multiples of a step, or those of it."""
    y0, y1 = _rounded_span(box.y0, box.y1, size.height, step)
    x0, x1 = _rounded_span(box.x0, box.x1, size.width, step)
    return Box(y0, x0, y1, x1)


def _rounded_span(start: int, stop: int, length: int, step: int) -> tuple[int, int]:
    start, stop = max(start, 0), min(stop, length)
    side = min(-(-(stop - start) // step) * step, length)
    start = min(start, length - side)
    return start, start + side


class CoarseSource(Protocol):
    """A magnification in memory or on disk."""

    def around(self, size: Size, box: Box) -> Coarse:
        """What ``box`` of the magnification enlarged to ``size`` is made from."""


class LocalInputs:
    """What a local tile is given, computed a window at a time.

    Args:
        coarse: the magnification before.
        given: window of the caller's mask at ``size``, 0 or 1, (h, w) float32.
        size: of this magnification.
        channels: 2, the final probabilities and those at stride 4, or 1 where nobody asks for the
            latter, as of the last magnification.
    """

    def __init__(
        self, coarse: CoarseSource, given: Callable[[Box], Array], size: Size, channels: int
    ) -> None:
        self._coarse = coarse
        self._given = given
        self._size = size
        self._channels = channels

    def coarse_values(self, box: Box) -> Array:
        """(channels, h, w) probabilities that stand for a tile that is not run."""
        coarse = self._coarse.around(self._size, box)
        final = merge_detail(coarse, self._given(box), self._size, box)
        if self._channels == 1:
            return final[None]
        return np.stack([final, bilinear_window(coarse.stride4, self._size, box, coarse.part)])

    def has_edge(self, tile: Box) -> bool:
        """Whether there is anything in a tile that may change: nothing else is left out."""
        seen = self._that_count(tile)
        given = self._given(seen)
        if not _is_flat(given > 0.5):
            return True
        coarse = self._coarse.around(self._size, seen)
        if settled(coarse, given, UNCERTAIN[0] * 0.99) is not None:
            return False
        enlarged = bilinear_window(coarse.final, self._size, seen, coarse.part)
        if _uncertain(enlarged).any():
            return True
        return not _is_flat(merge_detail(coarse, given, self._size, seen, enlarged) > 0.5)

    def look(self, tile: Box) -> Look:
        """A tile that has an edge: the network looks where it has, and around."""
        coarse, given = self._coarse.around(self._size, tile), self._given(tile)
        inner = self._that_count(tile).shift(-tile.y0, -tile.x0)
        at, y, x = inner.slices, inner.y0, inner.x0
        marked = edges_of(given[at] > 0.5)
        window = window_around(bounding_box(marked).shift(y, x), tile.size)
        seen_whole = window.size == tile.size  # more that is marked could not make it larger
        enlarged = None
        if not seen_whole:
            enlarged = bilinear_window(coarse.final, self._size, tile, coarse.part)
            marked |= _uncertain(enlarged[at])
        merged = merge_detail(coarse, given, self._size, tile, enlarged)
        if not seen_whole:
            marked |= edges_of(merged[at] > 0.5)
            window = window_around(bounding_box(marked).shift(y, x), tile.size)
        if self._channels == 1:
            seen = window.shift(tile.y0, tile.x0)
            stride4 = bilinear_window(coarse.stride4, self._size, seen, coarse.part)
            return Look(merged[None], stride4, window)
        stride4 = bilinear_window(coarse.stride4, self._size, tile, coarse.part)
        return Look(np.stack([merged, stride4]), stride4[window.slices], window)

    def refined(
        self,
        tiles: Sequence[Box],
        pixels: Callable[[Box], Tensor],
        network: CascadeNetwork,
    ) -> list[Array]:
        """The local step on tiles that have an edge.

        Args:
            tiles: of this magnification.
            pixels: window of the image at this magnification, as ``network`` takes it.
            network: that looks at them.

        Returns:
            (channels, h, w) probabilities for each tile.
        """
        looks = [self.look(tile) for tile in tiles]
        images = [pixels(k.window.shift(t.y0, t.x0)) for k, t in zip(looks, tiles, strict=True)]
        masks = [look.for_network(soft=network.takes_soft) for look in looks]
        found = network.probabilities(images, masks, self._channels)
        return [look.with_result(values) for look, values in zip(looks, found, strict=True)]

    def _that_count(self, tile: Box) -> Box:
        """The pixels of a tile that have a weight, and those next to them."""
        inner = tile.grow(-MARGIN_PX)
        top, left = (inner.y0 if tile.y0 else 0), (inner.x0 if tile.x0 else 0)
        bottom = inner.y1 if tile.y1 < self._size.height else tile.y1
        right = inner.x1 if tile.x1 < self._size.width else tile.x1
        return Box(top, left, bottom, right).grow(1).clip(self._size)


def settled(coarse: Coarse, given: Array, sure: float) -> float | None:
    """0 or 1 if nothing in a window can come out further than ``sure`` from it, else None.

    Given and coarsely given mask are all 0, or all 1, and no coarse result is further off: what
    ``merge_detail`` mixes of these cannot be either.
    """
    value = float(given.flat[0])
    if value not in (0, 1) or (coarse.given != value).any() or (given != value).any():
        return None
    return value if float(np.abs(coarse.final - np.float32(value)).max()) <= sure else None


def covered(box: Box, size: Size, full: Size) -> Box:
    """The pixels of the full image that ``box`` of the image at ``size`` covers."""
    return Box(
        box.y0 * full.height // size.height,
        box.x0 * full.width // size.width,
        -(-box.y1 * full.height // size.height),
        -(-box.x1 * full.width // size.width),
    )


def _is_flat(mask: NDArray[np.bool_]) -> bool:
    return bool(mask.all() or not mask.any())


def merge_detail(
    coarse: Coarse, given: Array, size: Size, box: Box, enlarged: Array | None = None
) -> Array:
    """A coarse result enlarged, with the given mask's detail where the two agree.

    With d the change that the coarse step made, enlarged, and c the coarse result, enlarged: where
    d is 0 this is the given mask itself, to the pixel; where |d| reaches 1/2 it is c. A network
    that returns what it was given therefore changes nothing, at any ratio of sizes.

    Args:
        coarse: the magnification before.
        given: (box.height, box.width) the caller's mask in ``box``.
        size: of the enlarged result.
        box: the window wanted.
        enlarged: (box.height, box.width) the coarse result there if it is known; it is overwritten.

    Returns:
        (box.height, box.width) float32 in [0, 1].
    """
    moved = coarse.final - coarse.given
    result = given.astype(np.float32)  # a copy
    inside = _moved_in(coarse, moved, size, box)
    if not inside.height * inside.width:
        return result
    inner, near = inside.slices, inside.shift(box.y0, box.x0)
    change = bilinear_window(moved, size, near, coarse.part)
    if enlarged is None:
        enlarged = bilinear_window(coarse.final, size, near, coarse.part)
    else:
        enlarged = enlarged[inner]
    detailed = given[inner] + change
    np.clip(detailed, 0, 1, out=detailed)
    trust = np.abs(change, out=change)  # in place from here: new arrays cost more than sums
    trust *= -2
    trust += 1
    np.maximum(trust, 0, out=trust)
    detailed *= trust
    enlarged *= np.subtract(1, trust, out=trust)
    detailed += enlarged
    result[inner] = detailed
    return result


def _moved_in(coarse: Coarse, moved: Array, size: Size, box: Box) -> Box:
    """The part of a window, in its own pixels, that anything ``moved`` has a weight in."""
    part = coarse.part or Part(Size(*moved.shape), Box(0, 0, *moved.shape))
    around = bounding_box(moved).shift(part.box.y0, part.box.x0)
    reached = bilinear_reach(part.whole, size, around) if around.height else around
    return reached.shift(-box.y0, -box.x0).clip(box.size)
