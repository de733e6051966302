"""From files or arrays to a refined mask or to labels: read this page first.

image and mask -> checks -> refiner (plan tiles, run the network on each, merge) -> file
image -> checks -> segmenter (plan tiles, run the network on each, merge, arg-max) -> file
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io import (
    DEFAULT_MAX_PIXELS,
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    array_file,
    check_output,
    read_image,
    read_mask,
    write_image,
    write_labels,
    write_mask,
)
from crispseg.large import Job, Summary, is_large, refine_large, summary_of
from crispseg.large_labels import (
    LabelSummary,
    is_large_photo,
    segment_large,
    summary_of_labels,
)
from crispseg.models.weights import load_model
from crispseg.models.zoo import DEFAULT_SEGMENTER
from crispseg.preview import render_overlay
from crispseg.refiners.base import Progress
from crispseg.refiners.cascade import CascadeRefiner, Mode
from crispseg.refiners.scene import Way
from crispseg.runtime.memory import parse_bytes
from crispseg.runtime.precision import Precision
from crispseg.segmenters.base import Labels, label_dtype
from crispseg.segmenters.load import load_segmenter
from crispseg.segmenters.network import NetworkSegmenter, write_labels_to, write_values_to
from crispseg.tiling.blend import Values
from crispseg.types import Box, Image, InputError, Mask

DEFAULT_MODEL = "cascadepsp-lite"


def load_refiner(
    model: str | Path = DEFAULT_MODEL,
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
) -> CascadeRefiner:
    """Load a refiner once, to use it for many images.

    Args:
        model: a name that ``crispseg models`` lists, or a weights file (safetensors, or the
            published CascadePSP file).
        tile_size: side of the tiles in pixels; 900 if None.
        mode: "default", or "published" for the released package's procedure to the digit.
        fast: global step only: quick, edges no finer than the image at ``tile_size``.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        batch_size: most tiles in one network call.
        workers: tiles that run at the same time on the CPU; the same result.
        calibrated: probabilities that are right as often as they say, where the weights know how.
        guard: keep the given mask where a change is not to be trusted.
        precision: "exact", "auto", "bf16", "fp16", "fp32" or "plain", see ``CascadeRefiner``.

    Raises:
        InputError: unknown model or unusable file, option out of range, device not there.
    """
    return CascadeRefiner(
        load_model(model),
        tile_size=tile_size,
        mode=mode,
        fast=fast,
        device=device,
        batch_size=batch_size,
        workers=workers,
        calibrated=calibrated,
        guard=guard,
        precision=precision,
    )


_cached_refiner = lru_cache(maxsize=2)(load_refiner)


def refine(
    image: Image,
    mask: NDArray[Any],
    *,
    model: str | Path = DEFAULT_MODEL,
    tile_size: int | None = None,
    mode: Mode = "default",
    fast: bool = False,
    device: str = "auto",
    batch_size: int = 1,
    calibrated: bool = True,
    guard: bool = True,
    precision: Precision | None = None,
    roi: Box | None = None,
    progress: Progress | None = None,
) -> Mask:
    """Refine the mask of one object in an image.

    The refiner is kept for the next call with the same options.

    Args:
        image: (H, W, 3) RGB, uint8 or uint16, any size.
        mask: (H, W) bool, 0/1, 0..255 or float in [0, 1]; binarised at 0.5.
        model: a name or a weights file, see ``load_refiner``.
        tile_size: see ``load_refiner``, as are mode, fast, device, batch_size, calibrated, guard.
        mode: "default" or "published".
        fast: global step only.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        batch_size: most tiles in one network call.
        calibrated: honest probabilities, where the weights know how.
        guard: keep the given mask where a change is not to be trusted.
        precision: see ``load_refiner``.
        roi: only this part may change.
        progress: called with (network runs done, network runs in all).

    Returns:
        (H, W) float32 probability of the object, in [0, 1]; ``> 0.5`` makes it binary.

    Raises:
        InputError: shapes, dtypes or ranges that cannot be used, and all of ``load_refiner``.
    """
    refiner = _cached_refiner(
        model,
        tile_size=tile_size,
        mode=mode,
        fast=fast,
        device=device,
        batch_size=batch_size,
        calibrated=calibrated,
        guard=guard,
        precision=precision,
    )
    return refiner.refine(image, mask, roi=roi, progress=progress)


def refine_labels(
    image: Image,
    labels: NDArray[Any],
    *,
    model: str | Path = DEFAULT_MODEL,
    way: Way = "one-pass",
    ignore_index: int = 255,
    device: str = "auto",
) -> NDArray[Any]:
    """Refine a label map of many classes with a refiner that knows none of them.

    Args:
        image: (H, W, 3) RGB, uint8 or uint16, any size.
        labels: (H, W) uint8 or uint16.
        model: a name or a weights file, see ``load_refiner``.
        way: "one-pass": all objects together, or "divide-and-conquer": one after the other, as
            CascadePSP does.
        ignore_index: label of pixels without a class; they keep it.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Returns:
        (H, W) labels of the same dtype; each was in the map that came in.

    Raises:
        InputError: shapes or dtypes that cannot be used, and all of ``load_refiner``.
    """
    refiner = _cached_refiner(model, device=device)
    return refiner.refine_labels(image, labels, way=way, ignore_index=ignore_index)


def read_inputs(
    image: str | Path, mask: str | Path, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[Image, Mask]:
    """Read a photo and its mask, which must have the same size.

    The photo's EXIF orientation is applied. The mask's is not: masks come from programs, which
    write them the way the turned photo is seen.

    Raises:
        InputError: files that cannot be read, or sizes that differ.
    """
    pixels = read_image(image, max_pixels=max_pixels)
    given = read_mask(mask, max_pixels=max_pixels)
    height, width = pixels.shape[:2]
    if given.shape != (height, width):
        turned = "; its sides are exchanged, as the photo's are where it has an EXIF orientation"
        raise InputError(
            f"{mask} is {given.shape[1]}x{given.shape[0]} but {image} is {width}x{height} "
            f"(width x height){turned if given.shape == (width, height) else ''}"
        )
    return pixels, given


def refine_file(
    image: str | Path,
    mask: str | Path,
    output: str | Path,
    *,
    refiner: CascadeRefiner | None = None,
    binary: bool = False,
    roi: Box | None = None,
    region: str | Path | None = None,
    polygons: str | Path | None = None,
    tolerance_px: float = 0.5,
    memory: str | int | None = None,
    restart: bool = False,
    progress: Progress | None = None,
    max_pixels: int | None = None,
) -> Summary:
    """Refine a mask from file to file, at any size; ``output`` appears whole or not at all.

    Photos that fit into memory are refined there. Larger ones, rasters with a grid, Zarr and whole
    slides are streamed (``crispseg.large``): in bounded memory, resumable by the same call, with
    the same bits. Any of region, polygons, memory and restart asks for that.

    Args:
        image: a photo, whose EXIF orientation is applied, or anything ``io.sources`` opens.
        mask: of the same size as the photo after that; EXIF orientation is not applied. Streamed
            images may have a smaller one with the same proportions.
        output: 8-bit grey, 0..255 = probability (see ``crispseg.io.write_mask``).
        refiner: from ``load_refiner``; the bundled model if None.
        binary: write 0 and 255 only.
        roi: only this part may change.
        region: GeoJSON polygons; outside nothing is run, and the result is nodata, or 0.
        polygons: GeoJSON file to write the result's outlines to.
        tolerance_px: how far the mask's corners may be from those.
        memory: most that the process may take, in bytes or as "2G".
        restart: throw away what an interrupted run has left.
        progress: called with (network runs done, network runs in all).
        max_pixels: refuse larger images before they are decoded; None: any size is streamed.

    Raises:
        InputError: files that cannot be read or written, sizes that differ, a budget that is too
            small, an interrupted run of something else.
    """
    job = Job(
        *(Path(image), Path(mask), Path(output)),
        binary=binary,
        roi=roi,
        region=None if region is None else Path(region),
        polygons=None if polygons is None else Path(polygons),
        tolerance_px=tolerance_px,
        memory=parse_bytes(memory) if isinstance(memory, str) else memory,
        restart=restart,
    )
    refiner = refiner or _cached_refiner(DEFAULT_MODEL)
    if is_large(job, max_pixels=max_pixels):
        return refine_large(job, refiner, progress)
    check_output(output)
    pixels, given = read_inputs(image, mask, max_pixels=max_pixels or DEFAULT_MAX_PIXELS)
    result = refiner.run(pixels, given, roi=roi, progress=progress)
    write_mask(output, result.mask, binary=binary)
    return summary_of(given, result)


_cached_segmenter = lru_cache(maxsize=2)(load_segmenter)


def segment(
    image: Image,
    *,
    model: str | Path = DEFAULT_SEGMENTER,
    tile_size: int | None = None,
    overlap_px: int | None = None,
    scales: tuple[float, ...] | None = None,
    flip: bool | None = None,
    device: str = "auto",
    batch_size: int = 1,
    progress: Progress | None = None,
) -> Labels:
    """The class of every pixel of an image.

    The segmenter is kept for the next call with the same options.

    Args:
        image: (H, W, 3) RGB, uint8 or uint16, any size.
        model: a name or a file, see ``load_segmenter``.
        tile_size: see ``load_segmenter``, as are overlap_px, scales, flip, device, batch_size.
        overlap_px: how much tiles share.
        scales: sizes relative to the image's own, to average over.
        flip: average with the mirror image.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        batch_size: most tiles in one network call.
        progress: called with (network runs done, network runs in all).

    Returns:
        (H, W) uint8 class numbers, uint16 with more than 255 classes.

    Raises:
        InputError: an image that cannot be used, and all of ``load_segmenter``.
    """
    segmenter = _cached_segmenter(
        model,
        tile_size=tile_size,
        overlap_px=overlap_px,
        scales=scales and tuple(scales),
        flip=flip,
        device=device,
        batch_size=batch_size,
    )
    return segmenter.segment(image, progress=progress)


def segment_file(
    image: str | Path,
    output: str | Path,
    *,
    segmenter: NetworkSegmenter | None = None,
    probabilities: str | Path | None = None,
    overlay: str | Path | None = None,
    restart: bool = False,
    progress: Progress | None = None,
    max_pixels: int | None = None,
) -> LabelSummary:
    """Segment from file to file, at any size; every output appears whole or not at all.

    Photos that fit into memory are segmented there. Larger ones, rasters with a grid, Zarr and
    whole slides are streamed (``crispseg.large_labels``), resumable by the same call.

    Args:
        image: a photo, whose EXIF orientation is applied, or anything ``io.sources`` opens.
        output: class numbers as 8- or 16-bit image or .npy (see ``crispseg.io.write_labels``).
        segmenter: from ``load_segmenter``; the default model if None.
        probabilities: .npy of (classes, H, W) float32, filled as tiles are done; in memory only.
        overlay: picture of the photo in the colours of its classes, with their names; in memory
            only.
        restart: throw away what an interrupted run has left.
        progress: called with (network runs done, network runs in all).
        max_pixels: refuse larger images before they are decoded; None: any size is streamed.

    Raises:
        InputError: files that cannot be read or written.
    """
    image, output = Path(image), Path(output)
    segmenter = segmenter or _cached_segmenter(DEFAULT_SEGMENTER)
    in_memory = not image.exists() or probabilities or overlay
    if not in_memory and is_large_photo(image, output, restart=restart, max_pixels=max_pixels):
        return segment_large(image, output, segmenter, restart=restart, progress=progress)
    check_output(output, LABEL_SUFFIXES)
    _check_extras(probabilities, overlay)
    pixels = read_image(image, max_pixels=max_pixels or DEFAULT_MAX_PIXELS)
    size = pixels.shape[:2]
    labels = np.zeros(size, label_dtype(segmenter.num_classes))
    with ExitStack() as stack:
        kept: NDArray[np.float32] | None = None
        if probabilities:
            shape = (segmenter.num_classes, *size)
            kept = stack.enter_context(array_file(probabilities, shape, np.float32))

        def write(box: Box, values: Values) -> None:
            write_labels_to(labels, box, values)
            if kept is not None:
                write_values_to(kept, box, values)

        if kept is None:  # may need no probabilities at all
            labels = segmenter.segment(pixels, progress=progress)
        else:
            segmenter.run(pixels, write, progress=progress)
        picture = None
        if overlay:  # drawn before anything is written, in case it fails
            picture = render_overlay(pixels, labels, segmenter.class_names, segmenter.colours)
        write_labels(output, labels, segmenter.colours)
    if overlay and picture is not None:
        write_image(overlay, picture)
    return summary_of_labels(labels, segmenter.num_classes)


def _check_extras(probabilities: str | Path | None, overlay: str | Path | None) -> None:
    if probabilities:
        check_output(probabilities, (".npy",))
    if overlay:
        check_output(overlay, IMAGE_SUFFIXES)
