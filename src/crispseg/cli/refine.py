"""``crispseg refine``: parse, check, call the pipeline, print."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from crispseg.cli.folders import Told, is_folder, refine_folder
from crispseg.cli.options import (
    AnySize,
    AsJson,
    BatchSize,
    Device,
    Fast,
    Guard,
    Mode,
    ModeOption,
    PrecisionOption,
    Quiet,
    Restart,
    Stop,
    TileSize,
    Workers,
    check_different,
    check_outputs,
    parse_limit,
    progress_bar,
    refuse,
)
from crispseg.cli.refine_method import (
    WITHOUT_NETWORK,
    IgnoreIndex,
    LabelsOption,
    Method,
    MethodJob,
    MethodOption,
    RefinementOption,
    SegmenterOption,
    Weights,
    refine_by_method,
)
from crispseg.io import (
    DEFAULT_MAX_PIXELS,
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    write_image,
    write_mask,
)
from crispseg.io.sinks import check_sink
from crispseg.tiling.grid import LEAST_SIDE_PX
from crispseg.types import Box, InputError

if TYPE_CHECKING:
    from crispseg.large import Job, Summary
    from crispseg.refiners.base import Refinement
    from crispseg.types import Image, Mask


ONE_IMAGE_ONLY = ("roi", "region", "polygons", "memory", "preview", "confidence")
CASCADE_ONLY = (
    *(*ONE_IMAGE_ONLY, "fast", "mode", "tile_size", "batch_size", "workers", "precision"),
    *("binary", "guard", "calibrated", "tolerance", "restart", "stop"),
)

Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="8-bit grey result, 0..255 = probability; or a folder."),
]
Roi = Annotated[
    str | None,
    typer.Option(help="Y0,X0,Y1,X1 in pixels, half-open: only this part may change."),
]
Calibrated = Annotated[
    bool, typer.Option(help="Probabilities that are right as often as they say.")
]
Confidence = Annotated[
    Path | None,
    typer.Option(help="Also write how sure each pixel is: 128 a toss-up, 255 certain."),
]
Preview = Annotated[
    Path | None, typer.Option(help="Picture of mask before, after and what changed.")
]
Memory = Annotated[
    str | None, typer.Option(help="Most the process may take, as in 2G; streams the image.")
]
Region = Annotated[
    Path | None, typer.Option(help="GeoJSON polygons: nothing outside is run or written.")
]
Polygons = Annotated[Path | None, typer.Option(help="Also write the result's outlines as GeoJSON.")]
Tolerance = Annotated[
    float, typer.Option(help="How many pixels outlines may be off the mask's corners.")
]


def refine(
    context: typer.Context,
    image: Annotated[
        Path, typer.Argument(help="Photo, its EXIF orientation is applied; or a folder of photos.")
    ],
    mask: Annotated[
        Path,
        typer.Argument(
            help="Rough mask, of the same size or smaller; EXIF is not applied. Or a folder of "
            "masks, named as the photos."
        ),
    ],
    output: Output,
    model: Annotated[
        str, typer.Option(help="Name (see `crispseg models`) or weights file.")
    ] = "cascadepsp-lite",
    fast: Fast = False,
    tile_size: TileSize = 900,
    mode: ModeOption = Mode.default,
    binary: Annotated[bool, typer.Option("--binary", help="Write only 0 and 255.")] = False,
    device: Device = "auto",
    roi: Roi = None,
    batch_size: BatchSize = 1,
    workers: Workers = 1,
    guard: Guard = True,
    calibrated: Calibrated = True,
    precision: PrecisionOption = None,
    confidence: Confidence = None,
    preview: Preview = None,
    max_megapixels: AnySize = None,
    memory: Memory = None,
    restart: Restart = False,
    region: Region = None,
    polygons: Polygons = None,
    tolerance: Tolerance = 0.5,
    stop: Stop = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    labels: LabelsOption = False,
    method: MethodOption = Method.cascade,
    ignore_index: IgnoreIndex = 255,
    segmenter: SegmenterOption = None,
    refinement: RefinementOption = None,
) -> None:
    """Refine masks of objects, or a label map: a photo, raster, slide of any size; a folder."""
    from crispseg.large import Job  # noqa: PLC0415
    from crispseg.runtime.memory import parse_bytes  # noqa: PLC0415

    limit = None if max_megapixels is None else parse_limit(max_megapixels)
    _check_options(context, method, labels=labels)
    if labels or method is not Method.cascade:
        by = MethodJob(image, mask, output, labels, method.value, limit or DEFAULT_MAX_PIXELS)
        weights = Weights(model, segmenter, refinement, device)
        refine_by_method(by, weights, ignore_index, quiet=quiet, as_json=as_json)
        return
    job = Job(image, mask, output, binary, _parse_roi(roi), region, polygons, tolerance)
    job = replace(job, memory=None if memory is None else parse_bytes(memory), restart=restart)
    options: dict[str, Any] = {"tile_size": tile_size, "mode": mode.value, "fast": fast}
    options |= {"device": device, "batch_size": batch_size, "workers": workers}
    options |= {"calibrated": calibrated, "guard": guard, "precision": precision}
    if is_folder(image):
        refuse(context, ONE_IMAGE_ONLY, "one image")
        refine_folder(job, model, options, limit, Told(stop, quiet, as_json))
        return
    refuse(context, ("stop",), "a folder")
    report = _refine_one(job, Outputs(output, confidence, preview), model, options, limit, quiet)
    if as_json:
        typer.echo(json.dumps(report))
    elif not quiet:
        typer.echo(_sentence(report))


def _check_options(context: typer.Context, method: Method, *, labels: bool) -> None:
    """Options of other methods, and of other inputs, but for folders and single images."""
    by_method = labels or method is not Method.cascade
    if by_method and is_folder(context.params["image"]):
        raise InputError("--labels and --method take one image at a time, not a folder")
    if not method.value.startswith("magnet"):
        refuse(context, ("segmenter", "refinement"), "method magnet")
    if method not in (Method.cascade, Method.divide):
        refuse(context, ("model",), "methods cascade and divide")
    if method in WITHOUT_NETWORK:
        refuse(context, ("device",), "methods with a network")
    if not labels:
        refuse(context, ("ignore_index",), "label maps; say --labels")
    if by_method:
        refuse(context, CASCADE_ONLY, "one object's mask and method cascade")
    if context.params["polygons"] is None:
        refuse(context, ("tolerance",), "--polygons")


def _refine_one(
    job: Job,
    outputs: Outputs,
    model: str,
    options: Mapping[str, Any],
    limit: int | None,
    quiet: bool,
) -> dict[str, Any]:
    from crispseg.large import is_large  # noqa: PLC0415

    large = job.image.exists() and is_large(job, max_pixels=limit)
    _check(outputs, job.polygons, (job.image, job.mask), large=large)
    if large:
        report = _streamed(job, model, options, quiet)
    else:
        report = _in_memory(job, outputs, model, options, limit or DEFAULT_MAX_PIXELS, quiet)
    return report | {"output": str(job.output), "model": model, "mode": options["mode"]}


def _in_memory(
    job: Job,
    outputs: Outputs,
    model: str,
    options: Mapping[str, Any],
    max_pixels: int,
    quiet: bool,
) -> dict[str, Any]:
    from crispseg.pipeline import load_refiner, read_inputs  # noqa: PLC0415

    pixels, given = read_inputs(job.image, job.mask, max_pixels=max_pixels)
    refiner = load_refiner(model, **options)
    start = time.perf_counter()
    with progress_bar("refining", hidden=quiet) as progress:
        result = refiner.run(pixels, given, roi=job.roi, progress=progress)
    seconds = time.perf_counter() - start
    _write(pixels, given, result, outputs, binary=job.binary)
    return describe(given, result) | {
        "device": str(refiner.device),
        "seconds": round(seconds, 2),
    }


def _streamed(job: Job, model: str, options: Mapping[str, Any], quiet: bool) -> dict[str, Any]:
    from crispseg.io.journal import run_folder  # noqa: PLC0415
    from crispseg.large import refine_large  # noqa: PLC0415
    from crispseg.pipeline import load_refiner  # noqa: PLC0415

    refiner = load_refiner(model, **options)
    start = time.perf_counter()
    try:
        with progress_bar("refining", hidden=quiet) as progress:
            summary = refine_large(job, refiner, progress)
    except (KeyboardInterrupt, SystemExit):
        if run_folder(job.output).exists():
            text = f"what is done is kept in {run_folder(job.output)}; the same command goes on"
            typer.echo(text, err=True)
        raise
    seconds = time.perf_counter() - start
    return _account(summary) | {"device": str(refiner.device), "seconds": round(seconds, 2)}


def _check(
    outputs: Outputs, polygons: Path | None, inputs: tuple[Path, Path], *, large: bool
) -> None:
    named = {"--output": outputs.mask, "--confidence": outputs.confidence}
    if large:
        check_sink(outputs.mask)
        if outputs.confidence or outputs.preview:
            raise InputError("--confidence and --preview are for images that are refined in memory")
    else:
        check_outputs(named, MASK_SUFFIXES)
        check_outputs({"--preview": outputs.preview}, IMAGE_SUFFIXES)
    check_outputs({"--polygons": polygons}, (".geojson", ".json"))
    check_different(named | {"--preview": outputs.preview, "--polygons": polygons}, inputs)


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
    empty = "; the mask has no pixel above one half" if not report["foreground_before"] else ""
    narrow = report["mode"] == "default" and min(report["height"], report["width"]) < LEAST_SIDE_PX
    small = f"; refining takes {LEAST_SIDE_PX} pixels on each side" if narrow else ""
    return (
        f"{report['output']}: {report['changed_pixels']:,} of "
        f"{report['height'] * report['width']:,} pixels changed "
        f"({100 * report['changed_fraction']:.2f} %), "
        f"{tiles}{report['seconds']:.1f} s on {report['device']}{kept}{empty}{small}"
    )


def describe(given: Mask, result: Refinement) -> dict[str, Any]:
    """What changed and what it took."""
    from crispseg.large import summary_of  # noqa: PLC0415

    return _account(summary_of(given, result))


def _account(summary: Summary) -> dict[str, Any]:
    pixels = summary.size.height * summary.size.width
    return {
        "height": summary.size.height,
        "width": summary.size.width,
        "changed_pixels": summary.changed_pixels,
        "changed_fraction": summary.changed_pixels / pixels,
        "foreground_before": summary.foreground_before / pixels,
        "foreground_after": summary.foreground_after / pixels,
        "tiles_run": summary.tiles_run,
        "tiles_planned": summary.tiles_planned,
        "network_runs": summary.network_runs,
        "kept_places": len(summary.kept),
        "kept_pixels": sum(place.pixels for place in summary.kept),
    }


def _parse_roi(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        y0, x0, y1, x1 = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--roi must be Y0,X0,Y1,X1, four integers, not {text!r}") from None
    return Box(y0, x0, y1, x1)
