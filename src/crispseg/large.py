"""Files of any size, in bounded memory: what ``pipeline.refine_file`` does with large images.

open by windows -> stream the cascade into a folder beside the output -> guard -> write the output

The folder is what an interrupted run goes on from (``io.journal``); it is gone when the output is
there.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crispseg.io import image_size, mask_size
from crispseg.io.given import GivenMask
from crispseg.io.journal import RunFolder, check_unchanged, fingerprint, honest, run_folder
from crispseg.io.outlines import Outlines, Region
from crispseg.io.raster import Cache, GeoGrid, bands_of, without_nodata
from crispseg.io.sinks import SINK_SUFFIXES, BandWriter, check_sink, open_sink
from crispseg.io.sources import WINDOWED_SUFFIXES, is_georeferenced, open_image, open_mask
from crispseg.io.store import StripStore
from crispseg.io.windows import CroppedImage, Flags, ImageSource
from crispseg.large_rows import FlatParts, Known, Rows, Tally, WholeRows
from crispseg.refiners.base import Progress, Refinement
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.refiners.guard import Kept, shifted
from crispseg.refiners.guard_stream import Evidence, StreamedGuard
from crispseg.refiners.roi import check_roi, context_of
from crispseg.refiners.stream import Scene, StreamedCascade, check_streamable, encode
from crispseg.runtime.memory import (
    Need,
    give_back_freed_memory,
    give_back_unused_memory,
    keep_freed_memory,
    plan_run,
)
from crispseg.tiling.bilinear import fitting_mask
from crispseg.tiling.grid import LEAST_SIDE_PX, first_long_side
from crispseg.types import Box, InputError, Mask, Size

FORMAT = 10
"""Of the run folder; raised when an older one can no longer be gone on with."""


@dataclass(frozen=True)
class Job:
    """What to do with which files.

    Attributes:
        image: any size, any format of ``io.sources``.
        mask: of the image's size, or smaller with the same proportions.
        output: one of ``io.sinks.SINK_SUFFIXES``.
        binary: 0 and 255 (bool to .npy) instead of probabilities.
        roi: only this part may change; outside is the given mask.
        region: GeoJSON polygons; outside nothing is run, and the result is nodata, or 0.
        polygons: GeoJSON file to write the result's outlines to.
        tolerance_px: how far the mask's corners may be from those; InputError if it is no distance.
        memory: budget in bytes for the whole process; None: what it takes.
        restart: throw away what an earlier run has left.
    """

    image: Path
    mask: Path
    output: Path
    binary: bool = False
    roi: Box | None = None
    region: Path | None = None
    polygons: Path | None = None
    tolerance_px: float = 0.5
    memory: int | None = None
    restart: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance_px < math.inf:
            raise InputError(f"the tolerance must be 0 pixels or more, not {self.tolerance_px:g}")


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        size: of the image.
        changed_pixels: whose binary value differs from the given mask's.
        foreground_before: pixels of the given mask.
        foreground_after: pixels of the result.
        tiles_run: full-resolution tiles that the network ran.
        tiles_planned: full-resolution tiles of the image.
        network_runs: in all, those of an earlier, interrupted run included.
        kept: where the guard kept the given mask.
    """

    size: Size
    changed_pixels: int
    foreground_before: int
    foreground_after: int
    tiles_run: int
    tiles_planned: int
    network_runs: int
    kept: tuple[Kept, ...]


IN_MEMORY_PIXELS = 1 << 26
"""Photos up to this size are refined in memory unless something asks for streaming."""


def is_large(job: Job, *, max_pixels: int | None) -> bool:
    """Whether a job is for ``refine_large``, and not for the refiner in memory.

    Raises:
        InputError: an image that cannot be read.
    """
    is_file = not job.image.is_dir()
    if max_pixels is not None and is_file and math.prod(image_size(job.image)) > max_pixels:
        return False  # what reads it in memory refuses it
    asked = (job.memory, job.region, job.polygons, job.restart or None)
    if any(option is not None for option in asked) or run_folder(job.output).exists():
        return True
    suffixes = (job.image.suffix.lower(), job.mask.suffix.lower(), job.output.suffix.lower())
    if set(suffixes) & set(WINDOWED_SUFFIXES) or job.image.is_dir():
        return True
    if suffixes[2] not in SINK_SUFFIXES:
        return False
    size = image_size(job.image)
    is_smaller = 0 < max(mask_size(job.mask)) < max(size)
    return math.prod(size) > IN_MEMORY_PIXELS or is_smaller or is_georeferenced(job.image)


def summary_of(given: Mask, result: Refinement) -> Summary:
    """The same account of a refinement in memory."""
    before, after = given > 0.5, result.mask > 0.5
    return Summary(
        Size(*given.shape),
        int((before != after).sum()),
        int(before.sum()),
        int(after.sum()),
        len(result.tiles_run),
        result.tiles_planned,
        result.network_runs,
        result.kept,
    )


def refine_large(job: Job, refiner: CascadeRefiner, progress: Progress | None = None) -> Summary:
    """Refine a mask from file to file in bounded memory.

    The result is that of ``CascadeRefiner.run`` to the bit. Interrupted in any way, the same call
    goes on where it stopped, at most one strip of tiles back, and ends with the same bytes.

    Args:
        job: the files.
        refiner: network and options.
        progress: called with (network runs done, network runs in all), as far as is known.

    Raises:
        InputError: files that cannot be read, written or go together; a budget that is too small;
            a run that was begun with something else; no space left on the disk.
    """
    check_streamable(refiner)
    check_sink(job.output)
    with (
        honest(job.output),
        RunFolder(job.output, _subject(job, refiner), restart=job.restart) as folder,
    ):
        return _Run(job, refiner, folder.path, progress).run()


class _Run:
    def __init__(
        self, job: Job, refiner: CascadeRefiner, folder: Path, progress: Progress | None
    ) -> None:
        self.job = job
        self.refiner = refiner
        self.folder = folder
        self.progress = progress
        self.inputs = {path: fingerprint(path) for path in (job.image, job.mask)}
        self.image: ImageSource = open_image(job.image, folder)
        self.size = self.image.size
        self.grid: GeoGrid | None = getattr(self.image, "grid", None)
        check_sink(job.output, self.size)
        if job.roi:
            check_roi(job.roi, self.size)
        model = refiner.model
        parameters = sum(p.numel() for p in model.module.parameters())
        need = Need(model.architecture, parameters, refiner.tile_size, self.size.width)
        self.plan = plan_run(job.memory, need, refiner.batch_size)
        Cache.bytes = self.plan.cache_bytes
        (keep_freed_memory if self.plan.keeps_freed else give_back_freed_memory)()
        soft = fitting_mask(open_mask(job.mask, folder), self.size, (job.mask, job.image))
        region = Region(job.region, self.size, self.grid) if job.region else None
        self.given = GivenMask(soft, self.image, region)
        self.context = context_of(job.roi, self.size) if job.roi else Box(0, 0, *self.size)
        self.exact = job.output.suffix.lower() == ".npy" and not job.binary

    def run(self) -> Summary:
        scene = Scene(
            CroppedImage(self.image, self.context),
            lambda box: self.given.read(self._here(box)),
            lambda box: self.given.valid(self._here(box)),
            lambda box: self.given.constant(self._here(box)),
        )
        given_pixels, possible_pixels = self.given.count(self.context)
        summary = Summary(self.size, 0, 0, 0, 0, 0, 0, ())
        if given_pixels in (0, possible_pixels):
            return self._write(self._flat(scene), summary)
        first = first_long_side(scene.size, self.refiner.tile_size)
        if first == max(scene.size) or min(scene.size) < LEAST_SIDE_PX:
            return self._write_small(scene, summary)
        cascade = StreamedCascade(
            *(self.refiner, scene, self.folder, self.exact, self.plan.at_once, self._after_run),
            cache_bytes=self.plan.cache_bytes // 2,
        )
        for _ in cascade.run():
            self._check_inputs()
        store = cascade.result()
        evidence = Evidence(
            scene.size,
            lambda box: self.given.read(self._here(box)),
            lambda box: store.read("change", box),
            given_pixels,
            unchanged=lambda box: store.constant("change", box) == 0,
            empty=lambda box: scene.constant(box) == 0,
            strip_px=self.plan.window_px,
        )
        guard = StreamedGuard(evidence, self.refiner.guard)
        summary = replace(
            summary,
            tiles_run=cascade.tiles_run,
            tiles_planned=cascade.tiles_planned,
            network_runs=cascade.runs,
            kept=shifted(guard.kept, self.context),
        )
        return self._write(self._judged(scene, store, guard), summary)

    def _after_run(self, done: int, total: int) -> None:
        give_back_unused_memory()
        if self.progress:
            self.progress(done, total)

    def _here(self, box: Box) -> Box:
        """A window of the part that is refined, in pixels of the image."""
        return box.shift(self.context.y0, self.context.x0)

    def _check_inputs(self) -> None:
        check_unchanged(self.inputs)

    def _flat(self, scene: Scene) -> Iterator[Rows]:
        for box in bands_of(scene.size, self.plan.window_px):
            given = scene.given(box)
            value = encode(given, given.astype(np.float32), exact=self.exact)["value"]
            yield Rows(box, value, given, given)

    def _write_small(self, scene: Scene, summary: Summary) -> Summary:
        """An image that fits a tile: there is nothing to stream."""
        whole = Box(0, 0, *scene.size)
        valid, given = scene.valid(whole), scene.given(whole)
        done = self.refiner.run(scene.image.read(whole), given, valid=valid, progress=self.progress)
        value = encode(given, done.mask, exact=self.exact)["value"]
        summary = replace(
            summary,
            tiles_run=len(done.tiles_run),
            tiles_planned=done.tiles_planned,
            network_runs=done.network_runs,
            kept=shifted(done.kept, self.context),
        )
        return self._write(iter([Rows(whole, value, given, done.mask > 0.5)]), summary)

    def _judged(self, scene: Scene, store: StripStore, guard: StreamedGuard) -> Iterator[Rows]:
        def known(box: Box) -> Known | None:
            box = box.clip(scene.size)
            value, given = store.constant("value", box), scene.constant(box)
            if value is None or given is None or store.constant("change", box) != 0:
                return None
            return value, given

        parts, kind = FlatParts(known), store.planes["value"].type
        for number, strip in guard.strips():
            undoing = guard.undoing(number, strip)
            for box, flat in parts.of(strip):
                if flat is not None:
                    yield Rows.flat(box, kind(flat[0]), bool(flat[1]))
                    continue
                value = store.read("value", box)
                given = self.given.read(self._here(box))
                refined = given.copy()
                if store.constant("change", box) != 0:
                    refined ^= store.read("change", box) != 0
                if undoing is not None:
                    back, doubted = (plane[:, box.x0 : box.x1] for plane in undoing)
                    corrected = np.where(given, 1 - doubted, doubted)
                    value[back] = encode(given, corrected, exact=self.exact)["value"][back]
                    refined[back] = given[back]
                yield Rows(box, value, given, refined)

    def _write(self, rows: Iterator[Rows], summary: Summary) -> Summary:
        """Write the output, and the outlines, and count."""
        self._check_inputs()
        job = self.job
        kind = "f4" if self.exact else "?" if job.output.suffix.lower() == ".npy" else "u1"
        nodata = self._nodata()
        grid = replace(self.grid, nodata=nodata) if self.grid else None
        outlines = Outlines(self.size) if job.polygons else None
        tally, whole_rows = Tally(), WholeRows(self.size.width)
        with open_sink(job.output, self.size, kind, grid) as sink:
            writer = BandWriter(sink, self.size, kind)
            for row in self._whole_rows(rows):
                tally.add(row)
                if outlines and (refined := whole_rows.add(row)) is not None:
                    outlines.feed(row.box.y0, refined)
                values = row.value if not job.binary else self._binary(row.refined, kind)
                valid = self.given.valid(row.box) if nodata is not None else None
                values = without_nodata(values, valid, nodata)
                if row.is_flat and valid is None:
                    writer.fill(row.box, values[0, 0])
                else:
                    writer.write(row.box, values)
            writer.finish()
        if outlines and job.polygons:
            outlines.write(job.polygons, self.grid, job.tolerance_px)
        return replace(
            summary,
            changed_pixels=tally.changed,
            foreground_before=tally.before,
            foreground_after=tally.after,
        )

    def _binary(self, refined: Flags, kind: str) -> NDArray[Any]:
        return refined if kind == "?" else refined.astype(np.uint8) * np.uint8(255)

    def _nodata(self) -> int | None:
        nodata = self.grid.nodata if self.grid else None
        fits = nodata is not None and 0 <= nodata <= 255 and nodata == int(nodata)
        return int(nodata) if nodata is not None and fits and not self.exact else None

    def _whole_rows(self, rows: Iterator[Rows]) -> Iterator[Rows]:
        """Parts of the region of interest, put into whole rows of the given mask."""
        roi, context = self.job.roi, self.context
        if roi is None:
            yield from rows
            return
        yield from self._given_rows(0, context.y0)
        for part in rows:
            row = replace(part, box=self._here(part.box))
            if row.box.x0 == context.x0:
                [whole] = self._given_rows(row.box.y0, row.box.y1, row.box.height)
            (y0, x0, y1, x1), top = _shared(row.box, roi), row.box.y0
            if y0 < y1 and x0 < x1:
                row.put_into(whole.value, row.value, Box(y0, x0, y1, x1), top, 0)
                row.put_into(whole.refined, row.refined, Box(y0, x0, y1, x1), top, 0)
            if row.box.x1 == context.x1:
                yield whole
        yield from self._given_rows(context.y1, self.size.height)

    def _given_rows(self, y0: int, y1: int, rows: int | None = None) -> Iterator[Rows]:
        step = rows or max(self.plan.window_px // self.size.width, 1)
        for top in range(y0, y1, step):
            box = Box(top, 0, min(top + step, y1), self.size.width)
            soft = self.given.soft(box)
            value = encode(soft > 0.5, soft, exact=self.exact)["value"].copy()
            yield Rows(box, value, soft > 0.5, soft > 0.5)


def _shared(a: Box, b: Box) -> tuple[int, int, int, int]:
    return max(a.y0, b.y0), max(a.x0, b.x0), min(a.y1, b.y1), min(a.x1, b.x1)


def add_weights(digest: hashlib._Hash, module: nn.Module) -> None:
    """Put the names and values of a network's weights into a digest."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _subject(job: Job, refiner: CascadeRefiner) -> dict[str, Any]:
    """What makes a run this run and no other; the memory budget does not."""
    digest = hashlib.sha256()
    add_weights(digest, refiner.model.module)
    return {
        "format": FORMAT,
        "image": fingerprint(job.image),
        "mask": fingerprint(job.mask),
        "region": fingerprint(job.region) if job.region else None,
        "model": digest.hexdigest(),
        "device or precision": [refiner.device.type, refiner.network.arithmetic],
        "tile size": refiner.tile_size,
        "fast": refiner.fast,
        "calibration": [refiner.temperature, refiner.bias],
        "guard": refiner.guard,
        "ROI": job.roi and (job.roi.y0, job.roi.x0, job.roi.y1, job.roi.x1),
        "kind of output": [job.output.suffix.lower(), job.binary],
    }
