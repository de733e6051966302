"""``crispseg reproduce``: the papers' tables; runs what is here, says what is missing."""

from __future__ import annotations

import json
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crispseg.cli.options import AsJson
from crispseg.types import CrispsegError, InputError

if TYPE_CHECKING:
    from crispseg.evaluation.papers import Line, Table

Figures = list[float | None]


def reproduce(
    table: Annotated[
        str | None, typer.Argument(help="Name of a table; all are listed without.")
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Folder of data sets, each in a folder of its name.")
    ] = Path("data"),
    weights: Annotated[Path, typer.Option(help="Folder of weights files.")] = Path("weights"),
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is here and what is missing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a table of the papers again, as far as data and weights are here."""
    from crispseg.evaluation.papers import load_tables, plan  # noqa: PLC0415
    from crispseg.models.zoo import KNOWN, local_file  # noqa: PLC0415

    tables = load_tables()
    if table is None:
        for one in tables.values():
            typer.echo(f"{one.name:<26}{one.title}")
        return
    if table not in tables:
        raise InputError(f"unknown table {table!r}; crispseg reproduce lists them")
    chosen = tables[table]
    known = {name: local_file(spec) for name, spec in KNOWN.items()}
    lines = plan(chosen, data, weights, known)
    measured: dict[str, Figures] = {}
    failed: dict[str, str] = {}
    for line in lines:
        if line.runs and not check:
            try:
                measured[line.name] = _measure(line, chosen)
            except CrispsegError as error:  # the other lines can still be measured
                failed[line.name] = " ".join(str(error).split())
    if as_json:
        typer.echo(json.dumps(_report(chosen, lines, measured, failed)))
    else:
        typer.echo("\n".join(_text(chosen, lines, measured, failed)))
    if failed:
        raise InputError(f"{len(failed)} of {len(lines)} lines could not be measured")


def _measure(line: Line, table: Table) -> Figures:
    from crispseg.cli.main import app  # noqa: PLC0415
    from crispseg.evaluation.papers import figure  # noqa: PLC0415

    out = StringIO()
    with redirect_stdout(out):
        command = typer.main.get_command(app)
        command.main([*line.command, "--json", "--quiet"], standalone_mode=False)
    report = json.loads(out.getvalue())
    summary = report["summary"]
    if table.kind == "labels":
        summary = {"before": report["before"]["summary"], "after": summary}
    return [figure(summary, column) for column in table.columns]


def _report(
    table: Table, lines: list[Line], measured: dict[str, Figures], failed: dict[str, str]
) -> dict[str, Any]:
    rows = [
        {
            "name": line.name,
            "published": list(line.published),
            "measured": measured.get(line.name),
            "command": shlex.join(["crispseg", *line.command]) if line.command else None,
            "missing": list(line.missing),
            "error": failed.get(line.name),
        }
        for line in lines
    ]
    return {
        "table": table.name,
        "title": table.title,
        "dataset": table.dataset,
        "columns": list(table.columns),
        "rows": rows,
    }


def _text(
    table: Table, lines: list[Line], measured: dict[str, Figures], failed: dict[str, str]
) -> list[str]:
    out = [f"{table.name}: {table.title}", f"in %: {', '.join(table.columns)}"]
    reasons: dict[str, list[str]] = {}
    for line in lines:
        figures = "  ".join(f"{value:.2f}" for value in line.published)
        out.append(f"{line.name}: published {figures}")
        if line.name in measured:
            found = measured[line.name]
            out.append("  measured " + "  ".join("-" if v is None else f"{v:.2f}" for v in found))
        if line.command:
            out.append("  " + shlex.join(["crispseg", *line.command]))
        if line.name in failed:
            out.append(f"  failed: {failed[line.name]}")
        for reason in line.missing:
            reasons.setdefault(reason, []).append(line.name)
    for reason, names in reasons.items():
        which = "every line" if len(names) == len(lines) else ", ".join(names)
        out.append(f"missing for {which}: {reason}")
    return out
