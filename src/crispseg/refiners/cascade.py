"""CascadePSP's procedure: a global step on the whole image, local steps on its tiles.

Cheng et al., CVPR 2020, section 3.2 and 3.3. This is the default mode; ``published.py`` has the
released package's own procedure. They differ where the published one loses edges:

* a tile is left out only if it holds no edge of the given mask, no edge of the coarse result and
  no uncertain pixel (published: whenever less than 10 % or more than 90 % of it is object);
* in the others the network sees the box around all of these, and some context (published: all);
* detail of the given mask that the small global image cannot hold is kept where the global step
  agrees with the mask (``merge_detail``);
* tiles blend with ramps; neither left-out tiles nor what the bundled network gets is binarised;
* images more than ``MAX_RATIO`` times larger than a tile pass through magnifications in between;
* the global step finds nothing far from what was given, and looks again where it changed much
  (``reach.py``, ``whole.py``);
* images that fit a tile are enlarged by a whole number where their object is small; otherwise
  the local step looks around the object's edges at twice the size (section 3.3: not at all).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crispseg.models.weights import LoadedModel
from crispseg.refiners.base import Progress, Refinement
from crispseg.refiners.guard import Calibration, calibrate, keep_better, negligible, shifted
from crispseg.refiners.local import (
    MARGIN_PX,
    Coarse,
    LocalInputs,
    box_of_edges,
    covered,
    enlarged_by,
    merge_detail,
    pasted,
    tiling,
)
from crispseg.refiners.network import CascadeNetwork
from crispseg.refiners.published import refine_published
from crispseg.refiners.roi import check_roi, context_of
from crispseg.refiners.scene import Way, refine_scene
from crispseg.refiners.whole import look_at_whole
from crispseg.runtime.device import resolve_device
from crispseg.runtime.precision import Precision
from crispseg.tiling.area import resize_area
from crispseg.tiling.blend import RamMerger, merged_alone
from crispseg.tiling.grid import LEAST_SIDE_PX, first_long_side, magnifications, plan_tiles
from crispseg.tiling.sliding import TilePlan, run_tiles
from crispseg.types import Box, Image, InputError, Mask, Size, check_image, check_mask

Mode = Literal["default", "published"]
Array = NDArray[np.float32]
Valid = NDArray[np.bool_] | None

TILE_SIZE = 900
MIN_TILE_SIZE = 128
MAX_RATIO = 4.0


class CascadeRefiner:
    """Refines masks with CascadePSP's network.

    The result is bit-identical for any ``batch_size`` and ``workers`` on the CPU.

    Args:
        model: a network and its preprocessing, from ``crispseg.load_refiner`` or
            ``crispseg.models.weights.load_model``.
        tile_size: long side of the global step's image and side of the local tiles, in pixels.
            Smaller needs less memory and sees less context.
        mode: "default", or "published" for the procedure of the released package to the digit.
        fast: global step only.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        batch_size: most tiles in one network call.
        workers: tiles that run at the same time on the CPU, each with its share of the cores;
            elsewhere like ``batch_size``.
        calibrated: correct logits by the temperature and bias that belong to the weights, so that
            a probability is the share of such pixels that are object; below ``guard.NEGLIGIBLE``
            it is 0, and as near to 1, 1.
        guard: keep the given mask where a change is not to be trusted; needs weights that
            ``recipes/fit_guard.py`` has seen. Neither applies to the published mode.
        precision: "exact" or "fp32" (within 1e-4 of the network as written), "plain" (as written),
            "bf16", "fp16", "auto" (the quickest on this machine; these three decode the published
            network on a CPU only where anything is open, see ``runtime.uncertain``); None: "exact"
            in the published mode, else "auto".

    Raises:
        InputError: an option out of range, a device that is not there, damaged weights.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        tile_size: int | None = None,
        mode: Mode = "default",
        fast: bool = False,
        device: str = "auto",
        batch_size: int = 1,
        workers: int = 1,
        calibrated: bool = True,
        guard: bool = True,
        precision: Precision | None = None,
    ) -> None:
        if mode not in ("default", "published"):
            raise InputError(f"mode must be default or published, not {mode!r}")
        self.tile_size = TILE_SIZE if tile_size is None else tile_size
        if self.tile_size < MIN_TILE_SIZE:
            raise InputError(f"tile size must be {MIN_TILE_SIZE} or more, not {self.tile_size}")
        for name, count in (("batch size", batch_size), ("workers", workers)):
            if count < 1:
                raise InputError(f"{name} must be 1 or more, not {count}")
        self.model = model
        self.mode = mode
        self.fast = fast
        self.batch_size = max(batch_size, workers)
        self.device = resolve_device(device)
        fitted = Calibration.from_metadata(model.metadata)
        self.temperature = fitted.temperature if calibrated else 1.0
        self.bias = fitted.bias if calibrated else 0.0
        self.guard = fitted.guard if guard else None
        published = mode == "published"
        precision = precision or ("exact" if published else "auto")
        self.network = CascadeNetwork(
            model,
            self.device,
            published=published,
            precision=precision,
            workers=workers,
            negligible=0.0 if published else negligible(self.temperature, self.bias),
        )

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
            mask: (H, W) bool, 0/1, 0..255 or float in [0, 1]; binarised at 0.5.
            roi: only this part may change; the rest of the given mask comes back as it is.
            progress: called with (network runs done, network runs in all).

        Returns:
            (H, W) float32 probability of the object, in [0, 1].

        Raises:
            InputError: shapes, dtypes or ranges that cannot be used.
        """
        return self.run(image, mask, roi=roi, progress=progress).mask

    def run(
        self,
        image: Image,
        mask: NDArray[Any],
        *,
        roi: Box | None = None,
        valid: NDArray[np.bool_] | None = None,
        progress: Progress | None = None,
    ) -> Refinement:
        """Like ``refine``, with an account of the tiles that were run.

        ``valid`` (H, W) bool says where there is an image: elsewhere the given mask counts as
        empty, no tile is run for that alone, and the result is 0.
        """
        image = check_image(image)
        size = Size(*image.shape[:2])
        mask = check_mask(mask, size)
        if valid is not None:
            if valid.shape != mask.shape:
                raise InputError(f"valid is {valid.shape} but the mask is {mask.shape}")
            if self.mode == "published":
                raise InputError("mode published knows no valid area")
            mask = mask * valid
        if roi is None:
            return self._refine_whole(image, mask, valid, progress)
        check_roi(roi, size)
        return self._refine_roi(image, mask, roi, valid, progress)

    def refine_labels(
        self,
        image: Image,
        labels: NDArray[Any],
        *,
        way: Way = "one-pass",
        ignore_index: int = 255,
        stuff: Collection[int] = (),
    ) -> NDArray[Any]:
        """Refine a label map of many classes.

        Args:
            image: (H, W, 3) RGB, uint8 or uint16.
            labels: (H, W) uint8 or uint16.
            way: "one-pass" or "divide-and-conquer", see ``refiners/scene.py``.
            ignore_index: label of pixels without a class; they keep it.
            stuff: classes that divide and conquer trusts less, as ``scene.ADE_STUFF``.

        Returns:
            (H, W) labels of the same dtype; each was in the map that came in.

        Raises:
            InputError: shapes or dtypes that cannot be used.
        """
        return refine_scene(
            self.network,
            image,
            labels,
            way=way,
            tile_size=self.tile_size,
            ignore_index=ignore_index,
            stuff=stuff,
        ).labels

    def _refine_roi(
        self, image: Image, mask: Mask, roi: Box, valid: Valid, progress: Progress | None
    ) -> Refinement:
        context = context_of(roi, Size(*mask.shape))
        at = context.slices
        within = None if valid is None else valid[at]
        part = self._refine_whole(image[at], mask[at], within, progress)
        result = mask.copy()
        result[roi.slices] = part.mask[roi.shift(-context.y0, -context.x0).slices]
        boxes = tuple(box.shift(context.y0, context.x0) for box in part.tiles_run)
        kept = shifted(part.kept, context)
        return Refinement(result, boxes, part.tiles_planned, part.network_runs, kept)

    def _refine_whole(
        self, image: Image, mask: Mask, valid: Valid, progress: Progress | None
    ) -> Refinement:
        given = (mask > 0.5).astype(np.float32)
        if self.mode == "published":
            return refine_published(
                self.network,
                image,
                given,
                tile_size=self.tile_size,
                fast=self.fast,
                batch_size=self.batch_size,
                progress=progress,
            )
        has_edge = given.any() and not (given.all() if valid is None else given[valid].all())
        if not has_edge or min(given.shape) < LEAST_SIDE_PX:
            return Refinement(given, (), 0, 0)
        factor = enlarged_by(given, self.tile_size)
        result = _Cascade(self, image, given, valid, progress).run(factor)
        return self._judge(given, result, valid, factor)

    def _judge(self, given: Mask, result: Refinement, valid: Valid, factor: int) -> Refinement:
        mask = calibrate(result.mask, self.temperature, 0.0 if factor > 1 else self.bias)
        if valid is not None:
            mask = np.where(valid, mask, np.float32(0))
        if not self.guard:
            return replace(result, mask=mask)
        seen_whole = max(given.shape) <= self.tile_size
        mask, kept = keep_better(given > 0.5, mask, self.guard, seen_whole=seen_whole)
        return replace(result, mask=mask, kept=kept)


class _Cascade:
    """One run of the default mode; ``image``, ``given`` and ``valid`` are at full size."""

    def __init__(
        self,
        refiner: CascadeRefiner,
        image: Image,
        given: Mask,
        valid: Valid,
        progress: Progress | None,
    ) -> None:
        self.refiner = refiner
        self.network = refiner.network
        self.image = image
        self.given = given
        self.valid = valid
        self.size = Size(*given.shape)
        self.peak = float(np.iinfo(image.dtype).max)
        self.progress = progress
        self.runs = 0
        self.boxes: list[Box] = []

    def run(self, factor: int) -> Refinement:
        fast = self.refiner.fast
        sizes = self._sizes(factor)[: 1 if fast else None]
        looks_again = sizes == [self.size] and not fast
        coarse = self._global_step(sizes[0], 2 if looks_again or len(sizes) > 1 else 1)
        if looks_again:
            return self._second_look(coarse)
        planned = 0
        if len(sizes) == 1 and not fast:  # the global step has seen every pixel
            self.boxes, planned = [Box(0, 0, *self.size)], 1
        for size in sizes[1:]:
            coarse, planned = self._local_step(size, coarse.keeping_thin())
        return self._finished(self._at_full_size(coarse), planned)

    def _sizes(self, factor: int) -> list[Size]:
        first = first_long_side(self.size, self.refiner.tile_size)
        if max(self.size) > self.refiner.tile_size:
            return magnifications(self.size, first, MAX_RATIO)
        return [Size(factor * self.size.height, factor * self.size.width)]

    def _finished(self, mask: Mask, planned: int) -> Refinement:
        return Refinement(mask, tuple(self.boxes), planned, self.runs)

    def _image_at(self, size: Size) -> Callable[[Box], Tensor]:
        """Windows of the image at ``size``, averaged or enlarged, as the network takes them."""
        if max(size) > max(self.size):
            return self.network.enlarged(self.image, self.peak, size)
        image = self.image if size == self.size else resize_area(self.image, size)
        return lambda box: self.network.image_tensor(image[box.slices], self.peak)

    def _given_at(self, size: Size) -> Array:
        """The given mask at ``size``: averaged, or enlarged without smoothing."""
        if max(size) > max(self.size):
            factor = size.height // self.size.height
            return self.given.repeat(factor, axis=1).repeat(factor, axis=0)  # rows are copied
        return self.given if size == self.size else resize_area(self.given, size)

    def _global_step(self, size: Size, channels: int) -> Coarse:
        tensor, given = self._image_at(size)(Box(0, 0, *size)), self._given_at(size)
        values = look_at_whole(
            self.network, tensor, given, channels, after_run=lambda: self._count(1, 1)
        )
        return Coarse(given, values[0], values[-1])

    def _at_full_size(self, coarse: Coarse) -> Mask:
        if coarse.final.shape == self.given.shape:
            return coarse.final
        if coarse.final.size > self.given.size:
            return resize_area(coarse.final, self.size)
        return merge_detail(coarse.keeping_thin(), self.given, self.size, Box(0, 0, *self.size))

    def _local_step(self, size: Size, coarse: Coarse) -> tuple[Coarse, int]:
        image = self._image_at(size)
        is_last = max(size) >= max(self.size)
        given = self._given_at(size)
        given = given if is_last else (given > 0.5).astype(np.float32)
        channels = 1 if is_last else 2
        tile, overlap_px = tiling(size, self.refiner.tile_size)
        tiles = plan_tiles(size, tile, overlap_px)
        plan = TilePlan(size, tiles, MARGIN_PX, overlap_px - 2 * MARGIN_PX)
        inputs = LocalInputs(coarse, lambda box: given[box.slices], size, channels)
        selected = [self._any_valid(size, box) and inputs.has_edge(box) for box in tiles]
        total = self.runs + sum(selected)

        def predict(boxes: Sequence[Box]) -> list[Array]:
            return inputs.refined(boxes, image, self.network)

        def on_tile(box: Box) -> None:
            self._count(1, total)
            if is_last:
                self.boxes.append(box.shrink(size.height // self.size.height))

        if selected == [True]:
            values = merged_alone(tiles[0], predict(tiles)[0])
            on_tile(tiles[0])
            return Coarse(given, values[0], values[-1]), 1
        merger = RamMerger(size, channels)
        run_tiles(
            plan,
            predict,
            merger,
            selected=selected,
            keep=inputs.coarse_values,
            batch_size=self.refiner.batch_size,
            on_tile=on_tile,
        )
        return Coarse(given, merger.result[0], merger.result[-1]), len(tiles)

    def _second_look(self, coarse: Coarse) -> Refinement:
        """The local step at twice the size, where the object's edges are."""
        self.boxes = [Box(0, 0, *self.size)]
        box = box_of_edges(self.given, coarse.final)
        if box is None:
            return self._finished(coarse.final, 1)
        at = box.slices
        valid = None if self.valid is None else self.valid[at]
        part = _Cascade(self.refiner, self.image[at], self.given[at], valid, self.progress)
        part.runs = self.runs
        seen = Coarse(self.given[at], coarse.final[at], coarse.stride4[at])
        closer, planned = part._local_step(Size(2 * part.size.height, 2 * part.size.width), seen)
        self.runs = part.runs
        self.boxes += [tile.shift(box.y0, box.x0) for tile in part.boxes]
        return self._finished(pasted(coarse.final, part._at_full_size(closer), box), 1 + planned)

    def _any_valid(self, size: Size, tile: Box) -> bool:
        return self.valid is None or bool(self.valid[covered(tile, size, self.size).slices].any())

    def _count(self, runs: int, total: int) -> None:
        self.runs += runs
        if self.progress:
            self.progress(self.runs, max(self.runs, total))
