"""``crispseg train``: run a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file; recipes/ has examples.")],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="In place of what the recipe says; repeat for more."
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again even if there is a checkpoint.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Print the recipe, try one step, write nothing.")
    ] = False,
) -> None:
    """Train a network; stopped at any time, the same command goes on where it was."""
    from crispseg.train.config import read_config  # noqa: PLC0415

    config = read_config(recipe, changes or ())

    from crispseg.train.loop import train as run  # noqa: PLC0415
    from crispseg.train.loop import try_out  # noqa: PLC0415

    if check:
        try_out(config, say=typer.echo)
        return
    weights = run(config, resume=not restart, say=typer.echo)
    if int(os.environ.get("RANK", "0")) == 0:  # the first of torchrun's processes speaks for all
        typer.echo(f"weights: {weights}")
