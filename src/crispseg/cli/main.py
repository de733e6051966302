"""The ``crispseg`` command: errors become one line, results become exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from crispseg import __version__
from crispseg.cli import models
from crispseg.cli.bench import bench
from crispseg.cli.datasets import datasets
from crispseg.cli.demo import demo
from crispseg.cli.doctor import doctor
from crispseg.cli.evaluate import evaluate
from crispseg.cli.refine import refine
from crispseg.cli.reproduce import reproduce
from crispseg.cli.segment import segment
from crispseg.cli.train import train
from crispseg.runtime.memory import keep_freed_memory
from crispseg.types import CrispsegError, TreeError

# What CUDA and MPS, and what torch's CPU allocator say; both raise a bare RuntimeError.
OUT_OF_MEMORY = ("out of memory", "defaultcpuallocator")
EXIT_BUG, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Refine rough segmentation masks to the pixel, at any image size.",
    epilog="Exit codes: 0 done, 1 internal error or failed self-test, 2 bad input or usage, "
    "130 interrupted, 143 terminated. CRISPSEG_TRACEBACK=1 shows where an error comes from.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"crispseg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(refine)
app.command()(segment)
app.command()(demo)
app.command()(evaluate)
app.command()(datasets)
app.command()(reproduce)
app.add_typer(models.app, name="models")
app.command()(train)
app.command()(bench)
app.command()(doctor)


def main() -> NoReturn:
    """Run the command line; never returns."""
    signal.signal(signal.SIGTERM, _terminate)
    keep_freed_memory()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line with ``arguments``; returns the exit code."""
    try:
        command = typer.main.get_command(app)
        code = command.main(arguments or ["--help"], prog_name="crispseg", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what Typer makes of Ctrl-C
            return _fail("interrupted; nothing half-written is left", code)
        return int(code or 0)
    except TyperException as error:
        return _fail(error.format_message().replace("Value error, ", ""), EXIT_INPUT)
    except CrispsegError as error:
        return _fail(str(error), EXIT_INPUT, in_lines=isinstance(error, TreeError))
    except SystemExit as stop:
        if stop.code != 1:  # 1 is what Typer makes of a closed pipe, and of nothing else
            raise
        return 0
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return _fail("out of memory; try --tile-size 512, --fast or --device cpu", EXIT_INPUT)
    kind = type(error).__name__
    return _fail(
        f"{kind}: {error} (this is a bug in crispseg; CRISPSEG_TRACEBACK=1 shows where)", EXIT_BUG
    )


def _fail(message: str, code: int, *, in_lines: bool = False) -> int:
    if os.environ.get("CRISPSEG_TRACEBACK") and sys.exc_info()[0]:
        traceback.print_exc()
    print("error:", message if in_lines else " ".join(message.split()), file=sys.stderr)
    return code


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    # An exception instead of sudden death, so that temporary files are removed.
    raise SystemExit(EXIT_TERMINATED)
