r"""Measure a refiner on the test sets and print the table of docs/results.md.

    python recipes/results.py .data/test [--model cascadepsp-lite] [--sets composites davis16]

Each set is a folder with ``images/``, ``coarse/`` and ``truth/`` (``recipes/make_test_sets.py``).
The columns, in percent: IoU and mBA (released code's radii) as means over the images, before and
after; how much of the IoU error is gone; the change of IoU of the image that fared worst, and the
mean of the worst twentieth of the images; how many lost more than one point; the expected
calibration error of the confidence, over all pixels and over those within 8 px of the true edge.
``crispseg evaluate`` has the same measures, image by image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import crispseg
from crispseg.evaluation.cases import find_cases
from crispseg.evaluation.run import measure
from crispseg.evaluation.scores import summarise
from crispseg.io import read_mask
from crispseg.metrics.bands import boundary_band
from crispseg.metrics.calibration import CalibrationBins
from crispseg.refiners.cascade import CascadeRefiner

BAND_PX = 8


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of sets")
    parser.add_argument("--model", default="cascadepsp-lite", help="name or weights file")
    parser.add_argument("--sets", nargs="*", help="names; all if none")
    parser.add_argument("--limit", type=int, default=10**9, help="images of each set")
    parser.add_argument("--no-guard", action="store_true")
    options = parser.parse_args()
    refiner = crispseg.load_refiner(options.model, guard=not options.no_guard)
    print(
        "| set | n | IoU before | after | error gone | mBA before | after | worst | worst 5 % "
        "| worse by 1 | ECE | ECE at edges |"
    )
    print("|" + "---|" * 12)
    for name in options.sets or sorted(p.name for p in options.folder.iterdir()):
        print(row(name, options.folder / name, refiner, options.limit), flush=True)


def row(name: str, folder: Path, refiner: CascadeRefiner, limit: int) -> str:
    """One line of the table."""
    cases, _ = find_cases(folder / "images", folder / "coarse", folder / "truth")
    everywhere, at_edges = CalibrationBins(), CalibrationBins()
    rows = []
    for case in cases[:limit]:
        scored, refined = measure(case, refiner)
        rows.append(scored)
        truth = read_mask(case.truth) > 0.5
        everywhere.add(refined, truth)
        near = boundary_band(truth, BAND_PX)
        at_edges.add(refined[near], truth[near])
    summary = summarise(rows)
    before, after = 100 * summary["before"]["iou"], 100 * summary["after"]["iou"]
    change = np.sort([100 * scored.iou_change for scored in rows])
    worst = change[: max(len(change) // 20, 1)].mean()
    cells = [name, len(rows), f"{before:.2f}", f"{after:.2f}"]
    cells += [f"{100 * (after - before) / (100 - before):.0f} %"]
    cells += [f"{100 * summary[when]['mba_released']:.2f}" for when in ("before", "after")]
    cells += [f"{change[0]:+.2f}", f"{worst:+.2f}"]
    cells += [len(summary["worse"])]
    cells += [f"{100 * b.expected_calibration_error():.2f}" for b in (everywhere, at_edges)]
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
