"""From files or arrays to a refined mask: read this page first.

image and mask -> checks -> refiner (plan tiles, run the network on each, merge) -> file
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from crispseg.io import DEFAULT_MAX_PIXELS, check_output, read_image, read_mask, write_mask
from crispseg.models.weights import load_model
from crispseg.refiners.base import Progress, Refinement
from crispseg.refiners.cascade import CascadeRefiner, Mode
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
    calibrated: bool = True,
    guard: bool = True,
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
        calibrated: probabilities that are right as often as they say, where the weights know how.
        guard: keep the given mask where a change is not to be trusted.

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
        calibrated=calibrated,
        guard=guard,
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
    )
    return refiner.refine(image, mask, roi=roi, progress=progress)


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
        turned = "; it would fit the photo before its EXIF orientation was applied"
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
    progress: Progress | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Refinement:
    """Refine a mask from file to file; ``output`` appears whole or not at all.

    Args:
        image: a photo; its EXIF orientation is applied.
        mask: of the same size as the photo after that; EXIF orientation is not applied.
        output: 8-bit grey, 0..255 = probability (see ``crispseg.io.write_mask``).
        refiner: from ``load_refiner``; the bundled model if None.
        binary: write 0 and 255 only.
        roi: only this part may change.
        progress: called with (network runs done, network runs in all).
        max_pixels: larger images are refused before they are decoded.

    Raises:
        InputError: files that cannot be read or written, sizes that differ.
    """
    check_output(output)
    pixels, given = read_inputs(image, mask, max_pixels=max_pixels)
    refiner = refiner or _cached_refiner(DEFAULT_MODEL)
    result = refiner.run(pixels, given, roi=roi, progress=progress)
    write_mask(output, result.mask, binary=binary)
    return result
