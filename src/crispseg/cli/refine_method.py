"""``crispseg refine`` for label maps, and with methods other than the cascade."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from crispseg.cli.options import check_different
from crispseg.io import (
    LABEL_SUFFIXES,
    check_output,
    read_image,
    read_mask,
    write_labels,
    write_mask,
)
from crispseg.io.labels import read_coloured_labels
from crispseg.types import Image, InputError


class Method(StrEnum):
    """Choices of ``--method``."""

    cascade = "cascade"
    divide = "divide"
    magnet = "magnet"
    magnet_fast = "magnet-fast"
    densecrf = "densecrf"
    guided = "guided"
    offset = "offset"


WITHOUT_NETWORK = (Method.densecrf, Method.guided, Method.offset)
MethodOption = Annotated[
    Method,
    typer.Option(
        help="cascade: all objects in one pass; divide: CascadePSP's way for label maps, one after "
        "the other; magnet; magnet-fast: the three most uncertain tiles of each stage; densecrf, "
        "guided, offset: see the documentation."
    ),
]


LabelsOption = Annotated[
    bool, typer.Option("--labels", help="MASK is a label map: class numbers, not one object.")
]
IgnoreIndex = Annotated[
    int, typer.Option(min=0, max=65535, help="Label of pixels without a class; they keep it.")
]
SegmenterOption = Annotated[
    str | None,
    typer.Option(
        help="For magnet: the network it was trained on, name or file; else lwrefinenet-camvid."
    ),
]
RefinementOption = Annotated[
    Path | None,
    typer.Option(help="For magnet: weights of its refinement module; else the one that ships."),
]


class MethodJob(NamedTuple):
    """What to refine, how, and where to write it."""

    image: Path
    given: Path
    output: Path
    labels: bool
    method: str
    max_pixels: int


class Weights(NamedTuple):
    """Names or files of weights, and where they run."""

    model: str
    segmenter: str | None
    refinement: Path | None
    device: str


def refine_by_method(
    job: MethodJob, weights: Weights, ignore_index: int, *, quiet: bool, as_json: bool
) -> None:
    """Read, refine, write, report."""
    if job.labels:
        check_output(job.output, LABEL_SUFFIXES)
    else:
        check_output(job.output)
    check_different({"--output": job.output}, (job.image, job.given))
    from crispseg.methods import CLASSICAL, load_label_refiner  # noqa: PLC0415

    if not job.labels and job.method not in CLASSICAL:
        raise InputError(f"method {job.method} refines label maps; say --labels")
    pixels = read_image(job.image, max_pixels=job.max_pixels)
    begun = time.perf_counter()
    if job.labels:
        given, colours = read_coloured_labels(job.given, max_pixels=job.max_pixels)
        refiner = load_label_refiner(
            job.method,
            model=weights.model,
            segmenter=weights.segmenter,
            refinement=weights.refinement,
            device=weights.device,
        )
        found = refiner.refine_labels(pixels, given, ignore_index=ignore_index)
        write_labels(job.output, found, colours)
        changed = found != given
    else:
        changed = _refine_mask(job, pixels)
    seconds = time.perf_counter() - begun
    report: dict[str, Any] = {
        "output": str(job.output),
        "method": job.method,
        "height": changed.shape[0],
        "width": changed.shape[1],
        "changed_pixels": int(changed.sum()),
        "changed_fraction": float(changed.mean()),
        "seconds": round(seconds, 2),
    }
    if as_json:
        typer.echo(json.dumps(report))
    elif not quiet:
        typer.echo(
            f"{job.output}: {report['changed_pixels']:,} of {changed.size:,} pixels changed "
            f"({100 * report['changed_fraction']:.2f} %), {seconds:.1f} s"
        )


def _refine_mask(job: MethodJob, pixels: Image) -> NDArray[np.bool_]:
    from crispseg.methods import CLASSICAL  # noqa: PLC0415

    mask = read_mask(job.given, max_pixels=job.max_pixels)
    found = CLASSICAL[job.method]().refine(pixels, mask)
    write_mask(job.output, found)
    return np.asarray((found > 0.5) != (mask > 0.5))
