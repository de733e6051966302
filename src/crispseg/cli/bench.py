"""``crispseg bench``: how long will my photos take on this machine?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from crispseg.cli.demo import ASSETS
from crispseg.cli.options import Device
from crispseg.io import check_output
from crispseg.io.atomic import atomic_path
from crispseg.types import InputError

LONG_SIDE, TILE_SIZE = 1200, 900
"""Of the picture that is measured: a global step and two local tiles; 512 px would be one tile."""
SECONDS, ROUNDS, CEILING_SECONDS = 40.0, 3, 2.0
QUICK = 2
"""By what ``--quick`` divides the sides of picture and tiles."""


def bench(
    model: Annotated[
        str, typer.Option(help="Name (see `crispseg models`) or weights file.")
    ] = "cascadepsp-lite",
    device: Device = "auto",
    image: Annotated[
        Path | None, typer.Option(help="Measure this photo, as it is; with --mask.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="The photo's rough mask.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smaller picture, once: rougher figures.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--json", help="Also write all figures to this file.")
    ] = None,
) -> None:
    """Measure this machine for a minute, and say what photos of 12 and 48 megapixels will take."""
    if (image is None) != (mask is None):
        raise InputError("--image and --mask belong together")
    if output:
        check_output(output, (".json",))

    from crispseg.bench import bench as run  # noqa: PLC0415
    from crispseg.bench import ceilings, machine  # noqa: PLC0415
    from crispseg.pipeline import load_refiner  # noqa: PLC0415

    smaller = QUICK if quick and image is None else 1
    refiner = load_refiner(model, device=device, tile_size=TILE_SIZE // smaller)
    report: dict[str, Any] = {"machine": machine(str(refiner.device)), "model": model}
    _print_machine(report)
    report["ceilings_gflops"] = ceilings(refiner.device, CEILING_SECONDS / smaller)
    _print_ceilings(report)
    report |= run(
        refiner,
        image or ASSETS / "photo.jpg",
        mask or ASSETS / "rough.png",
        tile_size=TILE_SIZE,
        long_side=None if image else LONG_SIDE // smaller,
        seconds=SECONDS,
        rounds=1 if quick else ROUNDS,
    )
    _print_figures(report)
    if output:
        with atomic_path(output) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _print_machine(report: dict[str, Any]) -> None:
    about = report["machine"]
    typer.echo(
        f"machine    {about['processor']} ({about['instructions']}), {about['threads']} of "
        f"{about['cores']} cores, torch {about['torch']}\n"
        f"model      {report['model']} on {about['device']}"
    )


def _print_ceilings(report: dict[str, Any]) -> None:
    speeds = ", ".join(f"{k} {v:.0f}" for k, v in report["ceilings_gflops"].items())
    typer.echo(f"ceiling    {speeds} GFLOP/s (3x3 convolution)")


def _print_figures(report: dict[str, Any]) -> None:
    picture, seconds = report["picture"], report["seconds"]
    typer.echo(
        f"measured   {picture['width']}x{picture['height']}, {picture['tiles_run']} local tiles: "
        f"{seconds['all']:.2f} s from file to file\n"
        f"           {report['seconds_per_megapixel']:.2f} s a megapixel, "
        f"{report['seconds_per_tile']:.2f} s a tile of {TILE_SIZE} px, "
        f"{report['seconds_per_1000px_of_boundary']:.2f} s for 1000 px of edge"
    )
    for name, share in report["shares"].items():
        typer.echo(f"  {name:<13}{100 * share:5.1f} %  {seconds[name]:.3f} s")
    for photo in report["expected"]:
        typer.echo(
            f"expected   {photo['megapixels']} megapixels: about {photo['seconds']:.0f} s "
            f"({photo['tiles']} tiles for an object like this one)"
        )
    typer.echo(f"memory     {report['peak_mib']} MiB at most, the whole process")
