"""``crispseg demo``: the main job on a real photo that is part of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from crispseg.io import IMAGE_SUFFIXES, check_output, write_image, write_mask
from crispseg.types import InputError

ASSETS = Path(__file__).parent / "assets"


def demo(
    output_dir: Annotated[
        Path, typer.Option(help="Folder for the results; made if missing.")
    ] = Path("demo-out"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Refine the rough mask of a real photo with the bundled model, and draw what changed."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {output_dir}: {error.strerror}") from None
    refined, preview, cutout = (output_dir / f"{n}.png" for n in ("refined", "preview", "cutout"))
    for path in (refined, preview, cutout):
        check_output(path, IMAGE_SUFFIXES)

    from crispseg.cli.options import progress_bar  # noqa: PLC0415
    from crispseg.cli.refine import describe  # noqa: PLC0415
    from crispseg.pipeline import load_refiner, read_inputs  # noqa: PLC0415
    from crispseg.preview import render_preview  # noqa: PLC0415

    pixels, given = read_inputs(ASSETS / "photo.jpg", ASSETS / "rough.png")
    refiner = load_refiner()
    with progress_bar("refining", hidden=quiet) as progress:
        result = refiner.run(pixels, given, progress=progress)
    write_mask(refined, result.mask)
    write_image(preview, render_preview(pixels, given, result.mask))
    opacity = result.mask[:, :, None]
    write_image(cutout, np.rint(pixels * opacity + 255 * (1 - opacity)).astype(np.uint8))
    if quiet:
        return
    report = describe(given, result)
    typer.echo(
        f"refined a rough mask of a {report['width']}x{report['height']} photo: "
        f"{report['changed_pixels']:,} pixels changed"
    )
    typer.echo(f"the mask    {refined}\nthe object  {cutout}\nlook here   {preview}")
