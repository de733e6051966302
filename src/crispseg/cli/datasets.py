"""``crispseg datasets``: what can be read, under which licence, where it is, how it must lie."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from crispseg.cli.options import AsJson
from crispseg.types import InputError


def datasets(
    name: Annotated[
        str | None, typer.Argument(help="Show the folders and files of this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the data sets that can be read: splits, licence, where to get them."""
    from crispseg.data.datasets import DATASETS  # noqa: PLC0415

    if name and name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    chosen = [DATASETS[name]] if name else list(DATASETS.values())
    if as_json:
        typer.echo(json.dumps([_fields(spec) for spec in chosen]))
        return
    width = max(len(spec.name) for spec in chosen)
    for spec in chosen:
        splits = ", ".join(spec.splits) or "folders of your own"
        typer.echo(f"{spec.name:<{width}}  {spec.title}: {splits}")
        typer.echo(f"{'':<{width}}  {spec.licence}; {spec.where}")
        if name:
            typer.echo(f"\n{spec.tree.rstrip()}")


def _fields(spec: Any) -> dict[str, Any]:
    keys = ("name", "title", "splits", "licence", "where", "tree")
    return {key: getattr(spec, key) for key in keys}
