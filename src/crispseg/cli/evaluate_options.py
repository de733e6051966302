"""Options of ``crispseg evaluate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from crispseg.cli.refine_method import Method
from crispseg.evaluation.tables import LAYOUTS

WORST = 10


class Ids(StrEnum):
    """What numbers in predictions mean."""

    classes = "classes"
    dataset = "dataset"


Images = Annotated[
    Path | None,
    typer.Argument(help="Folder of photos; or results made before, a results.json or its folder."),
]
Coarse = Annotated[Path | None, typer.Argument(help="Folder of rough masks; IMAGES if left out.")]
Truth = Annotated[Path | None, typer.Argument(help="Folder of true masks; IMAGES if left out.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Name (see `crispseg models`) or weights file of the refiner, else cascadepsp-lite; "
        "with --dataset of the segmenter."
    ),
]
Refined = Annotated[
    Path | None,
    typer.Option(help="Measure the masks of this folder instead of refining with a model."),
]
DatasetName = Annotated[
    str | None, typer.Option(help="Measure label maps on a data set (see `crispseg datasets`).")
]
Root = Annotated[Path | None, typer.Option(help="Folder of the data set.")]
Split = Annotated[str, typer.Option(help="Split of the data set.")]
Labels = Annotated[
    Path | None,
    typer.Option(help="Measure label maps against those of this folder; needs --classes."),
]
Classes = Annotated[
    str | None, typer.Option(help="Number of classes, or a text file with a name a line.")
]
Predictions = Annotated[
    Path | None, typer.Option(help="Folder of label maps, named like the images.")
]
PredictionIds = Annotated[
    Ids | None,
    typer.Option(
        "--prediction-ids",
        help="What numbers in --predictions are: classes, from 0, if left out; or those in the "
        "data set's own files (ADE20K 1 to 150, Cityscapes' labelIds), which become classes.",
    ),
]
Refiner = Annotated[
    str | None,
    typer.Option(
        help="Refine the label maps of --model or --predictions, and measure before and after: "
        "name or weights file of CascadePSP's network, else cascadepsp-lite."
    ),
]
MethodOption = Annotated[
    Method | None,
    typer.Option(
        help="How to refine, as in `crispseg refine`; of masks: cascade, densecrf, guided, offset."
    ),
]
Scales = Annotated[
    str | None,
    typer.Option(help="Sizes that --model sees an image in, as in `crispseg segment`."),
]
Flip = Annotated[
    bool, typer.Option("--flip", help="--model sees the mirror image as well, and averages.")
]
OutputStride = Annotated[int | None, typer.Option(help="Run DeepLabv3 at this output stride.")]
TileSize = Annotated[
    int | None,
    typer.Option(
        help="Side of the tiles in pixels, of the segmenter where there is one (0: no tiles), else "
        "of the refiner. Else 1024, and 900."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder for results.json, tables and the masks or label maps that are made; "
        "the same command again goes on there.",
    ),
]
Sheet = Annotated[
    Path | None, typer.Option(help="Picture of the best, the median and the worst image.")
]
Page = Annotated[
    Path | None,
    typer.Option("--report", help="One HTML file: rows to sort, pictures, curves, bars."),
]
Pictures = Annotated[
    int, typer.Option(min=0, help="Most pictures in the report: those of the worst images.")
]
Against = Annotated[
    Path | None,
    typer.Option(
        help="Another results.json, or its folder: intervals, paired test of the difference."
    ),
]
Latex = Annotated[Path | None, typer.Option(help="LaTeX table of these results and --also.")]
Layout = Annotated[
    str | None, typer.Option(help=f"Of the LaTeX table: {', '.join(LAYOUTS)}; else by results.")
]
Also = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TITLE=FILE",
        help="Another results.json, or its folder, in the LaTeX table; repeat.",
    ),
]
Title = Annotated[str, typer.Option(help="What these results are called in table and report.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many images by name.")]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Leave out images without partners, of unequal size or unreadable; name them.",
    ),
]
AllRows = Annotated[
    bool, typer.Option("--all", help=f"Print every image, not only the worst {WORST}.")
]
PrintJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object instead of the table.")
]
TableOnly = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no notes; the table only.")
]
