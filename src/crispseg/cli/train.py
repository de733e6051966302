"""``crispseg train``: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file; recipes/ has examples.")],
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again even if there is a checkpoint.")
    ] = False,
) -> None:
    """Train a network; stopped at any time, the same command goes on where it was."""
    from crispseg.train.config import read_config  # noqa: PLC0415

    config = read_config(recipe)

    from crispseg.train.loop import train as run  # noqa: PLC0415

    weights = run(config, resume=not restart, say=typer.echo)
    typer.echo(f"weights: {weights}")
