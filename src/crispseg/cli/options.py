"""What several commands share: options, checks of outputs, the progress bar."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crispseg.io import DEFAULT_MAX_PIXELS, check_output
from crispseg.types import InputError

if TYPE_CHECKING:
    from crispseg.refiners.base import Progress

DEFAULT_MEGAPIXELS = DEFAULT_MAX_PIXELS / 1e6


class Mode(StrEnum):
    """Choices of ``--mode``."""

    default = "default"
    published = "published"


class PrecisionName(StrEnum):
    """Choices of ``--precision``."""

    plain = "plain"
    exact = "exact"
    auto = "auto"
    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


Fast = Annotated[bool, typer.Option("--fast", help="Global step only: quick, less fine.")]
TileSize = Annotated[
    int, typer.Option(help="Side of the tiles in pixels; smaller needs less memory.")
]
ModeOption = Annotated[
    Mode, typer.Option(help="published: the released package's procedure to the digit.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[
    PrecisionName | None,
    typer.Option(
        help="exact or fp32: float32; auto: the quickest here, as measured once; bf16, fp16; "
        "plain: the network as written. Without it auto, but exact with --mode published."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Most tiles in one network call.")]
Workers = Annotated[int, typer.Option(help="Tiles that run at the same time on the CPU.")]
Guard = Annotated[
    bool, typer.Option(help="Keep the given mask where a change is not to be trusted.")
]
MaxMegapixels = Annotated[float, typer.Option(help="Refuse larger images before decoding them.")]
AnySize = Annotated[
    float | None,
    typer.Option(help="Refuse larger images before decoding them; without it, any size."),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Throw away what an interrupted run has left; in a folder, results that are there.",
    ),
]
Stop = Annotated[
    bool, typer.Option("--stop", help="Of a folder: stop at the first image that fails.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object about the result.")]


def parse_limit(megapixels: float) -> int:
    """--max-megapixels as a number of pixels.

    Raises:
        InputError: not a number above 0.
    """
    if not 0 < megapixels < math.inf:  # written so that NaN fails too
        raise InputError(f"--max-megapixels must be a number above 0, not {megapixels:g}")
    return round(megapixels * 1e6)


def refuse(context: typer.Context, names: Collection[str], only: str) -> None:
    """Options on the command line, of these names, that would do nothing; they are for ``only``.

    Raises:
        InputError: one of them is given.
    """
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in names and source is not None and source.name == "COMMANDLINE":
            off = option.secondary_opts if context.params[option.name] is False else ()
            raise InputError(f"{[*off, *option.opts][0]} is for {only}")


def check_outputs(outputs: Mapping[str, Path | None], suffixes: tuple[str, ...]) -> None:
    """Make sure that every output can be written, before long work; option -> file.

    Raises:
        InputError: one cannot, or has another suffix.
    """
    for path in filter(None, outputs.values()):
        check_output(path, suffixes)


def check_different(outputs: Mapping[str, Path | None], inputs: Sequence[Path]) -> None:
    """Make sure that no output is an input or another output; option -> file.

    Raises:
        InputError: one is.
    """
    paths = [path for path in outputs.values() if path]
    for path in paths:
        for source in inputs:
            if path.exists() and source.exists() and path.samefile(source):
                raise InputError(f"{path} is an input; give the result another name")
    if len({path.resolve() for path in paths}) < len(paths):
        *first, last = outputs
        raise InputError(f"{', '.join(first)} and {last} must be different files")


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
