"""Coarse masks made from true ones: the paper's perturbation, and errors that networks make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

ROUNDS = 250
BOXES_PER_ROUND = 4


def intersection_over_union(first: BoolMask, second: BoolMask) -> float:
    """IoU of two (H, W) bool masks; 1 when both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def perturb_mask(
    mask: BoolMask, rng: np.random.Generator, *, target_iou: float | None = None
) -> BoolMask:
    """Make a coarse mask as CascadePSP's training does (its section 4, details from its code).

    Every contour loses a contiguous tenth of its vertices where that changes it least and keeps a
    random tenth of the others; then random boxes are dilated or eroded, four a round for at most
    250 rounds, until the IoU with ``mask`` falls below the target.

    Args:
        mask: (H, W) bool, the true object; not modified.
        rng: where all randomness comes from.
        target_iou: IoU to fall below, in (0, 1]; drawn from U(0.8, 1) if None.

    Returns:
        (H, W) bool; never empty unless ``mask`` is.
    """
    target = rng.uniform(0.8, 1.0) if target_iou is None else target_iou
    if not mask.any():
        return mask.copy()
    coarse = _subsample_contours(mask, rng)
    if not coarse.any():  # all contours were too short to subsample
        coarse = mask.astype(np.uint8)
    for _ in range(ROUNDS):
        previous = coarse.copy()
        _dilate_and_erode_boxes(coarse, rng)
        if not coarse.any():  # a small object was eroded away: undo that round
            return previous.astype(np.bool_)
        if intersection_over_union(coarse.astype(np.bool_), mask) < target:
            break
    return coarse.astype(np.bool_)


def _subsample_contours(mask: BoolMask, rng: np.random.Generator) -> Bytes:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = [_subsample_vertices(c[:, 0], rng) for c in contours if len(c) >= 10]
    return _fill(polygons, mask.shape)


def _subsample_vertices(points: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Drop a tenth in one run whose ends lie close together, keep a random tenth of the rest."""
    count = len(points)
    run = max(count // 10, 1)
    ends = np.roll(points, -run, axis=0)
    gaps = ((points - ends).astype(np.float64) ** 2).sum(axis=1)
    start = int(rng.choice(np.argsort(gaps, kind="stable")[:run]))
    left = np.roll(points, -(start + run), axis=0)[: count - run]
    kept = rng.choice(len(left), size=max(len(left) // 10, 3), replace=False)
    return left[np.sort(kept)]


def _fill(polygons: list[NDArray[Any]], shape: tuple[int, ...]) -> Bytes:
    canvas = np.zeros(shape, np.uint8)
    if polygons:  # in one call, so that holes stay holes (even-odd rule)
        cv2.fillPoly(canvas, [p.reshape(-1, 1, 2).astype(np.int32) for p in polygons], (1,))
    return canvas


def _dilate_and_erode_boxes(coarse: Bytes, rng: np.random.Generator) -> None:
    """One round on ``coarse`` in place: four random boxes, each dilated or eroded."""
    height, width = coarse.shape
    for y, x, tall, wide, spot, value, grow, shape in rng.random((BOXES_PER_ROUND, 8)):
        y0, x0 = int(y * height), int(x * width)
        y1 = y0 + 1 + int(tall * (height - y0))
        x1 = x0 + 1 + int(wide * (width - x0))
        if spot < 0.25:
            coarse[(y0 + min(y1, height)) // 2, (x0 + min(x1, width)) // 2] = value < 0.5
        box = coarse[y0:y1, x0:x1]
        element = _random_element(int(shape * 4), int(rng.integers(3, 10)))
        box[:] = (cv2.dilate if grow < 0.5 else cv2.erode)(box, element)


def _random_element(kind: int, size: int) -> Bytes:
    shape = cv2.MORPH_RECT if kind == 0 else cv2.MORPH_ELLIPSE
    width = size // 2 if kind == 2 else size
    height = size // 2 if kind == 3 else size
    element: Bytes = cv2.getStructuringElement(shape, (width, height))
    return element


def degrade_mask(mask: BoolMask, rng: np.random.Generator) -> BoolMask:
    """Make a coarse mask with the errors of real networks and of quick drawing by hand.

    One to three of: thin parts lost, blobs missing and added at the boundary, polygon outline,
    rounded corners, a shift, and the low resolution of a network's output (factor 4 to 32). A
    result that lost the object (IoU below 0.5) is replaced by a gentler one.

    Args:
        mask: (H, W) bool, the true object; not modified.
        rng: where all randomness comes from.

    Returns:
        (H, W) bool; never empty unless ``mask`` is.
    """
    if not mask.any():
        return mask.copy()
    count = int(rng.choice(3, p=[0.45, 0.4, 0.15])) + 1
    chosen = np.sort(rng.choice(len(_ERRORS), size=count, replace=False, p=_ERROR_WEIGHTS))
    for severity in (1.0, 0.5, 0.25):
        coarse = mask.astype(np.uint8)
        for number in chosen:
            coarse = _ERRORS[number](coarse, rng, severity)
        if intersection_over_union(coarse.astype(np.bool_), mask) >= 0.5:
            return coarse.astype(np.bool_)
    return mask.copy()


def _lose_thin_parts(mask: Bytes, rng: np.random.Generator, severity: float) -> Bytes:
    size = 3 + int(rng.integers(0, 11) * severity)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    opened: Bytes = cv2.morphologyEx(mask, cv2.MORPH_OPEN, element)
    if rng.random() < 0.5:  # fine gaps are filled as easily as fine parts are lost
        opened = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, element)
    return opened


def _add_and_remove_blobs(mask: Bytes, rng: np.random.Generator, severity: float) -> Bytes:
    edge = np.flatnonzero(mask != cv2.erode(mask, np.ones((3, 3), np.uint8)))
    if edge.size == 0:
        return mask
    coarse = mask.copy()
    extent = float(np.sqrt(np.count_nonzero(mask)))
    for _ in range(int(rng.integers(1, 7))):
        y, x = divmod(int(rng.choice(edge)), mask.shape[1])
        radius = max(extent * severity * rng.uniform(0.03, 0.16), 1.5)
        blob = _blob(radius, rng) + np.array([x, y])
        cv2.fillPoly(coarse, [np.rint(blob).astype(np.int32)], (int(rng.random() < 0.5),))
    return coarse


def _blob(radius: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth closed outline around the origin, (24, 2) as x, y."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    waves = sum(
        rng.normal(0, 0.25 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3)
    )
    reach = radius * (1 + np.clip(waves, -0.7, 0.7))
    stretch = rng.uniform(0.6, 1.6)
    return np.stack([reach * np.cos(angles) * stretch, reach * np.sin(angles) / stretch], axis=1)


def _draw_polygon(mask: Bytes, rng: np.random.Generator, severity: float) -> Bytes:
    epsilon = severity * rng.uniform(1.5, 7)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rough = [cv2.approxPolyDP(c, epsilon, True)[:, 0] for c in contours]
    wobble = severity * rng.uniform(0, 1.5)
    polygons = [p + rng.normal(0, wobble, p.shape) for p in rough if len(p) >= 3]
    return _fill([np.rint(p) for p in polygons], mask.shape)


def _round_corners(mask: Bytes, rng: np.random.Generator, severity: float) -> Bytes:
    blurred = cv2.GaussianBlur(mask * np.float32(1), (0, 0), severity * rng.uniform(1.5, 8))
    return np.asarray(blurred > rng.uniform(0.35, 0.65), np.uint8)


def _shift(mask: Bytes, rng: np.random.Generator, severity: float) -> Bytes:
    dx, dy = severity * rng.uniform(-6, 6, size=2)
    move = np.array([[1, 0, dx], [0, 1, dy]])
    shifted: Bytes = cv2.warpAffine(
        mask, move, mask.shape[::-1], flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )
    return shifted


def _low_resolution(mask: Bytes, rng: np.random.Generator, severity: float) -> Bytes:
    """Area-average to a coarse grid of random phase, perhaps harden it, and come back."""
    factor = max(severity * float(np.exp(rng.uniform(np.log(4), np.log(32)))), 2.0)
    height, width = mask.shape
    top, left = (int(v) for v in rng.integers(0, int(factor) + 1, size=2))
    cells = (int(np.ceil((height + top) / factor)) + 1, int(np.ceil((width + left) / factor)) + 1)
    full = (round(cells[0] * factor), round(cells[1] * factor))
    padded = cv2.copyMakeBorder(
        mask * np.float32(1),
        *(top, full[0] - height - top, left, full[1] - width - left),
        borderType=cv2.BORDER_REPLICATE,
    )
    small = cv2.resize(padded, cells[::-1], interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:  # an argmax taken before upsampling
        small = (small > 0.5) * np.float32(1)
    way = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC)[
        int(rng.choice(3, p=[0.3, 0.5, 0.2]))
    ]
    large = cv2.resize(small, full[::-1], interpolation=way)
    threshold = rng.uniform(0.42, 0.58)
    return np.asarray(large[top : top + height, left : left + width] > threshold, np.uint8)


_ERRORS: tuple[Callable[[Bytes, np.random.Generator, float], Bytes], ...] = (
    _lose_thin_parts,
    _add_and_remove_blobs,
    _draw_polygon,
    _round_corners,
    _shift,
    _low_resolution,  # last: a network's output is upsampled after all its other mistakes
)
_ERROR_WEIGHTS = (0.15, 0.18, 0.12, 0.13, 0.1, 0.32)
