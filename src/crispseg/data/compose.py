"""Cut-outs with alpha composited on photographs, so that the paste itself gives nothing away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

LARGEST_ENLARGEMENT, LARGEST_BLURRED = 2.0, 4.5
"""Cut-outs are shown no larger than this, for their blur would tell them from the background; but
one in six is, as large photographs have blurred edges too."""


class _Layer(NamedTuple):
    """One object in the crop: (size, size, 3) colour in 0..255 and (size, size) alpha in [0, 1]."""

    colour: Floats
    alpha: Floats


def bleed_colours(rgba: Bytes) -> Bytes:
    """Carry the colours of the opaque part outwards under the soft and transparent pixels.

    Colours stored under low alpha are often black, white, or the old background's; blended or
    resized they would leave a fringe that betrays the paste.

    Args:
        rgba: (H, W, 4) uint8; not modified.

    Returns:
        (H, W, 4) uint8 with the same alpha.
    """
    solid = (rgba[..., 3] >= 242).astype(np.float32)
    total = rgba[..., :3] * solid[..., None]
    weight = solid.copy()
    for reach in (1.0, 3.0, 9.0, 27.0):  # nearest first; farther pixels only fill what is left
        near = cv2.GaussianBlur(solid, (0, 0), reach)
        colour = cv2.GaussianBlur(rgba[..., :3] * solid[..., None], (0, 0), reach)
        new = (weight == 0) & (near > 1e-3)
        total[new], weight[new] = colour[new], near[new]
    out = rgba.copy()
    filled = weight > 0
    out[filled, :3] = np.clip(np.rint(total[filled] / weight[filled, None]), 0, 255)
    return out


def compose(
    cutout_rgba: Bytes,
    background_rgb: Bytes,
    rng: np.random.Generator,
    size: int,
    *,
    distractors: Sequence[Bytes] = (),
) -> tuple[Bytes, Floats]:
    """Place a cut-out on a crop of a photograph as a camera might have seen it.

    Scale, flip, rotation, brightness and colour of the object, alpha, shadow, and then blur,
    noise and JPEG of the whole picture are random. In about two of five pictures the object is
    larger than the crop, so that only part of its boundary is in view.

    Args:
        cutout_rgba: (h, w, 4) uint8 with colours bled (see ``bleed_colours``).
        background_rgb: (H, W, 3) uint8.
        rng: where all randomness comes from.
        size: side of the square result in pixels.
        distractors: other cut-outs to place behind or before the object; not in the truth.

    Returns:
        image (size, size, 3) uint8 and the object's visible alpha (size, size) float32 in [0, 1].
    """
    canvas = _background_crop(background_rgb, rng, size).astype(np.float32)
    if rng.random() < 0.15:  # the scene behind lies out of focus
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.7, 3.0))
    canvas, alpha = _stack(cutout_rgba, distractors, canvas, rng)
    if rng.random() < 0.3:  # focus and motion soften everything alike, the truth included
        sigma = rng.uniform(0.3, 1.3)
        canvas = cv2.GaussianBlur(canvas, (0, 0), sigma)
        alpha = cv2.GaussianBlur(alpha, (0, 0), sigma)
    return expose(canvas, rng), np.clip(alpha, 0, 1, dtype=np.float32)


def _stack(
    cutout: Bytes, distractors: Sequence[Bytes], canvas: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Put the objects on the canvas, back to front; returns it and the target's visible alpha."""
    size = canvas.shape[0]
    in_front: list[_Layer] = []
    for other in distractors:
        layer = _place(other, canvas, rng, size, around_boundary=False)
        if rng.random() < 0.35:
            in_front.append(layer)
        else:
            canvas = _blend(canvas, layer)
    target = _place(cutout, canvas, rng, size, around_boundary=rng.random() < 0.4)
    if rng.random() < 0.3:
        canvas = _cast_shadow(canvas, target.alpha, rng)
    canvas, alpha = _blend(canvas, target), target.alpha
    for layer in in_front:
        canvas, alpha = _blend(canvas, layer), alpha * (1 - layer.alpha)
    return canvas, alpha


def expose(image: NDArray[np.uint8] | Floats, rng: np.random.Generator) -> Bytes:
    """What a camera does to a scene at random: gain and gamma, sensor noise, JPEG.

    Args:
        image: (H, W, 3), 0..255, RGB.
        rng: where all randomness comes from.

    Returns:
        (H, W, 3) uint8.
    """
    out = image.astype(np.float32)
    if rng.random() < 0.5:
        gamma = np.exp(rng.uniform(-0.35, 0.35))
        out = np.float32(255) * np.clip(out / np.float32(255), 0, 1) ** np.float32(gamma)
    if rng.random() < 0.5:
        noise = rng.standard_normal(out.shape, np.float32) * np.float32(rng.uniform(0.5, 8))
        if rng.random() < 0.5:  # noise of a resized or denoised picture is not white
            noise = cv2.GaussianBlur(noise, (3, 3), 0)
        out = out + noise
    pixels: Bytes = np.clip(out + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        quality = int(rng.integers(35, 96))
        _, code = cv2.imencode(".jpg", pixels[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
        bgr = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
        pixels = np.ascontiguousarray(bgr[..., ::-1])
    return pixels


def _background_crop(background: Bytes, rng: np.random.Generator, size: int) -> Bytes:
    """A random square at a random scale, flipped half of the time."""
    height, width = background.shape[:2]
    longest = min(height, width)
    shortest = min(longest, int(size * 0.75))
    side = round(float(np.exp(rng.uniform(np.log(shortest), np.log(longest)))))
    y = int(rng.integers(0, height - side + 1))
    x = int(rng.integers(0, width - side + 1))
    way = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    crop = cv2.resize(background[y : y + side, x : x + side], (size, size), interpolation=way)
    return np.asarray(crop[:, ::-1] if rng.random() < 0.5 else crop, np.uint8)


def _place(
    cutout: Bytes, canvas: Floats, rng: np.random.Generator, size: int, *, around_boundary: bool
) -> _Layer:
    """Scale, turn and position a cut-out; fit its brightness and colour to the canvas."""
    longest = max(cutout.shape[:2])
    relative = (
        np.exp(rng.uniform(np.log(1.1), np.log(6))) if around_boundary else rng.uniform(0.35, 1.1)
    )
    limit = LARGEST_BLURRED if rng.random() < 1 / 6 else LARGEST_ENLARGEMENT
    scale = min(relative * size / longest, limit)
    if scale < 1:
        shape = (max(round(cutout.shape[1] * scale), 1), max(round(cutout.shape[0] * scale), 1))
        cutout, scale = cv2.resize(cutout, shape, interpolation=cv2.INTER_AREA), 1.0
    if around_boundary:
        anchor, spread = _boundary_point(cutout[..., 3], rng), 0.3
    else:
        anchor, spread = (cutout.shape[1] / 2, cutout.shape[0] / 2), 0.25
    goal = size / 2 + rng.uniform(-spread, spread, size=2) * size
    warped = cv2.warpAffine(
        cutout, _motion(anchor, goal, scale, rng), (size, size), flags=cv2.INTER_LINEAR
    )
    if rng.random() < 0.12:  # the object lies out of focus, its edge with it
        warped = cv2.GaussianBlur(warped, (0, 0), rng.uniform(0.5, 1.8))
    alpha = _treat_edge(warped[..., 3] * np.float32(1 / 255), rng)
    colour = warped[..., :3].astype(np.float32)
    return _Layer(_fit_colour(colour, alpha, canvas, rng), alpha)


def _boundary_point(alpha: Bytes, rng: np.random.Generator) -> tuple[float, float]:
    """A random pixel (x, y) where the object ends."""
    solid = (alpha > 127).astype(np.uint8)
    ends = np.flatnonzero(solid != cv2.erode(solid, np.ones((3, 3), np.uint8), borderValue=0))
    if ends.size == 0:
        return alpha.shape[1] / 2, alpha.shape[0] / 2
    y, x = divmod(int(rng.choice(ends)), alpha.shape[1])
    return float(x), float(y)


def _motion(
    anchor: tuple[float, float], goal: NDArray[np.float64], scale: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The 2 x 3 matrix that flips, turns and scales about ``anchor`` and moves it to ``goal``."""
    turn = np.deg2rad(rng.normal(0, 12)) if rng.random() < 0.5 else 0.0
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    linear = np.array([[cos * flip, -sin], [sin * flip, cos]])
    return np.column_stack([linear, goal - linear @ np.array(anchor)])


def _treat_edge(alpha: Floats, rng: np.random.Generator) -> Floats:
    """Soften or shift the edge a little at random."""
    if rng.random() < 0.4:
        alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.3, 0.9))
    if rng.random() < 0.3:
        gain = rng.uniform(1.0, 2.5)  # harder, about a level that moves the edge in or out
        alpha = np.clip((alpha - rng.uniform(0.4, 0.6)) * gain + 0.5, 0, 1, dtype=np.float32)
    return alpha


def _fit_colour(colour: Floats, alpha: Floats, canvas: Floats, rng: np.random.Generator) -> Floats:
    """Bring an object's mean colour part of the way to that of the photograph, plus jitter."""
    weight = float(alpha.sum())
    if weight < 1:
        return colour
    mean = np.maximum(np.tensordot(alpha, colour, 2) / weight, 8)
    scene = np.maximum(canvas.mean(axis=(0, 1)), 8)
    brightness = (scene.mean() / mean.mean()) ** rng.uniform(0, 0.6)
    cast = ((scene / scene.mean()) / (mean / mean.mean())) ** rng.uniform(0, 0.35)
    jitter = np.exp(rng.normal(0, 0.1)) * np.exp(rng.normal(0, 0.03, 3))
    gain = np.clip(brightness * cast * jitter, 0.45, 1.9).astype(np.float32)
    contrast = np.float32(rng.uniform(0.75, 1.15))
    centre = (mean * gain).astype(np.float32)
    # rows of repeated colours: NumPy is six times quicker without an innermost axis of 3
    rows = colour.reshape(len(colour), -1)
    gain, centre = (np.tile(v, colour.shape[1]) for v in (gain, centre))
    shaded = (rows * gain - centre) * contrast + centre
    return np.asarray(np.clip(shaded, 0, 255), np.float32).reshape(colour.shape)


def _blend(canvas: Floats, layer: _Layer) -> Floats:
    blended: Floats = layer.colour - canvas
    blended *= cv2.merge((layer.alpha,) * 3)
    blended += canvas
    return blended


def _cast_shadow(canvas: Floats, alpha: Floats, rng: np.random.Generator) -> Floats:
    size = alpha.shape[0]
    dx, dy = rng.uniform(-0.08, 0.08) * size, rng.uniform(0.0, 0.1) * size
    move = np.array([[1, 0, dx], [0, 1, dy]])
    moved = cv2.warpAffine(alpha, move, (size, size))
    soft = cv2.GaussianBlur(moved, (0, 0), rng.uniform(0.01, 0.06) * size)
    shaded: Floats = canvas * (1 - np.float32(rng.uniform(0.15, 0.6)) * soft[..., None])
    return shaded
