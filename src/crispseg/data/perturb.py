"""Coarse masks made from true ones: the paper's perturbation, and errors that networks make."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from crispseg.metrics.boundary import intersection_over_union
from crispseg.types import InputError

BoolMask = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

ROUNDS = 250
BOXES_PER_ROUND = 4


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


class NetworkError(Protocol):
    """One kind of error that networks make."""

    def __call__(self, mask: BoolMask, rng: np.random.Generator, severity: float = 1.0) -> BoolMask:
        """Make a coarse mask.

        Args:
            mask: (H, W) bool; not modified.
            rng: where all randomness comes from.
            severity: scales the extent of the error; 1 as in training, 0.5 about half of it.

        Returns:
            (H, W) bool; may be empty.
        """


def degrade_mask(
    mask: BoolMask, rng: np.random.Generator, *, errors: Iterable[str] | None = None
) -> BoolMask:
    """Make a coarse mask with the errors of real networks and of quick drawing by hand.

    One to three of ``NETWORK_ERRORS``, each as likely as ``ERROR_SHARES`` says: thin parts lost,
    blobs missing and added at the boundary, polygon outline, rounded corners, a shift, and the low
    resolution of a network's output (factor 4 to 32). A result that lost the object (IoU below
    0.5) is replaced by a gentler one.

    Args:
        mask: (H, W) bool, the true object; not modified.
        rng: where all randomness comes from.
        errors: the names of the errors to make, instead of drawing them; made in the order of
            ``NETWORK_ERRORS``.

    Returns:
        (H, W) bool; never empty unless ``mask`` is.

    Raises:
        InputError: a name that is not in ``NETWORK_ERRORS``.
    """
    if errors is not None:
        wanted = set(errors)
        if unknown := sorted(wanted - NETWORK_ERRORS.keys()):
            raise InputError(f"no mask error {unknown[0]!r}; there are {', '.join(NETWORK_ERRORS)}")
    if not mask.any():
        return mask.copy()
    names = list(NETWORK_ERRORS)
    if errors is None:
        count = int(rng.choice(3, p=[0.45, 0.4, 0.15])) + 1
        shares = [ERROR_SHARES[name] for name in names]
        chosen = np.sort(rng.choice(len(names), size=count, replace=False, p=shares))
        wanted = {names[number] for number in chosen}
    for severity in (1.0, 0.5, 0.25):
        coarse = mask.copy()
        for name in names:
            if name in wanted:
                coarse = NETWORK_ERRORS[name](coarse, rng, severity)
        if intersection_over_union(coarse, mask) >= 0.5:
            return coarse
    return mask.copy()


def blur_slightly(mask: BoolMask, rng: np.random.Generator) -> BoolMask:
    """What a network that has understood the object makes of it, with fine cells.

    As it is (0.3), in cells of 2 to 4 px (0.45), or its corners rounded a little (0.25); as it is
    too if that would lose the object (IoU below 0.5).
    """
    way = rng.random()
    if way < 0.3:
        return mask.copy()
    blur, severity = (lower_resolution, 0.125) if way < 0.75 else (round_corners, 0.25)
    coarse = blur(mask, rng, severity)
    return coarse if intersection_over_union(coarse, mask) >= 0.5 else mask.copy()


def lose_thin_parts(mask: BoolMask, rng: np.random.Generator, severity: float = 1.0) -> BoolMask:
    """Lose what is thinner than 3 to 13 px; half of the time gaps as thin are filled as well."""
    size = 3 + int(rng.integers(0, 11) * severity)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    opened: Bytes = cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, element)
    if rng.random() < 0.5:  # fine gaps are filled as easily as fine parts are lost
        opened = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, element)
    return opened.view(np.bool_)


def add_and_remove_blobs(
    mask: BoolMask, rng: np.random.Generator, severity: float = 1.0
) -> BoolMask:
    """Add or cut away one to six smooth blobs centred on the boundary.

    Their radius is 3 to 16 % of the square root of the object's area.
    """
    solid = mask.view(np.uint8)
    edge = np.flatnonzero(solid != cv2.erode(solid, np.ones((3, 3), np.uint8)))
    if edge.size == 0:
        return mask.copy()
    coarse = solid.copy()
    extent = float(np.sqrt(np.count_nonzero(solid)))
    for _ in range(int(rng.integers(1, 7))):
        y, x = divmod(int(rng.choice(edge)), mask.shape[1])
        radius = max(extent * severity * rng.uniform(0.03, 0.16), 1.5)
        blob = _blob(radius, rng) + np.array([x, y])
        cv2.fillPoly(coarse, [np.rint(blob).astype(np.int32)], (int(rng.random() < 0.5),))
    return coarse.view(np.bool_)


def _blob(radius: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth closed outline around the origin, (24, 2) as x, y."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    waves = sum(
        rng.normal(0, 0.25 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3)
    )
    reach = radius * (1 + np.clip(waves, -0.7, 0.7))
    stretch = rng.uniform(0.6, 1.6)
    return np.stack([reach * np.cos(angles) * stretch, reach * np.sin(angles) / stretch], axis=1)


def draw_polygon(mask: BoolMask, rng: np.random.Generator, severity: float = 1.0) -> BoolMask:
    """Draw straight lines at most 1.5 to 7 px off, their corners misplaced by about a pixel."""
    epsilon = severity * rng.uniform(1.5, 7)
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rough = [cv2.approxPolyDP(c, epsilon, True)[:, 0] for c in contours]
    wobble = severity * rng.uniform(0, 1.5)
    polygons = [p + rng.normal(0, wobble, p.shape) for p in rough if len(p) >= 3]
    return _fill([np.rint(p) for p in polygons], mask.shape).view(np.bool_)


def round_corners(mask: BoolMask, rng: np.random.Generator, severity: float = 1.0) -> BoolMask:
    """Blur with a sigma of 1.5 to 8 px and cut at a level between 0.35 and 0.65."""
    blurred = cv2.GaussianBlur(mask * np.float32(1), (0, 0), severity * rng.uniform(1.5, 8))
    return np.asarray(blurred > rng.uniform(0.35, 0.65))


def shift_mask(mask: BoolMask, rng: np.random.Generator, severity: float = 1.0) -> BoolMask:
    """Move by up to 6 px right or left and up or down, to the nearest pixel.

    What comes in at the border repeats the border.
    """
    dx, dy = severity * rng.uniform(-6, 6, size=2)
    move = np.array([[1, 0, dx], [0, 1, dy]])
    shifted: Bytes = cv2.warpAffine(
        mask.view(np.uint8),
        move,
        mask.shape[::-1],
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return shifted.view(np.bool_)


def lower_resolution(mask: BoolMask, rng: np.random.Generator, severity: float = 1.0) -> BoolMask:
    """Average over cells of 4 to 32 px, enlarge (nearest, bilinear or cubic) and binarise.

    The grid has a random phase. Half of the time the cells are binarised first, as in a network's
    argmax that is then upsampled.
    """
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
    return np.asarray(large[top : top + height, left : left + width] > threshold)


NETWORK_ERRORS: dict[str, NetworkError] = {
    "thin-parts": lose_thin_parts,
    "blobs": add_and_remove_blobs,
    "polygon": draw_polygon,
    "corners": round_corners,
    "shift": shift_mask,
    "low-resolution": lower_resolution,
}
"""By name, in the order in which they are made: a network's output is upsampled last."""

ERROR_SHARES = {
    "thin-parts": 0.15,
    "blobs": 0.18,
    "polygon": 0.12,
    "corners": 0.13,
    "shift": 0.1,
    "low-resolution": 0.32,
}
"""How likely ``degrade_mask`` draws each of them first; their sum is 1."""
