"""How a training crop is cut and varied: one warp from the image straight to the crop.

The papers' augmentation (PSPNet, section 4; DeepLabv3, section 4.1; RefineNet, section 4):
scale, rotation, mirror, crop, blur. Scale, rotation, mirror and crop are one affine map, so only
the pixels of the crop are ever computed, and pixels are interpolated once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crispseg.data.datasets.base import VOID
from crispseg.types import Size

BLUR_KERNEL = 5
CHANCE = 0.5  # of mirror, rotation and blur each
JITTER_CONTRAST = JITTER_SATURATION = 0.05

Bytes = NDArray[np.uint8]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Augmentation:
    """What happens to an image on its way to a training crop.

    Attributes:
        size: of the crop.
        scales: the image is resized by a factor drawn evenly from this range.
        scale_step: draw from lowest, lowest + step, ... instead; 0 for any factor between.
        short_side: the image's short side after scaling is kept in this range, in pixels.
        rotation: largest angle in degrees, in either direction; half of the crops are turned.
        blur: blur half of the crops with a 5x5 Gaussian.
        colour: largest relative change of brightness; contrast and saturation change by at most
            5 %. 0 leaves colours alone.
        mean: RGB in [0, 1] of what is beyond the image's edge.
    """

    size: Size
    scales: tuple[float, float] = (0.5, 2.0)
    scale_step: float = 0.0
    short_side: tuple[float, float] = (0.0, np.inf)
    rotation: float = 0.0
    blur: bool = False
    colour: float = 0.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)


class Crop(NamedTuple):
    """A training crop.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        labels: (h, w) uint8, 255 beyond the image's edge.
    """

    image: Bytes
    labels: Bytes


def random_crop(
    image: Bytes,
    labels: Bytes,
    options: Augmentation,
    rng: np.random.Generator,
    centre_on: int | None = None,
) -> Crop:
    """One crop of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8; 255 is void.
        options: what may happen.
        rng: where all randomness comes from.
        centre_on: a class; the crop is centred on one of its pixels, as far as the image's edges
            allow. None: anywhere inside the image.
    """
    size = Size(*labels.shape)
    factor = _scale(size, options, rng)
    turned = options.rotation > 0 and rng.random() < CHANCE
    angle = rng.uniform(-options.rotation, options.rotation) if turned else 0.0
    mirrored = rng.random() < CHANCE
    around = None if centre_on is None else _pixel_of(labels, centre_on, rng)
    matrix = _turn_and_scale(size, factor, angle, mirrored)
    offset = _offset(matrix, size, factor, options.size, around, rng)
    matrix[:, 2] -= offset
    crop = warp(image, labels, matrix, options.size, options.mean)
    pixels = crop.image
    if options.blur and rng.random() < CHANCE:
        pixels = cv2.GaussianBlur(pixels, (BLUR_KERNEL, BLUR_KERNEL), 0)
    if options.colour:
        pixels = jitter_colour(pixels, rng, options.colour)
    return Crop(np.asarray(pixels, np.uint8), crop.labels)


def warp(
    image: Bytes, labels: Bytes, matrix: Matrix, size: Size, mean: tuple[float, float, float]
) -> Crop:
    """Image (bilinear) and labels (nearest) through one affine map.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) uint8.
        matrix: (2, 3), from (x, y, 1) in the image to (x, y) in the crop; pixel i of a row spans
            i to i + 1.
        size: of the crop.
        mean: RGB in [0, 1] of what is beyond the edge; labels there are 255.
    """
    # OpenCV counts from the pixels' centres.
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    shape = (size.width, size.height)
    border = tuple(255 * value for value in mean)
    pixels = cv2.warpAffine(
        image, centred, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
        borderValue=border,
    )  # fmt: skip
    numbers = cv2.warpAffine(
        labels, centred, shape, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT,
        borderValue=(VOID,),
    )  # fmt: skip
    return Crop(np.asarray(pixels, np.uint8), np.asarray(numbers, np.uint8))


def jitter_colour(image: Bytes, rng: np.random.Generator, brightness: float) -> Bytes:
    """Brightness, then contrast 0.05 and saturation 0.05, as CascadePSP's code has them.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: where all randomness comes from.
        brightness: largest relative change; 0.2 in that code.
    """
    out = image * np.float32(rng.uniform(1 - brightness, 1 + brightness))
    mean = out.mean()
    out = (out - mean) * np.float32(rng.uniform(1 - JITTER_CONTRAST, 1 + JITTER_CONTRAST)) + mean
    grey = cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)[..., None]
    saturation = rng.uniform(1 - JITTER_SATURATION, 1 + JITTER_SATURATION)
    out = (out - grey) * np.float32(saturation) + grey
    return np.asarray(np.clip(out + 0.5, 0, 255), np.uint8)


def _scale(size: Size, options: Augmentation, rng: np.random.Generator) -> float:
    low, high = options.scales
    if options.scale_step:
        steps = int((high - low) / options.scale_step + 1e-6)
        factor = low + options.scale_step * int(rng.integers(steps + 1))
    else:
        factor = float(rng.uniform(low, high))
    least, most = options.short_side
    return float(np.clip(factor * min(size), least, most)) / min(size)


def _turn_and_scale(size: Size, factor: float, angle: float, mirrored: bool) -> Matrix:
    """Scale, then mirror and turn around the image's centre: the scaled image stays in place."""
    sine, cosine = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    linear = np.array([[cosine, sine], [-sine, cosine]]) @ np.diag([-1 if mirrored else 1, 1])
    centre = np.array([size.width, size.height]) / 2
    shift = factor * (centre - linear @ centre)
    return np.column_stack([factor * linear, shift])


def _offset(
    matrix: Matrix,
    size: Size,
    factor: float,
    crop: Size,
    around: tuple[int, int] | None,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """(x, y) of the crop's corner in the scaled image, in whole pixels.

    A scaled image that is smaller than the crop comes to lie in its middle.
    """
    scaled = np.round([size.width * factor, size.height * factor])
    room = scaled - (crop.width, crop.height)
    if around is None:
        spot = rng.uniform(size=2) * (room + 1) - 0.5
    else:
        y, x = around
        spot = matrix @ (x + 0.5, y + 0.5, 1) - (crop.width / 2, crop.height / 2)
    offset: NDArray[np.float64] = np.where(
        room > 0, np.clip(np.round(spot), 0, np.maximum(room, 0)), np.floor(room / 2)
    )
    return offset


def _pixel_of(labels: Bytes, number: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """(y, x) of a random pixel of a class; None if there is none."""
    found = np.flatnonzero(labels == number)
    if not found.size:
        return None
    y, x = divmod(int(rng.choice(found)), labels.shape[1])
    return y, x
