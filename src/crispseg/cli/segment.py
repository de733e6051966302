"""``crispseg segment``: parse, check, call the pipeline, print."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crispseg.cli.folders import Told, is_folder, segment_folder
from crispseg.cli.options import (
    AnySize,
    AsJson,
    BatchSize,
    Device,
    PrecisionName,
    Quiet,
    Restart,
    Stop,
    check_different,
    check_outputs,
    parse_limit,
    progress_bar,
    refuse,
)
from crispseg.io import IMAGE_SUFFIXES, LABEL_SUFFIXES
from crispseg.models.zoo import DEFAULT_SEGMENTER
from crispseg.types import InputError

if TYPE_CHECKING:
    from crispseg.large_labels import LabelSummary
    from crispseg.segmenters.network import NetworkSegmenter


Scales = Annotated[
    str,
    typer.Option(
        help="Sizes to average over, such as 0.75,1,1.25, or a paper's: pspnet, deeplabv3, "
        "refinenet, cityscapes, cityscapes-test."
    ),
]
TileSize = Annotated[
    int | None,
    typer.Option(
        help="Side of the tiles in pixels; 0 for the whole image at once. Else 1024, or what an "
        "ONNX file asks for."
    ),
]


Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="Class numbers, 8 or 16 bit: .png (with palette), .tif, .npy; or a folder.",
    ),
]
Precision = Annotated[
    PrecisionName,
    typer.Option(
        help="Of PSPNet and DeepLabv3 on ResNet-50 and deeper. exact or fp32: float32; auto: the "
        "quickest here, as measured once; bf16, fp16; plain: the network as written."
    ),
]
Equal = Annotated[
    bool, typer.Option("--equal", help="Tiles count alike up to their borders (the papers).")
]
Overlay = Annotated[
    Path | None, typer.Option(help="Picture of the photo in its classes' colours, with names.")
]


def segment(
    context: typer.Context,
    image: Annotated[
        Path,
        typer.Argument(
            help="Photo, whose EXIF orientation is applied; raster; slide; or a folder of photos."
        ),
    ],
    output: Output,
    model: Annotated[
        str, typer.Option(help="Name (see `crispseg models`), weights file or ONNX file.")
    ] = DEFAULT_SEGMENTER,
    scales: Scales = "1",
    flip: Annotated[
        bool, typer.Option("--flip", help="Average with the mirror image; twice the time.")
    ] = False,
    output_stride: Annotated[
        int | None,
        typer.Option(help="Run DeepLabv3 at this output stride: 8 is finer than 16, and slower."),
    ] = None,
    tile_size: TileSize = None,
    overlap: Annotated[
        int | None, typer.Option(help="Pixels that tiles share; else a third of a tile.")
    ] = None,
    equal: Equal = False,
    probabilities: Annotated[
        Path | None,
        typer.Option(help="Also write all probabilities: .npy, (classes, height, width) float32."),
    ] = None,
    overlay: Overlay = None,
    device: Device = "auto",
    batch_size: BatchSize = 1,
    precision: Precision = PrecisionName.auto,
    max_megapixels: AnySize = None,
    stop: Stop = False,
    restart: Restart = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Give every pixel of a photo, raster or slide of any size a class; or of a folder's photos."""
    max_pixels = None if max_megapixels is None else parse_limit(max_megapixels)
    if not is_folder(image):
        _check_files(output, probabilities, overlay, (image, Path(model)))

    from crispseg.segmenters.load import load_segmenter  # noqa: PLC0415

    load = partial(
        load_segmenter,
        model,
        tile_size=tile_size,
        overlap_px=overlap,
        blend="equal" if equal else None,
        scales=parse_scales(scales),
        flip=flip or None,
        output_stride=output_stride,
        device=device,
        batch_size=batch_size,
        precision=precision.value,
    )
    if is_folder(image):
        refuse(context, ("probabilities", "overlay"), "one image")
        told = Told(stop, quiet, as_json)
        segment_folder(image, output, load, max_pixels, told, restart=restart)
        return
    refuse(context, ("stop",), "a folder")
    report = _segment_one(
        image,
        output,
        load(),
        probabilities=probabilities,
        overlay=overlay,
        restart=restart,
        max_pixels=max_pixels,
        hidden=quiet,
    )
    report |= {"model": model}
    if as_json:
        typer.echo(json.dumps(report))
    elif not quiet:
        typer.echo(_sentence(report))


def _segment_one(
    image: Path, output: Path, segmenter: NetworkSegmenter, *, hidden: bool, **options: Any
) -> dict[str, Any]:
    """``options`` are those of ``pipeline.segment_file``."""
    from crispseg.pipeline import segment_file  # noqa: PLC0415

    start = time.perf_counter()
    with progress_bar("segmenting", hidden=hidden) as progress:
        summary = segment_file(image, output, segmenter=segmenter, progress=progress, **options)
    report = describe(summary, segmenter.class_names)
    report |= {"output": str(output), "device": segmenter.network.device}
    return report | {"seconds": round(time.perf_counter() - start, 2)}


def _check_files(
    output: Path, probabilities: Path | None, overlay: Path | None, inputs: tuple[Path, Path]
) -> None:
    outputs = {"--output": output, "--probabilities": probabilities, "--overlay": overlay}
    suffixes = (*LABEL_SUFFIXES, ".zarr"), (".npy",), IMAGE_SUFFIXES
    for (option, path), allowed in zip(outputs.items(), suffixes, strict=True):
        check_outputs({option: path}, allowed)
    check_different(outputs, inputs)


def parse_scales(text: str) -> tuple[float, ...]:
    """--scales: numbers with commas between, or the name of a paper's set.

    Raises:
        InputError: neither.
    """
    from crispseg.segmenters.base import SCALE_SETS  # noqa: PLC0415

    if text in SCALE_SETS:
        return SCALE_SETS[text]
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        names = ", ".join(SCALE_SETS)
        raise InputError(
            f"--scales must be numbers such as 0.75,1,1.25, or one of {names}; not {text!r}"
        ) from None


def describe(summary: LabelSummary, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Size, number of classes, and the share of each class that is there, largest first."""
    counts = summary.pixels
    order = sorted((i for i in range(len(counts)) if counts[i]), key=lambda i: -counts[i])
    return {
        "height": summary.size.height,
        "width": summary.size.width,
        "num_classes": len(class_names),
        "classes": [{"id": i, "name": class_names[i], "pixels": counts[i]} for i in order],
    }


def _sentence(report: dict[str, Any]) -> str:
    total = report["height"] * report["width"]
    shares = [f"{c['name']} {100 * c['pixels'] / total:.1f} %" for c in report["classes"][:5]]
    more = len(report["classes"]) - len(shares)
    rest = f" and {more} more" if more else ""
    return (
        f"{report['output']}: {', '.join(shares)}{rest}; "
        f"{report['seconds']:.1f} s on {report['device']}"
    )
