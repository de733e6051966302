"""Small pictures for the report: a photo with the outlines of masks, or with wrong pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from crispseg.metrics.bands import boundary_band
from crispseg.types import Image

Pixels = NDArray[np.uint8]
SIDE_PX = 320
QUALITY = 80
TRUTH, BEFORE, AFTER = (255, 255, 255), (213, 94, 0), (0, 114, 178)
VOID = (127, 127, 127)


def outline_masks(image: Image, masks: Sequence[NDArray[np.bool_]]) -> Pixels:
    """A photo with the outlines of truth, mask before and mask after, in ``page.OUTLINES``.

    Args:
        image: (H, W, 3) RGB, uint8 or uint16.
        masks: (H, W) bool: truth, before, after.

    Returns:
        (h, w, 3) uint8, at most SIDE_PX on its long side.
    """
    small = _shrunk(image)
    for mask, colour in zip(masks, (TRUTH, BEFORE, AFTER), strict=True):
        inside = nearest(mask, small.shape[:2])
        small[boundary_band(inside, 1) & inside] = colour
    return small


def mark_labels(
    image: Image | None, prediction: NDArray[Any], truth: NDArray[Any], ignore_index: int
) -> Pixels:
    """A photo, or grey, with wrong pixels, void and the edges of the truth.

    Returns:
        (h, w, 3) uint8, at most SIDE_PX on its long side.
    """
    if image is None:
        small = np.full((*_small_size(truth.shape), 3), 200, np.uint8)
    else:
        small = _shrunk(image)
    labels, true = (nearest(values, small.shape[:2]) for values in (prediction, truth))
    small = small // 2 + 64
    void = true == ignore_index
    small[void] = VOID
    small[(labels != true) & ~void] = BEFORE
    small[boundary_band(true, 1)] = TRUTH
    return small


def choose_rows(ranked: Sequence[str], most: int) -> list[str]:
    """Names of the images that get a picture: the worst, and the median and the best.

    Args:
        ranked: names, worst first.
        most: how many at most.
    """
    if len(ranked) <= most or most < 3:
        return list(ranked[:most])
    return [*ranked[: most - 2], ranked[max(len(ranked) // 2, most - 2)], ranked[-1]]


def data_url(picture: Pixels) -> str:
    """A picture as a JPEG within a URL."""
    out = io.BytesIO()
    PilImage.fromarray(picture).save(out, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def nearest(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """The pixel in the middle of each of (h, w) cells."""
    rows, columns = (
        ((2 * np.arange(n) + 1) * full) // (2 * n)
        for n, full in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def _shrunk(image: Image) -> Pixels:
    photo = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    height, width = _small_size(photo.shape[:2])
    return np.array(PilImage.fromarray(photo).resize((width, height), PilImage.Resampling.BOX))


def _small_size(shape: tuple[int, ...]) -> tuple[int, int]:
    factor = min(1.0, SIDE_PX / max(shape))
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))
