"""``crispseg reproduce``: the papers' tables; runs what is here, says what is missing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from crispseg.cli.options import AsJson
from crispseg.types import CrispsegError, InputError

if TYPE_CHECKING:
    from crispseg.evaluation.papers import Line, Table


class Measured(NamedTuple):
    """Of a line: its figures, in percent, and what they cost on this machine."""

    figures: list[float | None]
    costs: dict[str, float]


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
    measured: dict[str, Measured] = {}
    failed: dict[str, str] = {}
    for line in lines:
        if line.runs and not check:
            typer.echo(f"measuring {line.name}", err=True)
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


def _measure(line: Line, table: Table) -> Measured:
    from crispseg.cli.main import app  # noqa: PLC0415
    from crispseg.evaluation.papers import figure  # noqa: PLC0415
    from crispseg.runtime.memory import forget_peak  # noqa: PLC0415

    out, own_peak = StringIO(), forget_peak()
    with redirect_stdout(out):
        command = typer.main.get_command(app)
        command.main([*line.command, "--json"], standalone_mode=False)
    report = json.loads(out.getvalue())
    summary = report["summary"]
    costs = {}
    if table.costs:
        costs = {"seconds": summary["seconds"] / summary["images"]}
        if own_peak:
            costs = {"megabytes": report["settings"]["peak_memory_mb"], **costs}
    if table.kind == "labels":
        summary = {"before": report["before"]["summary"], "after": summary}
    return Measured([figure(summary, column) for column in table.columns], costs)


def _report(
    table: Table, lines: list[Line], measured: dict[str, Measured], failed: dict[str, str]
) -> dict[str, Any]:
    both = [(line, measured.get(line.name)) for line in lines]
    rows = [
        {
            "name": line.name,
            "published": list(line.published),
            "measured": found and found.figures,
            "published_costs": table.costs.get(line.name),
            "measured_costs": found and found.costs,
            "command": shlex.join(["crispseg", *line.command]) if line.command else None,
            "missing": list(line.missing),
            "error": failed.get(line.name),
        }
        for line, found in both
    ]
    return {
        "table": table.name,
        "title": table.title,
        "dataset": table.dataset,
        "columns": list(table.columns),
        "rows": rows,
    }


def _text(
    table: Table, lines: list[Line], measured: dict[str, Measured], failed: dict[str, str]
) -> list[str]:
    out = [f"{table.name}: {table.title}", f"in %: {', '.join(table.columns)}"]
    reasons: dict[str, list[str]] = {}
    for line in lines:
        published = _figures(line.published, table.costs.get(line.name, {}))
        out.append(f"{line.name}: published {published}")
        if line.name in measured:
            out.append(f"  measured {_figures(*measured[line.name])}")
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


def _figures(figures: Sequence[float | None], costs: Mapping[str, float]) -> str:
    units = {"megabytes": "{:.0f} MB", "seconds": "{:.2f} s"}
    out = ["-" if value is None else f"{value:.2f}" for value in figures]
    return "  ".join([*out, *(units[name].format(value) for name, value in costs.items())])
