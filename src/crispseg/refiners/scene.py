"""Label maps of many classes, with a refiner that knows masks of one object only.

Two ways. Divide and conquer is CascadePSP's (Cheng et al., CVPR 2020, section 3.4 and released
scene code): every object is cut out, refined on its own, and put back; its cost grows with the
number of objects. The one-pass way encodes the image once and refines all borders between objects
together: objects that touch get different ones of four colours, and a colour's two bits say on
which side of two masks an object lies. Each border is an edge of at least one of the two masks, so
two runs of the mask decoder serve any number of objects.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crispseg.refiners.guard import calibrate
from crispseg.refiners.network import CascadeNetwork
from crispseg.refiners.objects import (
    DISC,
    Flags,
    Labels,
    borders,
    colour,
    connected,
    connected_8,
    dilate,
    disc_reaches,
    erode,
    nearest_within,
)
from crispseg.refiners.published import refine_published
from crispseg.tiling.blend import StripMerger
from crispseg.tiling.grid import magnifications, plan_tiles
from crispseg.tiling.resample import resize_area
from crispseg.tiling.sliding import TilePlan, run_tiles
from crispseg.types import Box, Image, InputError, Size, check_image

Array = NDArray[np.float32]

LEAST_AREA = 32 * 32
CONTEXT = 0.125  # of a box' side, added at either end: 25 % in all
LEAST_SIDE = 224
ATTENUATION = 0.51
ADE_STUFF = frozenset(
    (
        *(1, 2, 3, 4, 6, 7, 10, 12, 14, 17, 22, 26, 27, 29, 30, 47, 49, 52, 53, 55, 60, 61, 62),
        *(69, 80, 85, 92, 95, 97, 102, 106, 110, 114, 129, 141),
    )
)
"""Classes of ADE20K that the released scene code attenuates as background."""

BITS = 2
REACH_PX = 16
LEAST_PROBABILITY = 0.7
MAX_RATIO, MARGIN_PX = 4.0, 16
NOTHING = -1


Way = Literal["one-pass", "divide-and-conquer"]


@dataclass(frozen=True)
class SceneRefinement:
    """A refined label map and the work behind it.

    Attributes:
        labels: (H, W), of the dtype that came in.
        network_runs: of the whole network (divide and conquer: one an object), or of its mask
            decoder (one pass: two a tile).
    """

    labels: Labels
    network_runs: int


@dataclass(frozen=True)
class SceneObject:
    """What divide and conquer refines at a time: near pieces of one class.

    Attributes:
        label: its class.
        mask: (H, W) bool.
        box: around it, enlarged by a quarter.
    """

    label: int
    mask: Flags
    box: Box


def scene_objects(labels: Labels, ignore_index: int) -> list[SceneObject]:
    """The objects of a label map that are not too small, class by class.

    A class of no more than 1024 px is left out. Its pixels are dilated by a disc of 10 px, cut
    into connected pieces (8 neighbours) and eroded back; pieces of no more than 1024 px are left
    out, of the others the pixels of the class are the object (released scene code).
    """
    size = Size(*labels.shape)
    rows = disc_reaches(DISC)
    back = [(-dy, -last, -first) for dy, first, last in rows]
    objects = []
    for label in np.unique(labels).tolist():
        of_class = labels == label
        if label == ignore_index or np.count_nonzero(of_class) <= LEAST_AREA:
            continue
        grown = dilate(of_class, rows)
        numbers = connected_8(grown) * erode(grown, back)
        areas = np.bincount(numbers.ravel())
        for number in np.flatnonzero(areas > LEAST_AREA).tolist():
            mask = (numbers == number) & of_class
            if number and mask.any():
                objects.append(SceneObject(label, mask, _box_around(mask).clip(size)))
    return objects


def _box_around(mask: Flags) -> Box:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    x0, x1 = int(columns[0]), int(columns[-1]) + 1
    dy, dx = round(CONTEXT * (y1 - y0)), round(CONTEXT * (x1 - x0))
    return Box(y0 - dy, x0 - dx, y1 + dy, x1 + dx)


def divide_and_conquer(
    network: CascadeNetwork,
    image: Image,
    labels: Labels,
    *,
    largest_side: int,
    ignore_index: int,
    stuff: Collection[int],
    attenuation: float,
) -> tuple[Labels, int]:
    """Every object on its own, one global step each; the surest takes a pixel.

    A pixel starts with its label and a confidence of one half, which a refined object must
    exceed; where none does, the label stays. ``ignore_index`` stays where it is.

    Args:
        network: CascadePSP's.
        image: (H, W, 3) uint8 or uint16 RGB.
        labels: (H, W) uint8 or uint16.
        largest_side: objects' boxes beyond it are made smaller, those below 224 px larger.
        ignore_index: label of pixels without a class.
        stuff: classes whose probability counts less (``ADE_STUFF``).
        attenuation: factor on their probability.

    Returns:
        (H, W) labels, and how often the network ran.
    """
    result = labels.copy()
    sureness = np.full(labels.shape, 0.5, np.float32)
    objects = scene_objects(labels, ignore_index)
    for one in objects:
        given = one.mask[one.box.slices].astype(np.float32)
        side = min(max(*one.box.size, LEAST_SIDE), largest_side)
        probability = refine_published(
            network,
            image[one.box.slices],
            given,
            tile_size=side,
            fast=True,
            batch_size=1,
            progress=None,
        ).mask
        if one.label in stuff:
            probability = probability * np.float32(attenuation)
        better = probability > sureness[one.box.slices]
        sureness[one.box.slices][better] = probability[better]
        result[one.box.slices][better] = one.label
    result[labels == ignore_index] = ignore_index
    return result, len(objects)


def code_map(labels: Labels) -> NDArray[np.uint8]:
    """(H, W) colours 0 .. 3 that differ where labels touch."""
    pieces = connected(labels)
    areas = np.bincount(pieces.ravel())
    return colour(areas, borders(pieces), 2**BITS).astype(np.uint8)[pieces]


def decode(
    labels: Labels,
    codes: NDArray[np.uint8],
    bits: Array,
    *,
    ignore_index: int,
    reach: int = REACH_PX,
    least: float = LEAST_PROBABILITY,
) -> Labels:
    """Labels from refined bits.

    A pixel gets a near label if the code of that label's object is more probable than ``least``
    and than every other near one's; it keeps its own otherwise.

    Args:
        labels: (H, W) as given.
        codes: (H, W) colour of each pixel's object.
        bits: (BITS, H, W) refined probability of each bit.
        ignore_index: stays where it is, and spreads nowhere.
        reach: how far, in pixels, a label may spread.
        least: in [0, 1).
    """
    void = labels == ignore_index
    best, result = np.full(labels.shape, least, np.float32), labels.astype(np.int32)
    for code in range(2**BITS):
        factors = [p if code >> bit & 1 else 1 - p for bit, p in enumerate(bits)]
        probability = reduce(np.multiply, factors)
        own = codes == code
        # A pixel's own label is no change; it only has to be beaten.
        best[own] = np.maximum(best, probability)[own]
        near = nearest_within(labels, own & ~void, reach, NOTHING)
        better = (near != NOTHING) & (probability > best) & ~own
        best[better] = probability[better]
        result[better] = near[better]
    result[void] = ignore_index
    return result.astype(labels.dtype)


@dataclass(frozen=True)
class OnePass:
    """The one-pass way, at any size of image.

    Attributes:
        network: CascadePSP's, whose image branch is shared if it has one.
        tile_size: largest side of what the network sees at once.
        ignore_index: label of pixels without a class.
        temperature: of the weights (``refiners/guard.py``).
        reach: how far, in pixels, a label may spread.
        least: how probable a new label must be.
    """

    network: CascadeNetwork
    tile_size: int
    ignore_index: int
    temperature: float = 1.0
    reach: int = REACH_PX
    least: float = LEAST_PROBABILITY

    def refine(self, image: Image, labels: Labels) -> tuple[Labels, int]:
        """(H, W) refined labels, and how often the mask decoder ran.

        Larger images are refined at sizes in between first. What that did not change is the
        given label map, to the pixel, at the next size.
        """
        size = Size(*labels.shape)
        runs, result, before = 0, labels, labels
        for step in magnifications(size, self.tile_size, MAX_RATIO):
            given = _nearest(labels, step)
            changed = _nearest(result, step) != _nearest(before, step)
            start = np.where(changed, _nearest(result, step), given)
            pixels = image
            if step != size:
                pixels = np.rint(resize_area(image, step)).astype(image.dtype)
            before = given
            result, decoded = self._at_one_size(pixels, start)
            runs += decoded
        return result, runs

    def _at_one_size(self, image: Image, labels: Labels) -> tuple[Labels, int]:
        size, codes = Size(*labels.shape), code_map(labels)
        overlap_px = 0 if max(size) <= self.tile_size else self.tile_size // 4
        margin_px = min(MARGIN_PX, overlap_px // 4)
        tiles = plan_tiles(size, self.tile_size, overlap_px)
        plan = TilePlan(size, tiles, margin_px, overlap_px - 2 * margin_px)
        peak = float(np.iinfo(image.dtype).max)
        result = np.empty_like(labels)

        def predict(boxes: Sequence[Box]) -> list[Array]:
            return [self._bits(image[box.slices], codes[box.slices], peak) for box in boxes]

        def keep(box: Box) -> Array:
            return np.stack([(codes[box.slices] >> b & 1).astype(np.float32) for b in range(BITS)])

        def write(y0: int, bits: Array) -> None:
            # With the rows around, from which labels may spread.
            y1 = y0 + bits.shape[1]
            around = Box(max(y0 - self.reach, 0), 0, min(y1 + self.reach, size.height), size.width)
            rows = ((0, 0), (y0 - around.y0, around.y1 - y1), (0, 0))
            result[y0:y1] = decode(
                labels[around.slices],
                codes[around.slices],
                np.pad(bits, rows),
                ignore_index=self.ignore_index,
                reach=self.reach,
                least=self.least,
            )[y0 - around.y0 : y1 - around.y0]

        selected = [bool((labels[t.slices] != labels[t.y0, t.x0]).any()) for t in tiles]
        run_tiles(plan, predict, StripMerger(size, BITS, write), selected=selected, keep=keep)
        return result, BITS * sum(selected)

    def _bits(self, image: Image, codes: NDArray[np.uint8], peak: float) -> Array:
        tensor = self.network.image_tensor(image, peak)
        masks = [(codes >> bit & 1).astype(np.float32) * 2 - 1 for bit in range(BITS)]
        found = self.network.probabilities_of_masks(tensor, masks)
        return np.stack([calibrate(both[0], self.temperature) for both in found])


def _nearest(labels: Labels, size: Size) -> Labels:
    """The label at the middle of each pixel of another size."""
    if labels.shape == tuple(size):
        return labels
    y, x = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(size, labels.shape, strict=True))
    return np.asarray(labels[y[:, None], x])


def refine_scene(
    network: CascadeNetwork,
    image: Image,
    labels: NDArray[Any],
    *,
    way: Way,
    tile_size: int,
    temperature: float = 1.0,
    ignore_index: int = 255,
    stuff: Collection[int] = (),
) -> SceneRefinement:
    """Refine a label map, see ``CascadeRefiner.refine_labels``.

    Raises:
        InputError: shapes or dtypes that cannot be used, or an unknown way.
    """
    image = check_image(image)
    labels = check_labels(labels, Size(*image.shape[:2]))
    if way == "one-pass":
        scene = OnePass(network, tile_size, ignore_index, temperature=temperature)
        return SceneRefinement(*scene.refine(image, labels))
    if way != "divide-and-conquer":
        raise InputError(f"way must be one-pass or divide-and-conquer, not {way!r}")
    found, runs = divide_and_conquer(
        network,
        image,
        labels,
        largest_side=tile_size,
        ignore_index=ignore_index,
        stuff=stuff,
        attenuation=ATTENUATION,
    )
    return SceneRefinement(found, runs)


def check_labels(labels: NDArray[Any], size: Size) -> Labels:
    """Return ``labels`` if it is a label map of this size.

    Raises:
        InputError: not (H, W) uint8 or uint16, or another size.
    """
    if labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"labels must be (H, W) uint8 or uint16, not {labels.shape} {labels.dtype}"
        )
    if labels.shape != tuple(size):
        raise InputError(
            f"the label map is {labels.shape[1]}x{labels.shape[0]} but the image is "
            f"{size.width}x{size.height} (width x height)"
        )
    return labels
