"""``crispseg models``: what is known, what is here, and fetching the rest."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from crispseg.cli.options import AsJson, Quiet
from crispseg.models.zoo import KNOWN, known, local_file

app = typer.Typer(
    help="List the models that are known, or download one.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def list_models(
    context: typer.Context,
    as_json: AsJson = False,
) -> None:
    """List the models that are known: name, whether it is here, size, licence, task."""
    if context.invoked_subcommand:
        return
    rows: list[dict[str, Any]] = []
    for spec in KNOWN.values():
        path = local_file(spec)
        rows.append(
            {
                "name": spec.name,
                "here": path is not None,
                "size_bytes": path.stat().st_size if path else spec.size_bytes,
                "licence": spec.licence,
                "task": spec.task,
                "file": str(path) if path else None,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    typer.echo(f"{'name':<25}{'here':<6}{'size':>9}  {'licence':<9}task")
    for row in rows:
        size = f"{row['size_bytes'] / 1e6:.1f} MB"
        here = "yes" if row["here"] else "no"
        typer.echo(f"{row['name']:<25}{here:<6}{size:>9}  {row['licence']:<9}{row['task']}")
    if not all(row["here"] for row in rows):
        typer.echo("\nGet one with: crispseg models download NAME")


@app.command("download")
def download_model(
    name: Annotated[str, typer.Argument(help="A name that `crispseg models` lists.")],
    url: Annotated[
        str | None, typer.Option(help="Fetch the same file from elsewhere (http or https).")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Longest silence of the server, seconds.")] = 30.0,
    quiet: Quiet = False,
) -> None:
    """Fetch a model's weights from where its authors keep them."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from crispseg.models.download import download  # noqa: PLC0415

    known(name)  # before a bar with that name is drawn
    bar = Progress(
        TextColumn(name),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(name, total=None)
        path = download(
            name,
            url=url,
            timeout_s=timeout,
            on_bytes=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if not quiet:
        typer.echo(f"{name} is in {path}")
