"""Training samples of the refiner: crops with a coarse mask and the true one, without end.

A sample depends on the seed and its index alone, so a run gives the same samples with any number
of workers and can resume anywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crispseg.data.cache import Item, PixelCache
from crispseg.data.compose import compose, expose
from crispseg.data.perturb import blur_slightly, degrade_mask, perturb_mask
from crispseg.data.regions import mistake_regions
from crispseg.data.seeded import SeededSamples
from crispseg.data.transforms import jitter_colour
from crispseg.metrics.boundary import intersection_over_union
from crispseg.types import InputError

SMALLEST_FRACTION, LARGEST_FRACTION = 0.004, 0.97
LEAST_SHOWN = 0.4
TRIES = 12
LEAST_FOUND = 0.4
BRIGHTNESS = 0.2
LEAST_CONTRAST, MOST_CONTRAST = 0.0, 0.2

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Sample(NamedTuple):
    """One training sample; a batch of them collates to a ``Sample`` of batched tensors.

    Attributes:
        image: (3, h, w) uint8 RGB, not normalised.
        coarse: (1, h, w) float32, 0 or 1.
        truth: (1, h, w) float32 in [0, 1], soft at the edges.
    """

    image: Tensor
    coarse: Tensor
    truth: Tensor


class RefinerSamples(SeededSamples[Sample]):
    """Samples 0 .. length-1 of a prepared cache: crops of real pairs, and composites.

    Draw them in order: the samples are already random, so no shuffling is needed. To resume,
    begin at the next index; for another epoch take another seed, or one large length.

    Args:
        cache_dir: what ``recipes/prepare_lite_data.py`` made.
        crop_size: side of the square crops in pixels.
        seed: with the index, decides every sample.
        split: "train" or "test"; items of the other split are never touched.
        length: number of samples.
        real_fraction: share of samples from real pairs; the rest are composites.
        coarse: how coarse masks are made: "mixed" (``coarsen``), "network" (``coarsen`` with few of
            the paper's perturbations) or "paper" (``perturb_mask``).
        without: groups to leave out (sequences, for cross-validation).
        source_factors: "source=factor" each: how many times more often than by its size a source
            of real pairs is drawn.
        region_share: share of coarse masks that lack a part of the object, or hold one of what is
            beside it, up to an edge in the image (``mistake_regions``), before ``coarse``: both
            errors together, so that one in twenty of these masks has an IoU below 0.5.
        faithful_share: share of coarse masks that are right along most of their edge
            (``blur_slightly`` instead of ``coarse``).
        found_share: share of real pairs whose coarse mask is what a real network found in the
            whole picture, of those that have one in the cache (``recipes/add_found_masks.py``).
        faded_share: share of images with next to no contrast, or none.

    Raises:
        InputError: no cache there, nothing of that split in it, a factor of no source, or a
            ``found_share`` and no such masks.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        *,
        crop_size: int = 192,
        seed: int = 0,
        split: str = "train",
        length: int = 1_000_000,
        real_fraction: float = 0.3,
        coarse: Literal["mixed", "network", "paper"] = "mixed",
        without: Iterable[str] = (),
        source_factors: Iterable[str] = (),
        region_share: float = 0.0,
        faithful_share: float = 0.0,
        found_share: float = 0.0,
        faded_share: float = 0.0,
    ) -> None:
        super().__init__(seed, length)
        self._cache = PixelCache(Path(cache_dir))
        groups = frozenset(without)
        sources = _by_source(self._cache.select("pair", split, groups))
        self._pairs = list(sources.values())
        self._source_shares = _shares(sources, source_factors)
        self._cutouts = self._cache.select("cutout", split, groups)
        self._backgrounds = self._cache.select("background", split, groups)
        self._crop_size = crop_size
        self._region_share, self._faded_share = region_share, faded_share
        self._faithful_share, self._found_share = faithful_share, found_share
        self._found = _by_picture(self._cache.select("found", split, groups))
        if found_share and not self._found:
            raise InputError(
                f"found_share, but {cache_dir} holds no masks that networks found; "
                "add some with recipes/add_found_masks.py"
            )
        ways: dict[str, Callable[[Mask, np.random.Generator], Mask]] = {
            "mixed": coarsen,
            "network": functools.partial(coarsen, paper_share=0.2),
            "paper": perturb_mask,
        }
        self._coarsen = ways[coarse]
        can_compose = bool(self._cutouts and self._backgrounds)
        if not can_compose and not self._pairs:
            raise InputError(f"{cache_dir} holds nothing to make {split} samples from")
        self._real_fraction = real_fraction if can_compose else 1.0
        if not self._pairs:
            self._real_fraction = 0.0

    def __getitem__(self, index: int) -> Sample:
        """Sample ``index``; the same whenever and wherever it is asked for."""
        rng = self.draw_of(index)
        image, truth, found = self._draw(rng)
        coarse = self._coarse(image, truth > 0.5, rng) if found is None else found
        if self._faded_share and rng.random() < self._faded_share:
            image = fade(image, rng)
        return Sample(
            torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            torch.from_numpy(coarse[None].astype(np.float32)),
            torch.from_numpy(np.ascontiguousarray(truth[None])),
        )

    def _coarse(self, image: Bytes, mask: Mask, rng: np.random.Generator) -> Mask:
        """A coarse mask made from the true one."""
        if self._region_share and rng.random() < self._region_share:
            mask = mistake_regions(image, mask, rng)
        faithful = bool(self._faithful_share) and rng.random() < self._faithful_share
        return blur_slightly(mask, rng) if faithful else self._coarsen(mask, rng)

    def _draw(self, rng: np.random.Generator) -> tuple[Bytes, Floats, Mask | None]:
        """An image and truth whose object covers neither too little nor too much of the crop.

        Third comes what a network found, or None if a coarse mask is to be made.
        """
        real = rng.random() < self._real_fraction
        found = None
        for _ in range(TRIES):
            if real:
                image, truth, found = self._real_crop(rng)
            else:
                image, truth = self._composite(rng)
            if SMALLEST_FRACTION <= float((truth > 0.5).mean()) <= LARGEST_FRACTION:
                break
        if not real and rng.random() < 0.05:  # "the background" is an object too: sky, road
            truth = 1 - truth
        if rng.random() < 0.1:
            image = _to_grey(image)
        return image, truth, found

    def _composite(self, rng: np.random.Generator) -> tuple[Bytes, Floats]:
        count = int(rng.choice(4, p=[0.62, 0.2, 0.12, 0.06]))
        cutout, *others = (self._cache.pixels(i) for i in _pick(self._cutouts, rng, 1 + count))
        if others and rng.random() < 0.15:  # a twin, to be told apart by the coarse mask alone
            others[0] = cutout
        if self._pairs and rng.random() < 0.15:  # a frame of video, its own object a bystander
            background = self._cache.pixels(self._frame(rng))[..., :3]
        else:
            background = self._cache.pixels(_pick(self._backgrounds, rng, 1)[0])
        return compose(cutout, background, rng, self._crop_size, distractors=others)

    def _real_crop(self, rng: np.random.Generator) -> tuple[Bytes, Floats, Mask | None]:
        frame = self._frame(rng)
        pixels, found = self._cache.pixels(frame), None
        masks = self._found.get((frame.source, frame.name), ())
        if masks and self._found_share and rng.random() < self._found_share:
            found = self._cache.pixels(_pick(masks, rng, 1)[0])[..., 0]
        # what was found too much is at its own edge, what was lost at the true one
        edge = pixels[..., 3] if found is None or rng.random() < 0.5 else found
        box = _box_at_boundary(edge, rng, self._crop_size)
        crop = _resized(pixels[box], self._crop_size)
        mirrored = slice(None, None, -1 if rng.random() < 0.5 else 1)
        image = np.ascontiguousarray(crop[:, mirrored, :3])
        truth = crop[:, mirrored, 3] * np.float32(1 / 255)
        image = expose(image, rng) if rng.random() < 0.4 else image
        image = jitter_colour(image, rng, BRIGHTNESS)
        if found is None:
            return image, truth, None
        mask = np.ascontiguousarray(_resized(found[box], self._crop_size)[:, mirrored] > 127)
        fits = intersection_over_union(mask, truth > 0.5) >= LEAST_FOUND
        return image, truth, mask if fits else None

    def _frame(self, rng: np.random.Generator) -> Item:
        groups = self._pairs[int(rng.choice(len(self._pairs), p=self._source_shares))]
        group = groups[int(rng.integers(len(groups)))]
        return group[int(rng.integers(len(group)))]


def coarsen(mask: Mask, rng: np.random.Generator, *, paper_share: float = 0.5) -> Mask:
    """A coarse mask: the paper's perturbation, errors of networks, or (0.1) both.

    One in six of the perturbed ones goes down to an IoU of 0.65 where the paper stops at 0.8.

    Args:
        mask: (H, W) bool, the true object.
        rng: where all randomness comes from.
        paper_share: how often the paper's perturbation alone is made, in [0, 0.9].
    """
    if rng.random() < 0.06:
        return mask.copy()
    way = rng.random()
    if way >= paper_share:
        rough = degrade_mask(mask, rng)
        if way < 0.9:
            return rough
        # what is left of the error budget, so that both together do not lose the object
        target = rng.uniform(0.7, 1.0) * max(intersection_over_union(rough, mask), 0.5)
        return perturb_mask(rough, rng, target_iou=target) if target > 0.6 else rough
    target = rng.uniform(0.65, 0.8) if rng.random() < 1 / 6 else rng.uniform(0.8, 1.0)
    return perturb_mask(mask, rng, target_iou=target)


def fade(image: Bytes, rng: np.random.Generator) -> Bytes:
    """Take the contrast, and half of the time add noise: fog, night, a wall before a wall.

    Args:
        image: (H, W, 3) uint8, RGB.
        rng: where all randomness comes from.

    Returns:
        (H, W, 3) uint8, of 0 to 20 % of the contrast.
    """
    level = rng.uniform(10, 245, 3).astype(np.float32)
    contrast = np.float32(max(rng.uniform(-MOST_CONTRAST, MOST_CONTRAST), LEAST_CONTRAST))
    faded = level + contrast * (image - np.float32(128))
    if rng.random() < 0.5:
        deviation = np.float32(np.exp(rng.uniform(0, np.log(40))))
        faded = faded + deviation * rng.standard_normal(faded.shape, np.float32)
    return np.clip(faded + np.float32(0.5), 0, 255).astype(np.uint8)


def _by_source(items: Iterable[Item]) -> dict[str, list[list[Item]]]:
    """Sources -> groups -> items, so that long sequences are not seen more often."""
    sources: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        sources.setdefault(item.source, {}).setdefault(item.group, []).append(item)
    return {name: list(groups.values()) for name, groups in sources.items()}


def _by_picture(items: Iterable[Item]) -> dict[tuple[str, str], tuple[Item, ...]]:
    """(source, name) -> the masks found there."""
    found: dict[tuple[str, str], tuple[Item, ...]] = {}
    for item in items:
        key = item.source, item.name
        found[key] = (*found.get(key, ()), item)
    return found


def _shares(sources: dict[str, list[list[Item]]], factors: Iterable[str]) -> NDArray[np.float64]:
    """How likely each source is drawn; their sum is 1.

    In proportion to the square root of its groups: large sets more often than small ones, but
    small ones more often than their size alone would have them. Times what ``factors`` say.
    """
    shares = {name: float(np.sqrt(len(groups))) for name, groups in sources.items()}
    for text in factors:
        name, _, factor = text.partition("=")
        try:
            times = float(factor)
        except ValueError:
            times = 0.0
        if name not in sources or not 0 < times < np.inf:
            known = ", ".join(sorted(sources)) or "none"
            raise InputError(
                f"source_factors takes source=factor with a positive factor, not {text!r}; "
                f"sources here: {known}"
            )
        shares[name] *= times
    values = np.array(list(shares.values()))
    normalised: NDArray[np.float64] = values / values.sum()
    return normalised


def _pick(items: Sequence[Item], rng: np.random.Generator, count: int) -> list[Item]:
    return [items[int(i)] for i in rng.integers(len(items), size=count)]


def _box_at_boundary(mask: Bytes, rng: np.random.Generator, size: int) -> tuple[slice, slice]:
    """A square around a boundary point: a third of the time ``size`` px, otherwise resized.

    Resized ones show from 0.4 times ``size`` up to the whole short side of the frame.
    """
    height, width = mask.shape
    longest = min(height, width)
    shortest = min(LEAST_SHOWN * size, longest)
    side = round(float(np.exp(rng.uniform(np.log(shortest), np.log(longest)))))
    if rng.random() < 1 / 3:
        side = min(size, longest)
    solid = (mask > 127).astype(np.uint8)
    edge = np.flatnonzero(solid != cv2.erode(solid, np.ones((3, 3), np.uint8)))
    spot = int(rng.choice(edge)) if edge.size else int(rng.integers(height * width))
    y, x = divmod(spot, width)
    y, x = (int(v + side * rng.uniform(-0.35, 0.35) - side / 2) for v in (y, x))
    y, x = min(max(y, 0), height - side), min(max(x, 0), width - side)
    return slice(y, y + side), slice(x, x + side)


def _resized(square: Bytes, size: int) -> Bytes:
    way = cv2.INTER_AREA if len(square) > size else cv2.INTER_LINEAR
    crop: Bytes = cv2.resize(square, (size, size), interpolation=way)
    return crop


def _to_grey(image: Bytes) -> Bytes:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
