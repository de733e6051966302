"""``crispseg refine`` and ``crispseg segment`` for folders: pair, go on, count, report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from crispseg.cli.folder_run import FolderRun
from crispseg.cli.options import progress_bar
from crispseg.evaluation.cases import Skip, match_files
from crispseg.io.journal import run_folder
from crispseg.types import InputError

if TYPE_CHECKING:
    from crispseg.batch import Progress
    from crispseg.large import Job

Named = tuple[str, InputError | None]
"""An image and why it failed, if it did."""
ZARR_FILES = (".zarray", ".zgroup", ".zattrs", "zarr.json")


class Told(NamedTuple):
    """How a folder's run goes about errors, and what it prints."""

    stop: bool
    quiet: bool
    as_json: bool


def is_folder(path: Path) -> bool:
    """Whether this is a folder of images, and not a Zarr store, which is a folder as well."""
    is_zarr = path.suffix.lower() == ".zarr" or any((path / n).exists() for n in ZARR_FILES)
    return path.is_dir() and not is_zarr


def refine_folder(
    job: Job,
    model: str,
    options: Mapping[str, Any],
    max_pixels: int | None,
    told: Told,
) -> None:
    """Refine the masks of a folder; ``job`` holds folders where one image has files.

    Raises:
        InputError: nothing belongs together, nowhere to write to; if told to stop, the first error
            of an image; at the end, if images have failed.
    """
    if not is_folder(job.mask):
        raise InputError(f"{job.image} is a folder, but {job.mask} is not; give a folder of masks")
    found, skips = match_files({"image": job.image, "coarse": job.mask})
    outputs = _outputs(job.output, (job.image, job.mask), found)
    places = {"folder of photos": job.image, "folder of masks": job.mask}
    settings = {"model": model, "binary": job.binary, **options}
    with FolderRun(
        job.output, list(outputs.values()), places, settings, restart=job.restart
    ) as whole:
        todo = [
            replace(job, image=files["image"], mask=files["coarse"], output=outputs[name])
            for name, files in found.items()
            if not whole.is_done(outputs[name], files.values())
        ]
        # Of one image, --restart throws away an interrupted run, and streams.
        jobs = [replace(j, restart=j.restart and run_folder(j.output).exists()) for j in todo]

        from crispseg.batch import refine_files  # noqa: PLC0415
        from crispseg.pipeline import load_refiner  # noqa: PLC0415

        def run(progress: Progress) -> Iterator[Named]:
            refiner = load_refiner(model, **options)
            whole.begin()
            for one in refine_files(jobs, refiner, max_pixels=max_pixels, progress=progress):
                yield one.item.output.stem, one.error

        _report("refined", run, len(jobs), len(found) - len(jobs), skips, told)


def segment_folder(
    images: Path,
    output: Path,
    load: partial[Any],
    max_pixels: int | None,
    told: Told,
    *,
    restart: bool,
) -> None:
    """Segment the images of a folder.

    Args:
        images: folder.
        output: folder, made if missing.
        load: gives the segmenter; its arguments are the model and options by their names.
        max_pixels: larger images are errors; None: any size is streamed.
        told: what to do with errors, and what to print.
        restart: make label maps that are there already as well.

    Raises:
        InputError: as ``refine_folder``.
    """
    found, skips = match_files({"image": images})
    outputs = _outputs(output, (images,), found)
    settings = {"model": load.args[0], **load.keywords}
    places = {"folder of photos": images}
    with FolderRun(output, list(outputs.values()), places, settings, restart=restart) as whole:
        jobs = [
            (files["image"], outputs[name])
            for name, files in found.items()
            if not whole.is_done(outputs[name], files.values())
        ]

        from crispseg.batch import segment_files  # noqa: PLC0415

        def run(progress: Progress) -> Iterator[Named]:
            segmenter = load()
            whole.begin()
            results = segment_files(
                jobs, segmenter, restart=restart, max_pixels=max_pixels, progress=progress
            )
            for one in results:
                yield one.item[1].stem, one.error

        _report("segmented", run, len(jobs), len(found) - len(jobs), skips, told)


def _outputs(
    folder: Path, inputs: tuple[Path, ...], found: Mapping[str, Mapping[str, Path]]
) -> dict[str, Path]:
    """Name -> file to write, in a folder that is made if missing; rasters keep their grid."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    for given in inputs:
        if folder.samefile(given):
            raise InputError(f"{folder} holds inputs; give the results another folder")
    return {name: folder / f"{name}{_suffix(files['image'])}" for name, files in found.items()}


def _suffix(image: Path) -> str:
    if image.suffix.lower() not in (".tif", ".tiff"):
        return ".png"

    from crispseg.io.sources import is_georeferenced  # noqa: PLC0415

    try:
        return ".tif" if is_georeferenced(image) else ".png"
    except InputError:
        return ".png"  # what reads it says what is wrong


def _report(
    verb: str,
    run: Callable[[Progress], Iterator[Named]],
    count: int,
    kept: int,
    skips: list[Skip],
    told: Told,
) -> None:
    start = time.perf_counter()
    failed: list[Skip] = []
    if count:
        with progress_bar(verb.replace("ed", "ing"), hidden=told.quiet) as progress:
            for name, error in run(progress):
                if error is not None:
                    if told.stop:
                        raise error
                    failed.append(Skip(name, str(error)))
    seconds = time.perf_counter() - start
    report = {
        "images": count - len(failed),
        "already_there": kept,
        "seconds": round(seconds, 2),
        "failed": [asdict(skip) for skip in failed],
        "skipped": [asdict(skip) for skip in skips],
    }
    for skip in (*skips, *failed):
        typer.echo(f"{skip.name}: {skip.reason}", err=True)
    if told.as_json:
        typer.echo(json.dumps(report))
    elif not told.quiet:
        each = f", {seconds / count:.2f} s each" if count else ""
        there = f"; {kept} were there (--restart makes them anew)" if kept else ""
        typer.echo(f"{report['images']} images {verb}{each}{there}")
    if failed:
        raise InputError(f"{len(failed)} of {count} images have failed, as said above")
