"""MagNet and MagNet-Fast: a segmentation refined from magnification to magnification.

Huynh et al., "Progressive Semantic Segmentation", CVPR 2021, written from the paper. The first
stage segments the whole image, made small. Each further stage looks at a larger image, tile by
tile: the network's own probabilities there and those of the stages so far go through a small
refinement module, and the points where the map was unsure and the refinement is sure are replaced.
MagNet-Fast runs only the tiles where the map is most uncertain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crispseg.refiners.base import Progress
from crispseg.refiners.points import Budget, PointCollector, ScoreFactors
from crispseg.refiners.running import RunningMap
from crispseg.refiners.select import Floats, Positions, most_uncertain, points_to_take, uncertainty
from crispseg.runtime.device import resolve_device
from crispseg.tiling.area import resize_area
from crispseg.tiling.blend import StripMerger
from crispseg.tiling.grid import fit_size, plan_tiles
from crispseg.tiling.sliding import TilePlan, run_tiles
from crispseg.types import Box, Image, InputError, Size, check_image

Predict = Callable[[Image], Floats]
"""(h, w, 3) RGB, uint8 or uint16 -> (C, h, w) float32 probabilities; a segmenter's method."""


@dataclass(frozen=True)
class Stage:
    """One magnification.

    Attributes:
        long_side: of the image at this stage, in pixels; None for the image's own. Never above
            the image's own.
        tile: size of its tiles, in pixels of this stage; None: the whole image at once.
        points: how many points it replaces, if an int; their share of those that it refined, if
            a float. Of no meaning in the first stage.
    """

    long_side: int | None
    tile: Size | None = None
    points: float = 65536


@dataclass(frozen=True)
class StageReport:
    """What one stage did.

    Attributes:
        size: of the image at this stage.
        tiles: all its tiles, in pixels of that size.
        tiles_run: those that the network saw.
        positions: (n,) the points it replaced, row * width + column, rising.
        output: the map after it; None for a last stage that kept labels only.
    """

    size: Size
    tiles: tuple[Box, ...]
    tiles_run: tuple[Box, ...]
    positions: Positions
    output: RunningMap | None


@dataclass(frozen=True)
class Progression:
    """A segmentation and the stages that led to it.

    Attributes:
        labels: (H, W) uint8 (uint16 above 256 classes): the most probable class.
        stages: what each did, the first included.
        network_runs: how often the segmentation network ran.
    """

    labels: NDArray[Any]
    stages: tuple[StageReport, ...]
    network_runs: int


class ProgressiveRefiner:
    """MagNet over any segmentation network.

    No array of classes x height x width is made at the size of the last stage unless
    ``probabilities`` is asked for.

    Args:
        predict: the segmentation network.
        modules: one refinement module for all stages (``models/magnet.py``), or one for each
            stage but the first.
        stages: from the smallest image to the largest; the first sees the whole image at once.
        median_px: of the median that smooths the scores; 5 (Cityscapes) or 11 (DeepGlobe).
        overlap_px: of neighbouring tiles; 0 as in the paper.
        input_size: what the network gets of a tile, if that is not its size in the stage's image.
        budget: run only the most uncertain tiles, MagNet-Fast; None runs them all.
        factors: of the score; others than "both" are for comparison (the paper's table 6).
        device: of the refinement module.
        clock: seconds that pass, for a budget in milliseconds.

    Raises:
        InputError: no stages, or another number of modules than stages.
    """

    def __init__(
        self,
        predict: Predict,
        modules: nn.Module | Sequence[nn.Module],
        stages: Sequence[Stage],
        *,
        median_px: int = 5,
        overlap_px: int = 0,
        input_size: Size | None = None,
        budget: Budget | None = None,
        factors: ScoreFactors = "both",
        device: str = "auto",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not stages or stages[0].tile is not None:
            raise InputError("give at least one stage; the first sees the whole image, tile=None")
        later = len(stages) - 1
        each = [modules] * later if isinstance(modules, nn.Module) else list(modules)
        if len(each) != later:
            raise InputError(f"{later} stages follow the first, but there are {len(each)} modules")
        if median_px < 1 or median_px % 2 == 0:
            raise InputError(f"median_px must be odd, 1 or more, not {median_px}")
        self.stages = tuple(stages)
        self.median_px, self.overlap_px, self.input_size = median_px, overlap_px, input_size
        self.budget, self.factors, self.clock = budget, factors, clock
        self.device = resolve_device(device)
        self._predict = predict
        self._modules = [module.eval().to(self.device) for module in each]

    def segment(self, image: Image) -> NDArray[Any]:
        """(H, W, 3) -> (H, W) labels."""
        return self.run(image).labels

    def probabilities(self, image: Image) -> Floats:
        """(H, W, 3) -> (C, H, W) float32 at the image's size, which may be large."""
        last = self.run(image, keep_probabilities=True).stages[-1].output
        assert last is not None
        return last.probabilities(Size(*image.shape[:2]))

    def run(
        self,
        image: Image,
        *,
        coarse: Floats | None = None,
        keep_probabilities: bool = False,
        progress: Progress | None = None,
    ) -> Progression:
        """Segment an image.

        Args:
            image: (H, W, 3) RGB, uint8 or uint16.
            coarse: (C, h, w) float32 probabilities that stand for the first stage's.
            keep_probabilities: keep them at the last stage too, not only its labels.
            progress: called with (network runs done, network runs in all).

        Raises:
            InputError: not an image, or probabilities of another number of classes.
        """
        return _Run(self, check_image(image), progress).run(coarse, keep_probabilities)

    @torch.inference_mode()
    def refine_tile(self, index: int, coarse: Floats, fine: Floats) -> Floats:
        """Stage ``index``'s module: two (C, h, w) probabilities -> (C, h, w) probabilities.

        Raises:
            InputError: the two have not the same shape, or not the module's number of classes.
        """
        module = self._modules[index - 1]
        classes = getattr(module, "num_classes", len(coarse))
        if coarse.shape != fine.shape or len(fine) != classes:
            raise InputError(
                f"probabilities of {coarse.shape} and {fine.shape} (classes, height, width) do "
                f"not fit a refinement module of {classes} classes"
            )
        both = [torch.from_numpy(np.ascontiguousarray(p))[None] for p in (coarse, fine)]
        logits = module(*(p.to(self.device) for p in both))
        refined: Floats = logits.float().softmax(dim=1)[0].cpu().numpy()
        return refined


class TakeFine(nn.Module):
    """Instead of a refinement module: the network's own probabilities of the tile."""

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        """Two (N, C, H, W) probabilities -> logits of the second."""
        return fine.clamp(min=1e-6).log()


def point_rend(
    predict: Predict, stages: Sequence[Stage], *, input_size: Size | None = None
) -> ProgressiveRefiner:
    """PointRend's inference (Kirillov et al., CVPR 2020, section 3.1) without its point head.

    From stage to stage the map is enlarged and its most uncertain points are predicted anew, here
    by the segmentation network itself, on tiles of the larger image. The paper's stages double,
    and replace 28 x 28 points each for objects, 8096 for Cityscapes.
    """
    return ProgressiveRefiner(
        predict, TakeFine(), stages, median_px=1, factors="coarse", input_size=input_size
    )


class _Run:
    """One image on its way through the stages."""

    def __init__(
        self, refiner: ProgressiveRefiner, image: Image, progress: Progress | None
    ) -> None:
        self.refiner, self.image, self.progress = refiner, image, progress
        self.size = Size(*image.shape[:2])
        self.account = refiner.budget.start(refiner.clock) if refiner.budget else None
        self.runs = 0

    def run(self, coarse: Floats | None, keep_probabilities: bool) -> Progression:
        first, *later = self.refiner.stages
        current, reports = self._first(first, coarse)
        labels: NDArray[Any] | None = None
        for index, stage in enumerate(later, start=1):
            size = self._size(stage)
            labels_only = index == len(later) and size == self.size and not keep_probabilities
            tiles = plan_tiles(size, stage.tile or size, self.refiner.overlap_px)
            job = _Job(index, size, self._image_at(size), tiles, current)
            chosen = self._choose(job)
            positions, values = self._refine(job, chosen, labels_only)
            after = None if labels_only else current.refined(size, positions, values)
            tiles_run = tuple(tile for i, tile in enumerate(tiles) if i in chosen)
            reports.append(StageReport(size, tuple(tiles), tiles_run, positions, after))
            if after is None:
                labels = current.labels(size)
                labels.reshape(-1)[positions] = values[:, 0]
            else:
                current = after
        if labels is None:
            labels = current.labels(self.size)
        return Progression(labels, tuple(reports), self.runs)

    def _size(self, stage: Stage) -> Size:
        longest = max(self.size)
        if stage.long_side is None or stage.long_side >= longest:
            return self.size
        return fit_size(self.size, stage.long_side)

    def _first(self, stage: Stage, coarse: Floats | None) -> tuple[RunningMap, list[StageReport]]:
        ran = coarse is None
        if coarse is None:
            coarse = self._segment(self._image_at(self._size(stage)))
        current = RunningMap.first(np.asarray(coarse, np.float32))
        whole = (Box(0, 0, *current.size),)
        run = whole if ran else ()
        return current, [StageReport(current.size, whole, run, np.zeros(0, np.int64), current)]

    def _image_at(self, size: Size) -> Image:
        if size == self.size:
            return self.image
        return np.rint(resize_area(self.image, size)).astype(self.image.dtype)

    def _segment(self, image: Image) -> Floats:
        probabilities = self.refiner._predict(image)
        self.runs += 1
        if probabilities.ndim != 3 or probabilities.shape[1:] != image.shape[:2]:
            raise InputError(
                f"the segmentation network made probabilities of shape {probabilities.shape} for "
                f"an image of {image.shape[:2]}; it must return (classes, height, width)"
            )
        return probabilities

    def _choose(self, job: _Job) -> dict[int, Floats | None]:
        """Numbers of the tiles to run, and the results of those that ran to find out.

        How many tiles fit a budget in time shows only when they run, so they run here, the most
        uncertain first. A budget's tiles are few; their results are held.
        """
        if self.account is None:
            return dict.fromkeys(range(len(job.tiles)))
        means = [float(uncertainty(job.coarse(tile)).mean()) for tile in job.tiles]
        found: dict[int, Floats | None] = {}
        self.account.begin_stage(len(self.refiner.stages) - job.index, self.runs)
        for number in most_uncertain(means):
            if not self.account.allows(len(found), self.runs):
                break
            found[number] = self._tile(job, job.tiles[number])
        return found

    def _tile(self, job: _Job, box: Box) -> Floats:
        """Refined probabilities (C, h, w) of one tile."""
        pixels, wanted = job.image[box.slices], self.refiner.input_size
        if wanted is not None and (wanted.height < box.height or wanted.width < box.width):
            small = Size(min(wanted.height, box.height), min(wanted.width, box.width))
            pixels = np.rint(resize_area(pixels, small)).astype(pixels.dtype)
        fine = RunningMap.first(self._segment(pixels)).enlarged(box.size, Box(0, 0, *box.size))
        return self.refiner.refine_tile(job.index, job.coarse(box), fine)

    def _refine(
        self, job: _Job, chosen: dict[int, Floats | None], labels_only: bool
    ) -> tuple[Positions, NDArray[Any]]:
        """Merge the tiles' results: the points to replace, and their values."""
        refiner = self.refiner
        margin_px = refiner.overlap_px // 8
        plan = TilePlan(job.size, job.tiles, margin_px, refiner.overlap_px - 2 * margin_px)
        held = {job.tiles[i]: values for i, values in chosen.items() if values is not None}
        total = self.runs + len(chosen) - len(held)
        collector = PointCollector(
            job.current,
            job.size,
            k=points_to_take(refiner.stages[job.index].points, _covered(plan, chosen)),
            median_px=refiner.median_px,
            factors=refiner.factors,
            labels_only=labels_only,
        )

        def predict(boxes: Sequence[Box]) -> list[Floats]:
            return [held[box] if box in held else self._tile(job, box) for box in boxes]

        def on_tile(box: Box) -> None:
            if self.progress:
                self.progress(self.runs, total)

        classes = job.current.num_classes
        merger = StripMerger(job.size, classes, collector.add, partial(_unknown, classes))
        flags = [i in chosen for i in range(len(job.tiles))]
        run_tiles(plan, predict, merger, selected=flags, on_tile=on_tile)
        return collector.finish()


@dataclass(frozen=True)
class _Job:
    """One stage of one image: its number, size, image and tiles, and the map before it."""

    index: int
    size: Size
    image: Image
    tiles: Sequence[Box]
    current: RunningMap

    def coarse(self, box: Box) -> Floats:
        """(C, h, w) the map so far in a box of this stage."""
        return self.current.enlarged(self.size, box)


def _covered(plan: TilePlan, chosen: Collection[int]) -> int:
    """How many pixels the chosen tiles refine."""
    if len(chosen) == len(plan.tiles):
        return plan.size.height * plan.size.width
    covered = np.zeros(plan.size, np.bool_)
    for number in chosen:
        box = plan.tiles[number]
        covered[box.slices] |= plan.weights(box) > 0
    return int(np.count_nonzero(covered))


def _unknown(classes: int, box: Box) -> Floats:
    return np.broadcast_to(np.float32(np.nan), (classes, *box.size))
