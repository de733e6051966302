"""``crispseg refine``: parse, check, call the pipeline, print."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from crispseg.cli.options import (
    DEFAULT_MEGAPIXELS,
    AsJson,
    BatchSize,
    Device,
    Fast,
    Guard,
    MaxMegapixels,
    Mode,
    ModeOption,
    Quiet,
    TileSize,
    check_different,
    check_outputs,
    parse_limit,
    progress_bar,
)
from crispseg.io import IMAGE_SUFFIXES, MASK_SUFFIXES, write_image, write_mask
from crispseg.types import Box, InputError

if TYPE_CHECKING:
    from crispseg.refiners.base import Refinement
    from crispseg.types import Image, Mask


def refine(
    image: Annotated[Path, typer.Argument(help="Photo; its EXIF orientation is applied.")],
    mask: Annotated[
        Path, typer.Argument(help="Rough mask of the same size; EXIF orientation is not applied.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="8-bit grey result, 0..255 = probability."),
    ],
    model: Annotated[
        str, typer.Option(help="Name (see `crispseg models`) or weights file.")
    ] = "cascadepsp-lite",
    fast: Fast = False,
    tile_size: TileSize = 900,
    mode: ModeOption = Mode.default,
    binary: Annotated[bool, typer.Option("--binary", help="Write only 0 and 255.")] = False,
    device: Device = "auto",
    roi: Annotated[
        str | None,
        typer.Option(help="Y0,X0,Y1,X1 in pixels, half-open: only this part may change."),
    ] = None,
    batch_size: BatchSize = 1,
    guard: Guard = True,
    calibrated: Annotated[
        bool, typer.Option(help="Probabilities that are right as often as they say.")
    ] = True,
    confidence: Annotated[
        Path | None,
        typer.Option(help="Also write how sure each pixel is: 128 a toss-up, 255 certain."),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Picture of mask before, after and what changed.")
    ] = None,
    max_megapixels: MaxMegapixels = DEFAULT_MEGAPIXELS,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Refine the mask of one object in a photo."""
    outputs = {"--output": output, "--confidence": confidence}
    check_outputs(outputs, MASK_SUFFIXES)
    check_outputs({"--preview": preview}, IMAGE_SUFFIXES)
    check_different(outputs | {"--preview": preview}, (image, mask))
    box = _parse_roi(roi)
    max_pixels = parse_limit(max_megapixels)

    from crispseg.pipeline import load_refiner, read_inputs  # noqa: PLC0415

    pixels, given = read_inputs(image, mask, max_pixels=max_pixels)
    refiner = load_refiner(
        model,
        tile_size=tile_size,
        mode=mode.value,
        fast=fast,
        device=device,
        batch_size=batch_size,
        calibrated=calibrated,
        guard=guard,
    )
    start = time.perf_counter()
    with progress_bar("refining", hidden=quiet) as progress:
        result = refiner.run(pixels, given, roi=box, progress=progress)
    seconds = time.perf_counter() - start
    _write(pixels, given, result, Outputs(output, confidence, preview), binary=binary)
    report = describe(given, result) | {"output": str(output), "model": model, "mode": mode.value}
    report |= {"device": str(refiner.device), "seconds": round(seconds, 2)}
    if as_json:
        typer.echo(json.dumps(report))
    elif not quiet:
        typer.echo(_sentence(report))


class Outputs(NamedTuple):
    """Files to write."""

    mask: Path
    confidence: Path | None
    preview: Path | None


def _write(
    pixels: Image, given: Mask, result: Refinement, outputs: Outputs, *, binary: bool
) -> None:
    sheet = None
    if outputs.preview:  # drawn before anything is written, in case it fails
        from crispseg.preview import render_preview  # noqa: PLC0415

        sheet = render_preview(pixels, given, result.mask)
    write_mask(outputs.mask, result.mask, binary=binary)
    if outputs.confidence:
        from crispseg.refiners.guard import confidence  # noqa: PLC0415

        write_mask(outputs.confidence, confidence(result.mask))
    if outputs.preview and sheet is not None:
        write_image(outputs.preview, sheet)


def _sentence(report: Mapping[str, Any]) -> str:
    planned = report["tiles_planned"]  # none with --fast, or where nothing had to be done
    tiles = f"{report['tiles_run']} of {planned} tiles run, " if planned else ""
    places = report["kept_places"]
    kept = f"; {places} changes not trusted and undone" if places else ""
    return (
        f"{report['output']}: {report['changed_pixels']:,} of "
        f"{report['height'] * report['width']:,} pixels changed "
        f"({100 * report['changed_fraction']:.2f} %), "
        f"{tiles}{report['seconds']:.1f} s on {report['device']}{kept}"
    )


def describe(given: Mask, result: Refinement) -> dict[str, float | int | str]:
    """What changed and what it took."""
    before, after = given > 0.5, result.mask > 0.5
    changed = int((before != after).sum())
    return {
        "height": given.shape[0],
        "width": given.shape[1],
        "changed_pixels": changed,
        "changed_fraction": changed / given.size,
        "foreground_before": float(before.mean()),
        "foreground_after": float(after.mean()),
        "tiles_run": len(result.tiles_run),
        "tiles_planned": result.tiles_planned,
        "network_runs": result.network_runs,
        "kept_places": len(result.kept),
        "kept_pixels": sum(place.pixels for place in result.kept),
    }


def _parse_roi(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        y0, x0, y1, x1 = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--roi must be Y0,X0,Y1,X1, four integers, not {text!r}") from None
    return Box(y0, x0, y1, x1)
