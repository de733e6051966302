"""``crispseg evaluate``: parse, check, call ``crispseg.evaluation``, print."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crispseg.cli.options import progress_bar
from crispseg.cli.refine import Mode
from crispseg.io import IMAGE_SUFFIXES, check_output, write_image
from crispseg.types import InputError

if TYPE_CHECKING:
    from crispseg.evaluation.cases import Case, Skip
    from crispseg.evaluation.journal import Journal
    from crispseg.evaluation.scores import Row
    from crispseg.refiners.cascade import CascadeRefiner

WORST = 10
TITLES = {
    "iou": "IoU, mean over images",
    "iou_of_all_pixels": "IoU of all pixels together",
    "mba_released": "mBA, radii of the released code",
    "mba_paper": "mBA, radii of the paper",
    "boundary_iou": "Boundary IoU",
}


def evaluate(
    images: Annotated[Path, typer.Argument(help="Folder of photos.")],
    coarse: Annotated[
        Path | None, typer.Argument(help="Folder of rough masks; IMAGES if left out.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Argument(help="Folder of true masks; IMAGES if left out.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name (see `crispseg models`) or weights file; else cascadepsp-lite."),
    ] = None,
    refined: Annotated[
        Path | None,
        typer.Option(help="Measure the masks of this folder instead of refining with a model."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for results.json and refined masks; the same command again goes on there.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Picture of the best, the median and the worst image.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many images by name.")
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave out images without partners, of unequal size or unreadable; name them.",
        ),
    ] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Global step only: less fine.")] = False,
    tile_size: Annotated[
        int, typer.Option(help="Side of the tiles in pixels; smaller needs less memory.")
    ] = 900,
    mode: Annotated[
        Mode, typer.Option(help="published: the released package's procedure to the digit.")
    ] = Mode.default,
    guard: Annotated[bool, typer.Option(help="Undo changes that are not to be trusted.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    all_rows: Annotated[
        bool, typer.Option("--all", help=f"Print every image, not only the worst {WORST}.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of the table.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no notes; the table only.")
    ] = False,
) -> None:
    """Measure how much refinement helps, where the truth is known.

    Files belong together by name: a.jpg, a.png, a.png in three folders, or a_im.jpg, a_seg.png,
    a_gt.png in one. Prints IoU, mean boundary accuracy (mBA) and Boundary IoU, before and after.
    """
    if (coarse is None) != (truth is None):
        raise InputError("give one folder, or three: IMAGES COARSE TRUTH")
    if refined and (model or fast or mode != Mode.default):
        raise InputError("--refined measures masks that are there: no --model, --fast or --mode")
    folders = {"image": images, "coarse": coarse or images, "truth": truth or images}
    if refined:
        folders["refined"] = refined
    options = {"tile_size": tile_size, "mode": mode.value, "fast": fast, "device": device}
    options["guard"] = guard
    cases, skips = _cases(folders, limit, skip_bad=skip_bad)
    _check_outputs(output, sheet, folders, cases)
    refiner = None if refined else _load(model, options)
    report, rows = _run(folders, cases, skips, refiner, output, skip_bad=skip_bad, quiet=quiet)
    if sheet:
        from crispseg.evaluation.run import choose, draw  # noqa: PLC0415

        write_image(sheet, draw(choose(rows), cases, refiner, output))
    typer.echo(json.dumps(report) if as_json else _table(rows, report["summary"], all_rows))


def _load(model: str | None, options: Mapping[str, Any]) -> CascadeRefiner:
    from crispseg.pipeline import DEFAULT_MODEL, load_refiner  # noqa: PLC0415

    return load_refiner(model or DEFAULT_MODEL, **options)


def _run(
    folders: Mapping[str, Path],
    cases: Sequence[Case],
    skips: Sequence[Skip],
    refiner: CascadeRefiner | None,
    output: Path | None,
    *,
    skip_bad: bool,
    quiet: bool,
) -> tuple[dict[str, Any], list[Row]]:
    """Measure and write results.json; the report and its rows."""
    from crispseg.evaluation import run  # noqa: PLC0415

    settings = run.settings_of(refiner)
    journal = _open_journal(output, settings, cases, quiet=quiet)
    rows, damaged = _measure(cases, refiner, output, journal, skip_bad=skip_bad, quiet=quiet)
    skips = [*skips, *damaged]
    if not rows:
        raise InputError(f"no image could be measured; first: {skips[0].name}: {skips[0].reason}")
    if not quiet:
        _note_skips(skips)
    inputs = {role: str(folder) for role, folder in folders.items()}
    report = run.report(rows, skips, settings, inputs)
    if output:
        run.write_report(output, report)
    return report, rows


def _cases(
    folders: Mapping[str, Path], limit: int | None, *, skip_bad: bool
) -> tuple[list[Case], list[Skip]]:
    """What can be measured by the headers of its files; anything else is an error or a Skip."""
    from crispseg.evaluation.cases import check_cases, find_cases  # noqa: PLC0415

    cases, skips = find_cases(
        folders["image"], folders["coarse"], folders["truth"], folders.get("refined")
    )
    cases, unequal = check_cases(cases[:limit])
    skips += unequal
    if skips and not (skip_bad and cases):
        hint = "--skip-bad leaves them out" if cases else "none is left to measure"
        raise InputError(
            f"{len(skips)} of {len(cases) + len(skips)} images cannot be measured, first: "
            f"{skips[0].name}: {skips[0].reason} ({hint})"
        )
    return cases, skips


def _check_outputs(
    output: Path | None, sheet: Path | None, folders: Mapping[str, Path], cases: Sequence[Case]
) -> None:
    if output:
        from crispseg.evaluation.run import REFINED, RESULTS  # noqa: PLC0415

        masks = output / REFINED  # written to, unless the refined masks are given
        if "refined" not in folders and masks.resolve() in {f.resolve() for f in folders.values()}:
            raise InputError(f"{masks} is an input; give --output another name")
        folder = output if "refined" in folders else masks
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
        check_output(output / RESULTS, (".json",))
    if sheet:
        check_output(sheet, IMAGE_SUFFIXES)
        inputs = {path.resolve() for case in cases for path in case.files().values()}
        if sheet.resolve() in inputs:
            raise InputError(f"{sheet} is an input; give the sheet another name")


def _open_journal(
    output: Path | None, settings: Mapping[str, Any], cases: Sequence[Case], *, quiet: bool
) -> Journal | None:
    if output is None:
        return None
    from crispseg.evaluation.journal import Journal  # noqa: PLC0415

    journal = Journal(output, settings)
    taken = sum(journal.row(case) is not None for case in cases)
    if journal.changed and not quiet:
        print(f"{journal.path}: {', '.join(journal.changed)} changed; begun anew", file=sys.stderr)
    if taken and not quiet:
        print(f"{taken} of {len(cases)} images taken over from {journal.path}", file=sys.stderr)
    return journal


def _measure(
    cases: Sequence[Case],
    refiner: CascadeRefiner | None,
    output: Path | None,
    journal: Journal | None,
    *,
    skip_bad: bool,
    quiet: bool,
) -> tuple[list[Row], list[Skip]]:
    from crispseg.evaluation.run import evaluate as run  # noqa: PLC0415

    try:
        with progress_bar("evaluating", hidden=quiet) as progress:
            return run(
                cases,
                refiner,
                output=output,
                journal=journal,
                skip_bad=skip_bad,
                progress=progress,
            )
    except KeyboardInterrupt:
        if journal and not quiet:
            kept = sum(journal.row(case) is not None for case in cases)
            print(
                f"{kept} of {len(cases)} images are in {journal.path}; the same command goes on",
                file=sys.stderr,
            )
        raise


def _note_skips(skips: Sequence[Skip]) -> None:
    for skip in skips[:WORST]:
        print(f"skipped {skip.name}: {' '.join(skip.reason.split())}", file=sys.stderr)
    if len(skips) > WORST:
        print(f"skipped {len(skips) - WORST} more; --json names all", file=sys.stderr)


def _table(rows: Sequence[Row], summary: Mapping[str, Any], all_rows: bool) -> str:
    return "\n".join([*_image_lines(rows, all_rows), "", *_summary_lines(summary)])


def _image_lines(rows: Sequence[Row], all_rows: bool) -> list[str]:
    shown = sorted(rows, key=lambda row: (row.iou_change, row.name))
    if not all_rows:
        shown = shown[:WORST]
    width = min(40, max(len("image"), *(len(row.name) for row in shown)))
    what = f"worst {len(shown)} of {len(rows)}" if len(shown) < len(rows) else f"{len(rows)}"
    lines = [
        f"{what} images by change of IoU, in %: before, after",
        f"{'image':<{width}}{'IoU':>15}{'change':>8}{'mBA released':>15}{'mBA paper':>15}"
        f"{'Boundary IoU':>15}",
    ]
    for row in shown:
        name = row.name if len(row.name) <= width else row.name[: width - 3] + "..."
        before, after = row.before, row.after
        lines.append(
            f"{name:<{width}}{_pair(before.iou, after.iou)}{100 * row.iou_change:>+8.2f}"
            f"{_pair(before.mba_released, after.mba_released)}"
            f"{_pair(before.mba_paper, after.mba_paper)}"
            f"{_pair(before.boundary_iou, after.boundary_iou)}"
        )
    return lines


def _summary_lines(summary: Mapping[str, Any]) -> list[str]:
    images = summary["images"]
    lines = [f"{f'all {images} images, in %':<34}{'before':>8}{'after':>8}{'change':>9}"]
    for key, title in TITLES.items():
        before, after = (_percent(summary[when][key]) for when in ("before", "after"))
        change = summary["change"][key]
        text = "-" if change is None else f"{100 * change:+.2f}"
        lines.append(f"{title:<34}{before:>8}{after:>8}{text:>9}")
    worse = summary["worse"]
    first = f": {', '.join(worse[:5])}{', ...' if len(worse) > 5 else ''}" if worse else ""
    lines.append(f"made worse by more than 1 IoU point: {len(worse)} of {images}{first}")
    if edgeless := summary["truths_without_edge"]:
        lines.append(f"mBA leaves out {edgeless} whose truth is empty or full")
    return lines


def _pair(before: float, after: float) -> str:
    return f"{_percent(before):>8}{_percent(after):>7}"


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}"
