"""What CascadePSP and MagNet are compared with, behind the same interface: no training, no weights.

DenseCRF (Krähenbühl and Koltun, NeurIPS 2011), the guided filter (He et al., ECCV 2010), and an
offset at boundaries after SegFix (Yuan et al., ECCV 2020), whose network is here the image itself.
PointRend's re-prediction of uncertain points is ``progressive.point_rend``. All hold the whole
image in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.refiners.base import Progress
from crispseg.refiners.bilateral import SparseGrid
from crispseg.refiners.scene import check_labels
from crispseg.types import Box, Image, InputError, Mask, Size, check_image, check_mask

Array = NDArray[np.float32]
Filter = Callable[[Array], Array]


class ClassicalRefiner:
    """A method from an image and class probabilities to better ones; see the subclasses."""

    certainty = 1.0
    """How sure a hard mask or label map is taken to be."""

    def improve(self, image: Image, probabilities: Array) -> Array:
        """(H, W, 3) and (C, H, W) that sum to 1 -> (C, H, W) that sum to 1."""
        raise NotImplementedError

    def refine(
        self,
        image: Image,
        mask: NDArray[Any],
        *,
        roi: Box | None = None,
        progress: Progress | None = None,
    ) -> Mask:
        """Refine the mask of one object.

        Args:
            image: (H, W, 3) RGB, uint8 or uint16.
            mask: (H, W) bool, 0/1, 0..255 or float in [0, 1].
            roi: only this part may change.
            progress: called with (1, 1) at the end.

        Returns:
            (H, W) float32 probability of the object.

        Raises:
            InputError: shapes, dtypes or ranges that cannot be used.
        """
        image = check_image(image)
        size = Size(*image.shape[:2])
        given = check_mask(mask, size)
        if roi is not None and (roi.clip(size) != roi or min(roi.size) < 1):
            raise InputError("the ROI is empty or reaches out of the image")
        if given.all() or not given.any():
            return (given > 0.5).astype(np.float32)
        slack = 1 - self.certainty
        sure = np.clip(given, slack, 1 - slack)
        refined = self.improve(image, np.stack([1 - sure, sure]))[1]
        if roi is not None:
            whole = given.copy()
            whole[roi.slices] = refined[roi.slices]
            refined = whole
        if progress:
            progress(1, 1)
        return np.asarray(np.clip(refined, 0, 1), np.float32)

    def refine_labels(
        self, image: Image, labels: NDArray[Any], *, ignore_index: int = 255
    ) -> NDArray[Any]:
        """Refine a label map: (H, W) uint8 or uint16 -> the same; ``ignore_index`` stays.

        Raises:
            InputError: shapes or dtypes that cannot be used.
        """
        image = check_image(image)
        labels = check_labels(labels, Size(*image.shape[:2]))
        void = labels == ignore_index
        classes = np.unique(labels[~void])
        if len(classes) < 2:
            return labels.copy()
        rest = (1 - self.certainty) / (len(classes) - 1)
        given = np.full((len(classes), *labels.shape), rest, np.float32)
        for number, label in enumerate(classes):
            given[number][labels == label] = self.certainty
        given[:, void] = 1 / len(classes)
        result = classes[self.improve(image, given).argmax(axis=0)]
        return np.asarray(np.where(void, ignore_index, result).astype(labels.dtype))


class DenseCrf(ClassicalRefiner):
    """Mean field in a fully connected CRF: near pixels of near colours want the same class.

    Defaults are those of the authors' public example, which later papers took over.

    Args:
        iterations: of the mean field.
        smooth_px: deviation of the kernel of positions alone.
        smooth_weight: of that kernel.
        position_px: deviation, in positions, of the kernel of positions and colours.
        colour: its deviation in colours, of 0..255.
        colour_weight: of that kernel.
        certainty: how sure a hard mask is taken to be, below 1.
    """

    def __init__(
        self,
        *,
        iterations: int = 10,
        smooth_px: float = 3.0,
        smooth_weight: float = 3.0,
        position_px: float = 80.0,
        colour: float = 13.0,
        colour_weight: float = 10.0,
        certainty: float = 0.9,
    ) -> None:
        if not (min(smooth_px, position_px, colour) > 0 and 0.5 < certainty < 1):
            raise InputError("deviations must be above 0, certainty between 0.5 and 1")
        self.iterations, self.certainty = iterations, certainty
        self._kernels = (smooth_px, position_px, colour)
        self._pulls = (smooth_weight, colour_weight)

    def improve(self, image: Image, probabilities: Array) -> Array:
        """Mean field with the quick kernels."""
        smooth, bilateral = (SparseGrid(f) for f in self.features(image))
        return self.mean_field(probabilities, (smooth.filter, bilateral.filter))

    def features(self, image: Image) -> tuple[Array, Array]:
        """(N, 2) and (N, 5) float32: what the two kernels measure distances in."""
        smooth_px, position_px, colour = self._kernels
        y, x = np.mgrid[: image.shape[0], : image.shape[1]].reshape(2, -1).astype(np.float32)
        pixels = image.reshape(-1, 3).astype(np.float32) * (255 / np.iinfo(image.dtype).max)
        places = np.stack([y, x], axis=1)
        both = np.concatenate([places / position_px, pixels / colour], axis=1)
        return places / np.float32(smooth_px), both.astype(np.float32)

    def mean_field(self, probabilities: Array, kernels: tuple[Filter, Filter]) -> Array:
        """Iterate with kernels that sum over all pixels, (C, N) -> (C, N).

        Each is normalised on both sides, K' = D^-1/2 K D^-1/2, as in the authors' code.
        """
        shape = probabilities.shape
        given = np.log(np.maximum(probabilities.reshape(shape[0], -1), 1e-8))
        ones = np.ones((1, given.shape[1]), np.float32)
        norms = [1 / np.sqrt(np.maximum(kernel(ones), 1e-20)) for kernel in kernels]
        current = _softmax(given)
        for _ in range(self.iterations):
            logits = given.copy()
            for pull, kernel, norm in zip(self._pulls, kernels, norms, strict=True):
                logits += pull * norm * kernel((current * norm).astype(np.float32))
            current = _softmax(logits)
        return current.reshape(shape)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0), np.float32)


class GuidedFilter(ClassicalRefiner):
    """Probabilities that are, in every window, a linear function of the colours.

    Defaults are the paper's for feathering masks.

    Args:
        radius: of the window, in pixels.
        epsilon: how flat the function is, for colours in [0, 1].
    """

    def __init__(self, *, radius: int = 60, epsilon: float = 1e-6) -> None:
        if radius < 1 or epsilon <= 0:
            raise InputError("the guided filter wants a radius of 1 or more, epsilon above 0")
        self.radius, self.epsilon = radius, epsilon

    def improve(self, image: Image, probabilities: Array) -> Array:
        """Filter every class; the filter is linear, so that sums stay 1 but for clipping."""
        guide = np.moveaxis(image / np.iinfo(image.dtype).max, -1, 0)  # (3, H, W) float64
        found = np.clip(self.filter(guide, probabilities), 1e-6, 1)
        return np.asarray(found / found.sum(axis=0), np.float32)

    def filter(self, guide: NDArray[np.float64], values: Array) -> NDArray[np.float64]:
        """(3, H, W) in [0, 1] and (C, H, W) -> (C, H, W), equation 5 to 8 of the paper."""
        mean = box_mean(guide, self.radius)
        pairs = np.stack([a * b for a in guide for b in guide])
        covariance = box_mean(pairs, self.radius).reshape(3, 3, *guide.shape[1:])
        covariance -= mean[:, None] * mean[None]
        matrix = np.moveaxis(covariance, (0, 1), (-2, -1)) + self.epsilon * np.eye(3)
        result = np.empty(values.shape)
        for number, channel in enumerate(values.astype(np.float64)):
            average = box_mean(channel[None], self.radius)[0]
            joint = box_mean(guide * channel, self.radius) - mean * average
            slope = np.linalg.solve(matrix, np.moveaxis(joint, 0, -1)[..., None])[..., 0]
            slope = np.moveaxis(slope, -1, 0)
            offset = average - (slope * mean).sum(axis=0)
            slope, [offset] = box_mean(slope, self.radius), box_mean(offset[None], self.radius)
            result[number] = (slope * guide).sum(axis=0) + offset
        return result


def box_mean(values: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """(C, H, W): means over windows of 2 radius + 1, cut off at the image's border."""
    for axis in (1, 2):
        length = values.shape[axis]
        sums = np.concatenate(
            [np.zeros_like(values.take([0], axis)), np.cumsum(values, axis=axis)], axis=axis
        )
        places = np.arange(length)
        start, stop = np.maximum(places - radius, 0), np.minimum(places + radius + 1, length)
        shape = [1, 1, 1]
        shape[axis] = length
        values = (sums.take(stop, axis) - sums.take(start, axis)) / (stop - start).reshape(shape)
    return values


DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


class BoundaryOffset(ClassicalRefiner):
    """Pixels near a boundary take the label of the interior pixel that looks most like them.

    SegFix learns for every pixel near a boundary which of eight directions leads inside. Here the
    direction is the one whose interior pixel has the nearest colour, among those that lie inside.

    Args:
        width_px: how far from a boundary a pixel may change.
    """

    def __init__(self, *, width_px: int = 5) -> None:
        if width_px < 1:
            raise InputError(f"the boundary's width must be 1 px or more, not {width_px}")
        self.width_px = width_px

    def improve(self, image: Image, probabilities: Array) -> Array:
        """Each pixel of the band takes the probabilities of the pixel its offset points at."""
        labels = probabilities.argmax(axis=0)
        band = near_boundary(labels, self.width_px)
        pixels = np.moveaxis(image, -1, 0).astype(np.float64)
        pixels = box_mean(pixels, 1)
        y, x = np.nonzero(band)
        height, width = labels.shape
        nearest = np.full(len(y), np.inf)
        result = probabilities.copy()
        for dy, dx in DIRECTIONS:
            for step in (self.width_px + 1, 2 * self.width_px + 1):
                to_y, to_x = y + dy * step, x + dx * step
                inside = (to_y >= 0) & (to_y < height) & (to_x >= 0) & (to_x < width)
                inside[inside] = ~band[to_y[inside], to_x[inside]]
                distance = np.full(len(y), np.inf)
                ways = to_y[inside], to_x[inside]
                apart = pixels[:, y[inside], x[inside]] - pixels[:, *ways]
                distance[inside] = (apart**2).sum(axis=0)
                better = distance < nearest
                nearest[better] = distance[better]
                result[:, y[better], x[better]] = probabilities[:, to_y[better], to_x[better]]
        return result


def near_boundary(labels: NDArray[Any], reach: int) -> NDArray[np.bool_]:
    """(H, W) whether another label lies within a square of ``reach`` pixels around."""
    band = np.zeros(labels.shape, np.bool_)
    for axis in (0, 1):
        change = np.diff(labels, axis=axis) != 0
        for part in (np.s_[:-1], np.s_[1:]):
            np.moveaxis(band, axis, 0)[part] |= np.moveaxis(change, axis, 0)
    spread = box_mean(band[None].astype(np.float64), max(reach - 1, 0))[0]
    return np.asarray(spread > 1e-9)
