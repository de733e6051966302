"""Folders in, rows out: measure every case, go on where a run was stopped, show a few."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from crispseg import __version__
from crispseg.evaluation.cases import Case, Skip
from crispseg.evaluation.journal import Journal, Settings, write_text
from crispseg.evaluation.scores import Row, score_masks, summarise
from crispseg.evaluation.thumbnails import choose_rows, data_url, outline_masks
from crispseg.io import read_image, read_mask, write_mask
from crispseg.io.journal import checksum
from crispseg.preview import Comparison, render_comparisons
from crispseg.types import InputError, Mask

if TYPE_CHECKING:  # given masks are measured without torch
    from crispseg.refiners.cascade import CascadeRefiner
    from crispseg.refiners.classical import ClassicalRefiner

    MaskRefiner = CascadeRefiner | ClassicalRefiner

REFINED, RESULTS = "refined", "results.json"
"""In the output folder: the folder of refined masks, and the report."""


def settings_of(refiner: MaskRefiner | None, method: str | None = None) -> dict[str, Any]:
    """All that decides about a refined mask, as JSON can hold it; of given masks: no model.

    Args:
        refiner: None for given masks.
        method: name of a classical one.
    """
    if refiner is None:
        return {"crispseg": __version__, "model": None}
    from crispseg.refiners.cascade import CascadeRefiner  # noqa: PLC0415

    if not isinstance(refiner, CascadeRefiner):
        return {"crispseg": __version__, "model": None, "method": method}
    return {
        "crispseg": __version__,
        "model": Path(refiner.model.source).name,
        "model_sha256": checksum(refiner.model.source),
        "architecture": refiner.model.architecture,
        "mode": refiner.mode,
        "fast": refiner.fast,
        "tile_size": refiner.tile_size,
        "guard": refiner.guard is not None,
        "device": str(refiner.device),
    }


def evaluate(
    cases: Sequence[Case],
    refiner: MaskRefiner | None = None,
    *,
    output: Path | None = None,
    journal: Journal | None = None,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Row], list[Skip]]:
    """Measure coarse and refined masks against the truth.

    Args:
        cases: from ``cases.find_cases`` and ``cases.check_cases``.
        refiner: refines the coarse masks; None if every case has its refined mask.
        output: folder whose subfolder ``refined`` gets the masks that ``refiner`` makes.
        journal: rows it has are taken over, the others are written to it as they are made.
        skip_bad: leave out cases whose files turn out to be damaged.
        progress: called with (cases done, cases to do); rows taken over are neither.

    Returns:
        A row for each case, in order, and those left out.

    Raises:
        InputError: a file cannot be read (unless ``skip_bad``) or written.
    """
    rows = {case.name: journal.row(case) if journal else None for case in cases}
    todo = [case for case in cases if rows[case.name] is None]
    skips = []
    for done, case in enumerate(todo):
        if progress:
            progress(done, len(todo))
        try:
            row, mask = measure(case, refiner)
        except InputError as error:
            if not skip_bad:
                raise
            skips.append(Skip(case.name, str(error)))
            continue
        if output and refiner:
            write_mask(refined_path(output, case), mask)
        if journal:
            journal.add(case, row)
        rows[case.name] = row
    if progress and todo:
        progress(len(todo), len(todo))
    return [row for row in rows.values() if row], skips


def report(
    rows: Sequence[Row], skips: Sequence[Skip], settings: Settings, inputs: Mapping[str, str]
) -> dict[str, Any]:
    """Everything about an evaluation, as JSON can hold it.

    Returns:
        kind "masks"; inputs: role -> folder; settings: see ``settings_of``; summary: see
        ``scores.summarise``; rows: see ``scores.Row``, shares from 0 to 1; skipped: name and
        reason of each.
    """
    return {
        "kind": "masks",
        "inputs": dict(inputs),
        "settings": dict(settings),
        "summary": summarise(rows),
        "rows": [row.as_json() for row in rows],
        "skipped": [asdict(skip) for skip in skips],
    }


def write_report(folder: Path, values: Mapping[str, Any]) -> None:
    """Write ``results.json``, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    write_text(folder / RESULTS, json.dumps(values, indent=1) + "\n")


def measure(case: Case, refiner: MaskRefiner | None) -> tuple[Row, Mask]:
    """The row of one case, and its refined mask.

    Raises:
        InputError: a file cannot be read, or sizes differ.
    """
    truth, coarse = read_mask(case.truth) > 0.5, read_mask(case.coarse)
    refined, seconds = _refined(case, coarse, refiner)
    for path, mask in ((case.coarse, coarse), (case.refined or case.image, refined)):
        if mask.shape != truth.shape:
            raise InputError(f"{path} and {case.truth} differ in size")
    before, after = score_masks([coarse > 0.5, refined > 0.5], truth)
    height, width = truth.shape
    return Row(case.name, height, width, int(truth.sum()), before, after, seconds), refined


def _refined(case: Case, coarse: Mask, refiner: MaskRefiner | None) -> tuple[Mask, float]:
    """The refined mask and the seconds that it took."""
    if case.refined:
        return read_mask(case.refined), 0.0
    if refiner is None:
        raise InputError(f"{case.name} has no refined mask, and no refiner was given")
    image = read_image(case.image)
    start = time.perf_counter()
    mask = refiner.refine(image, coarse)
    return mask, time.perf_counter() - start


def refined_path(output: Path, case: Case) -> Path:
    """Where ``evaluate`` writes the refined mask of a case."""
    return output / REFINED / f"{case.name}.png"


def choose(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Best, median and worst row by change of IoU, each row once: (which of them, row)."""
    ranked = sorted(rows, key=lambda row: (-row.iou_change, row.name))
    middle, last = (len(ranked) - 1) // 2, len(ranked) - 1
    places = {middle: "median", last: "worst", 0: "best" if last else "only image"}
    return [(places[place], ranked[place]) for place in sorted(places)]


def draw(
    chosen: Sequence[tuple[str, Row]],
    cases: Sequence[Case],
    refiner: MaskRefiner | None,
    output: Path | None = None,
) -> NDArray[Any]:
    """A sheet of chosen rows; refined masks are read from ``output``, or made again.

    Returns:
        (h, w, 3) uint8.

    Raises:
        InputError: a file cannot be read.
    """
    by_name = {case.name: case for case in cases}

    def comparisons() -> Iterator[Comparison]:
        for which, row in chosen:
            case = by_name[row.name]
            before = read_mask(case.coarse)
            written = refined_path(output, case) if output and refiner else None
            if written and written.is_file():
                after = read_mask(written)
            else:
                after, _ = _refined(case, before, refiner)
            title = f"{which}: {row.name}   {caption(row)}"
            yield Comparison(title, read_image(case.image), before, after, read_mask(case.truth))

    return render_comparisons(comparisons())


def outlined(
    rows: Sequence[Row], cases: Sequence[Case], output: Path | None, most: int
) -> dict[str, str]:
    """Small pictures of the worst, median and best row; none where no refined mask is a file.

    Returns:
        name -> data URL.

    Raises:
        InputError: a file cannot be read.
    """
    by_name = {case.name: case for case in cases}
    found = {}
    ranked = [row.name for row in sorted(rows, key=lambda row: (row.iou_change, row.name))]
    for name in choose_rows(ranked, most):
        case = by_name[name]
        refined = case.refined or (refined_path(output, case) if output else None)
        if refined and refined.is_file():
            paths = (case.truth, case.coarse, refined)
            masks = [read_mask(path) > 0.5 for path in paths]
            found[name] = data_url(outline_masks(read_image(case.image), masks))
    return found


def caption(row: Row) -> str:
    """The change of a row in words: "IoU 91.20 to 95.31, mBA ..."."""
    pairs = {
        "IoU": (row.before.iou, row.after.iou),
        "mBA (released radii)": (row.before.mba_released, row.after.mba_released),
        "Boundary IoU": (row.before.boundary_iou, row.after.boundary_iou),
    }
    return ",  ".join(f"{k} {100 * a:.2f} to {100 * b:.2f}" for k, (a, b) in pairs.items())
