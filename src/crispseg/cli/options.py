"""Options that several commands share, and the progress bar: one wording, one way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from crispseg.refiners.base import Progress


class Mode(StrEnum):
    """Choices of ``--mode``."""

    default = "default"
    published = "published"


Fast = Annotated[bool, typer.Option("--fast", help="Global step only: quick, less fine.")]
TileSize = Annotated[
    int, typer.Option(help="Side of the tiles in pixels; smaller needs less memory.")
]
ModeOption = Annotated[
    Mode, typer.Option(help="published: the released package's procedure to the digit.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Guard = Annotated[
    bool, typer.Option(help="Keep the given mask where a change is not to be trusted.")
]
MaxMegapixels = Annotated[float, typer.Option(help="Refuse larger images before decoding them.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def progress_bar(text: str, *, hidden: bool) -> Iterator[Progress]:
    """A bar with the time left on a terminal's stderr; nothing where nobody looks."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress  # noqa: PLC0415

    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=hidden or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
