"""``crispseg evaluate``: parse, check, call ``crispseg.evaluation``, print."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crispseg.cli import evaluate_options as opts
from crispseg.cli.evaluate_labels import LabelTask
from crispseg.cli.evaluate_options import WORST
from crispseg.cli.evaluate_results import (
    Outputs,
    are_results,
    differences_of,
    print_results,
    read_results,
    write_outputs,
)
from crispseg.cli.evaluate_results import as_json as to_json
from crispseg.cli.options import Device, Fast, Guard, Mode, ModeOption, progress_bar
from crispseg.cli.refine_method import Method, RefinementOption, SegmenterOption
from crispseg.cli.segment import parse_scales
from crispseg.io import IMAGE_SUFFIXES, check_output, write_image
from crispseg.types import InputError

if TYPE_CHECKING:
    from crispseg.evaluation.cases import Case, Skip
    from crispseg.evaluation.journal import Journal
    from crispseg.evaluation.run import MaskRefiner
    from crispseg.evaluation.scores import Row


def evaluate(
    images: opts.Images = None,
    coarse: opts.Coarse = None,
    truth: opts.Truth = None,
    model: opts.Model = None,
    refined: opts.Refined = None,
    dataset: opts.DatasetName = None,
    root: opts.Root = None,
    split: opts.Split = "val",
    labels: opts.Labels = None,
    classes: opts.Classes = None,
    predictions: opts.Predictions = None,
    ids: opts.PredictionIds = None,
    refiner: opts.Refiner = None,
    method: opts.MethodOption = None,
    segmenter: SegmenterOption = None,
    refinement: RefinementOption = None,
    scales: opts.Scales = None,
    flip: opts.Flip = False,
    output_stride: opts.OutputStride = None,
    output: opts.Output = None,
    sheet: opts.Sheet = None,
    report: opts.Page = None,
    pictures: opts.Pictures = 60,
    against: opts.Against = None,
    latex: opts.Latex = None,
    layout: opts.Layout = None,
    also: opts.Also = None,
    title: opts.Title = "crispseg evaluation",
    limit: opts.Limit = None,
    skip_bad: opts.SkipBad = False,
    fast: Fast = False,
    tile_size: opts.TileSize = None,
    mode: ModeOption = Mode.default,
    guard: Guard = True,
    device: Device = "auto",
    all_rows: opts.AllRows = False,
    as_json: opts.PrintJson = False,
    quiet: opts.TableOnly = False,
) -> None:
    """Measure masks, label maps, refiners and segmenters, where the truth is known.

    Files belong together by name: a.jpg, a.png, a.png in three folders, or a_im.jpg, a_seg.png,
    a_gt.png in one. Prints IoU, mean boundary accuracy (mBA) and Boundary IoU, before and after;
    of label maps (--dataset, --labels) IoU and accuracy of every class.
    """
    outputs = Outputs(title, report, pictures, latex, layout, also or [], against, output).check()
    way: dict[str, Any] = {"mode": mode.value, "fast": fast, "device": device, "guard": guard}
    looks: dict[str, Any] = {"scales": parse_scales(scales) if scales else None}
    looks |= {"flip": flip or None, "output_stride": output_stride}
    shown: dict[str, str] = {}
    if dataset or labels:
        inference = {**looks, "tile_size": tile_size if model else None, "device": device}
        way |= {"tile_size": None if model else tile_size}
        task = LabelTask(
            *(dataset, root, split, labels, classes, images, predictions, model, inference),
            *(refiner, method.value if method else None, segmenter, refinement, way, ids),
        )
        task.check(used=(coarse, truth, refined, sheet), skip_bad=skip_bad)
        found, shown = task.run(output, limit, outputs, quiet=quiet)
    elif images is None:
        raise InputError("say what to measure: IMAGES, --dataset or --labels; --help tells how")
    elif coarse is None and are_results(images):
        found = read_results(images)
    else:
        labels_only = [refiner, segmenter, refinement, predictions, ids, root, classes]
        networks = [model, method, fast, mode != Mode.default] if refined else []
        _check_mask_options([*labels_only, *looks.values()], networks, method)
        folders = _folders(images, coarse, truth, refined)
        cases, skips = _cases(folders, limit, skip_bad=skip_bad)
        _check_outputs(output, sheet, folders, cases)
        network = None if refined else _load(model, method, way | {"tile_size": tile_size})
        found, rows = _run(
            folders, cases, skips, network, method, output, skip_bad=skip_bad, quiet=quiet
        )
        shown = _pictures(rows, cases, network, output, sheet, pictures if report else 0)
    differences, heading = differences_of(found, outputs)
    write_outputs(found, outputs, differences, heading, shown)
    table = print_results(found, differences, heading, all_rows=all_rows)
    typer.echo(to_json(found, differences) if as_json else table)


def _check_mask_options(
    labels_only: Sequence[object], networks: Sequence[object], method: Method | None
) -> None:
    if any(labels_only):
        raise InputError(
            "masks are measured: --refiner, --segmenter, --refinement, --predictions, "
            "--prediction-ids, --root, --classes, --scales, --flip and --output-stride go with "
            "--dataset or --labels"
        )
    if any(networks):
        raise InputError("--refined measures masks as they are: no --model, --fast or --mode")
    if method in (Method.divide, Method.magnet, Method.magnet_fast):
        raise InputError(f"method {method.value} refines label maps; give --dataset or --labels")


def _pictures(
    rows: Sequence[Row],
    cases: Sequence[Case],
    refiner: MaskRefiner | None,
    output: Path | None,
    sheet: Path | None,
    most: int,
) -> dict[str, str]:
    from crispseg.evaluation.run import choose, draw, outlined  # noqa: PLC0415

    if sheet:
        write_image(sheet, draw(choose(rows), cases, refiner, output))
    return outlined(rows, cases, output, most) if most else {}


def _folders(
    images: Path, coarse: Path | None, truth: Path | None, refined: Path | None
) -> dict[str, Path]:
    if (coarse is None) != (truth is None):
        raise InputError("give one folder, or three: IMAGES COARSE TRUTH")
    folders = {"image": images, "coarse": coarse or images, "truth": truth or images}
    return folders | ({"refined": refined} if refined else {})


def _load(model: str | None, method: Method | None, options: Mapping[str, Any]) -> MaskRefiner:
    from crispseg.pipeline import DEFAULT_MODEL, load_refiner  # noqa: PLC0415

    if method and method != Method.cascade:
        from crispseg.methods import CLASSICAL  # noqa: PLC0415

        if model or options["fast"] or options["mode"] != Mode.default.value:
            raise InputError(f"method {method.value} has no network: no --model, --fast or --mode")
        return CLASSICAL[method.value]()
    return load_refiner(model or DEFAULT_MODEL, **options)


def _run(
    folders: Mapping[str, Path],
    cases: Sequence[Case],
    skips: Sequence[Skip],
    refiner: MaskRefiner | None,
    method: Method | None,
    output: Path | None,
    *,
    skip_bad: bool,
    quiet: bool,
) -> tuple[dict[str, Any], list[Row]]:
    """Measure and write results.json; the report and its rows."""
    from crispseg.evaluation import run  # noqa: PLC0415

    settings = run.settings_of(refiner, method.value if method else None)
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
        from crispseg.evaluation.journal import write_text  # noqa: PLC0415
        from crispseg.evaluation.tables import images_csv  # noqa: PLC0415

        run.write_report(output, report)
        write_text(output / "images.csv", images_csv(report))
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
    refiner: MaskRefiner | None,
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
