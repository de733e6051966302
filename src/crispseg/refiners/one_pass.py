"""Label maps of many classes in one pass: objects that do not touch share a mask.

Objects that touch get different ones of four colours, which planar maps can always do with. A
colour's objects are one mask, whose edges are theirs, as CascadePSP's network knows masks. The
image is encoded once, at most three masks are decoded, each only around its objects' borders; the
fourth is what they leave. A pixel takes the label of the near object whose mask is surest. Every
border is an edge of a mask, and the cost does not grow with the number of objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crispseg.refiners.local import MARGIN_PX
from crispseg.refiners.network import CascadeNetwork
from crispseg.refiners.objects import Flags, Labels, borders, colour, connected, nearest_within
from crispseg.tiling.blend import StripMerger
from crispseg.tiling.grid import plan_tiles
from crispseg.tiling.sliding import TilePlan, run_tiles
from crispseg.types import Box, Image, Size

Array = NDArray[np.float32]
Colours = NDArray[np.uint8]

COLOURS = 4
MASKS = COLOURS - 1
"""Colours whose masks are decoded."""
REACH_PX = 16
CONTEXT_PX = 16
LEAST_PROBABILITY = 0.5
NOTHING = -1


def colour_map(labels: Labels, ignore_index: int) -> Colours:
    """(H, W) colours 0 .. 3 that differ where labels touch; ``COLOURS`` at pixels without one.

    Where four are not found, the shortest borders stay within a colour (``objects.colour``).
    """
    pieces = connected(labels)
    areas = np.bincount(pieces.ravel())
    void = np.zeros(len(areas), bool)
    void[pieces[labels == ignore_index]] = True
    touching = borders(pieces)
    solid = ~(void[touching.first] | void[touching.second])
    chosen = colour(areas, touching.where(solid), COLOURS)
    chosen[void] = COLOURS
    return chosen.astype(np.uint8)[pieces]


def merge(
    labels: Labels,
    colours: Colours,
    probabilities: Array,
    *,
    ignore_index: int,
    reach: int = REACH_PX,
    least: float = LEAST_PROBABILITY,
) -> Labels:
    """Labels from refined masks: divide and conquer's modified arg-max.

    A pixel starts with its label and a confidence of ``least``, which a mask must exceed. The
    surest mask that does gives it the label of its nearest object, within ``reach``.

    Args:
        labels: (H, W) as given.
        colours: (H, W) of each pixel's object.
        probabilities: (MASKS, H, W) of the first colours; the last has what they leave.
        ignore_index: stays where it is, and spreads nowhere.
        reach: how far, in pixels, a label may spread.
        least: in [0, 1).
    """
    best, result = np.full(labels.shape, least, np.float32), labels.astype(np.int32)
    for number, probability in enumerate((*probabilities, 1 - probabilities.max(axis=0))):
        surer, members = probability > best, colours == number
        near = nearest_within(labels, members, reach, NOTHING, asked=surer)
        better = (near != NOTHING) & surer
        best[better] = probability[better]
        result[better] = near[better]
    result[labels == ignore_index] = ignore_index
    return result.astype(labels.dtype)


def border_box(members: Flags, others: Flags, margin_px: int) -> Box | None:
    """The box around the members that have one of the others beside them, and a margin.

    Args:
        members: (H, W) bool.
        others: (H, W) bool, no pixel of which is a member.
        margin_px: how far the box reaches beyond them, within the image.

    Returns:
        None if no two pixels are beside each other (4 neighbours).
    """
    rows, columns = np.zeros(members.shape[0], bool), np.zeros(members.shape[1], bool)
    for one, two in ((members, others), (others, members)):
        below, right = one[1:] & two[:-1], one[:, 1:] & two[:, :-1]
        rows[1:] |= below.any(axis=1)
        rows[:-1] |= below.any(axis=1)
        rows |= right.any(axis=1)
        columns[1:] |= right.any(axis=0)
        columns[:-1] |= right.any(axis=0)
        columns |= below.any(axis=0)
    y, x = np.flatnonzero(rows), np.flatnonzero(columns)
    if not len(y):
        return None
    box = Box(int(y[0]), int(x[0]), int(y[-1]) + 1, int(x[-1]) + 1)
    return box.grow(margin_px).clip(Size(*members.shape))


@dataclass(frozen=True)
class OnePass:
    """The one-pass way, at any size of image.

    Attributes:
        network: CascadePSP's, whose image branch is shared if it has one.
        tile_size: largest side of what the network sees at once.
        ignore_index: label of pixels without a class.
        reach: how far, in pixels, a label may spread.
        least: how probable a new label must be.
    """

    network: CascadeNetwork
    tile_size: int
    ignore_index: int
    reach: int = REACH_PX
    least: float = LEAST_PROBABILITY

    def refine(self, image: Image, labels: Labels) -> tuple[Labels, int]:
        """(H, W) refined labels, and how often the mask decoder ran.

        Larger images are refined in tiles at their own size only. Smaller sizes first, as the
        cascade has them for one object, made label maps of CamVid worse.
        """
        size, colours = Size(*labels.shape), colour_map(labels, self.ignore_index)
        overlap_px = 0 if max(size) <= self.tile_size else self.tile_size // 4
        margin_px = min(MARGIN_PX, overlap_px // 4)
        tiles = plan_tiles(size, self.tile_size, overlap_px)
        plan = TilePlan(size, tiles, margin_px, overlap_px - 2 * margin_px)
        looks = [self._looks(colours[tile.slices]) for tile in tiles]
        by_tile = dict(zip(tiles, looks, strict=True))
        result = np.empty_like(labels)

        def given(box: Box) -> Array:
            here = colours[box.slices]
            return np.stack([here == number for number in range(MASKS)]).astype(np.float32)

        def predict(boxes: Sequence[Box]) -> list[Array]:
            return [self._probabilities(image[b.slices], given(b), by_tile[b]) for b in boxes]

        def write(y0: int, probabilities: Array) -> None:
            # With the rows around, from which labels may spread.
            y1 = y0 + probabilities.shape[1]
            around = Box(max(y0 - self.reach, 0), 0, min(y1 + self.reach, size.height), size.width)
            rows = ((0, 0), (y0 - around.y0, around.y1 - y1), (0, 0))
            result[y0:y1] = merge(
                labels[around.slices],
                colours[around.slices],
                np.pad(probabilities, rows),
                ignore_index=self.ignore_index,
                reach=self.reach,
                least=self.least,
            )[y0 - around.y0 : y1 - around.y0]

        selected = [bool(look) for look in looks]
        run_tiles(plan, predict, StripMerger(size, MASKS, write), selected=selected, keep=given)
        return result, sum(len(look) for look in looks)

    def _looks(self, colours: Colours) -> dict[int, Box]:
        """Which masks of a tile have a border within it, and where to look at them."""
        margin_px, solid = self.reach + CONTEXT_PX, colours < COLOURS
        boxes = {
            number: border_box(colours == number, solid & (colours != number), margin_px)
            for number in np.unique(colours[colours < MASKS]).tolist()
        }
        return {number: box for number, box in boxes.items() if box}

    def _probabilities(self, image: Image, masks: Array, looks: dict[int, Box]) -> Array:
        """(MASKS, h, w): ``masks``, refined where the network looks."""
        tensor = self.network.image_tensor(image, float(np.iinfo(image.dtype).max))
        found = self.network.probabilities_of_masks(
            tensor, [masks[number] * 2 - 1 for number in looks], list(looks.values())
        )
        for (number, box), probability in zip(looks.items(), found, strict=True):
            masks[number, *box.slices] = probability
        return masks
