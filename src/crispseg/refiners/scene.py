"""Label maps of many classes, with a refiner that knows masks of one object only.

Two ways. Divide and conquer is CascadePSP's (Cheng et al., CVPR 2020, section 3.4 and released
scene code): every object is cut out, refined on its own, and put back; its cost grows with the
number of objects. The one-pass way (``one_pass.py``) does not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crispseg.refiners.network import CascadeNetwork
from crispseg.refiners.objects import (
    DISC,
    Flags,
    Labels,
    connected_8,
    dilate,
    disc_reaches,
    erode,
)
from crispseg.refiners.one_pass import OnePass
from crispseg.refiners.published import refine_published
from crispseg.tiling.pieces import bounding_box
from crispseg.types import Box, Image, InputError, Size, check_image

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

Way = Literal["one-pass", "divide-and-conquer"]


@dataclass(frozen=True)
class SceneRefinement:
    """A refined label map and the work behind it.

    Attributes:
        labels: (H, W), of the dtype that came in.
        network_runs: of the whole network (divide and conquer: one an object), or of its mask
            decoder (one pass: at most three a tile).
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
    box = bounding_box(mask)
    dy, dx = round(CONTEXT * box.height), round(CONTEXT * box.width)
    return Box(box.y0 - dy, box.x0 - dx, box.y1 + dy, box.x1 + dx)


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


def refine_scene(
    network: CascadeNetwork,
    image: Image,
    labels: NDArray[Any],
    *,
    way: Way,
    tile_size: int,
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
        scene = OnePass(network, tile_size, ignore_index)
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
