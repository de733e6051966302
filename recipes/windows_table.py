"""What smaller windows and less overlap of the local step's tiles cost and save.

    python recipes/windows_table.py FOLDER [--every 4] [--ways 96:6 2000:4]

FOLDER has images/, coarse/ and truth/ (``recipes/make_test_sets.py``). A way is the context around
the edges of a tile in pixels, and which share of a tile neighbours have in common; a context larger
than a tile is the whole tile. Ways take turns, image by image. Prints for each: IoU and mBA
(released code's radii) in percent, the worst change of IoU, processor seconds of refining, runs of
the network and their megapixels.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

import crispseg
from crispseg.evaluation.cases import find_cases
from crispseg.evaluation.run import measure
from crispseg.evaluation.scores import Row, summarise
from crispseg.refiners import local
from crispseg.refiners.cascade import CascadeRefiner


class Counted:
    """A refiner's network and procedure with clocks and counters around them."""

    def __init__(self, refiner: CascadeRefiner) -> None:
        self.refiner = refiner
        self.spent = dict.fromkeys(("seconds", "runs", "megapixels"), 0.0)
        self._run, self._probabilities = refiner.run, refiner.network.probabilities
        refiner.run = self.run
        refiner.network.probabilities = self.probabilities

    def run(self, *arrays, **options):
        """See CascadeRefiner."""
        start = time.process_time()
        found = self._run(*arrays, **options)
        self.spent["seconds"] += time.process_time() - start
        self.spent["runs"] += found.network_runs
        return found

    def probabilities(self, images, masks, channels=2):
        """See CascadeNetwork."""
        self.spent["megapixels"] += sum(given[0].size for given in masks) / 1e6
        return self._probabilities(images, masks, channels)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1, help="use every so many images")
    parser.add_argument("--ways", nargs="+", default=["2000:4", "160:6", "96:4", "96:6", "48:6"])
    options = parser.parse_args()
    folder = options.folder
    cases, _ = find_cases(folder / "images", folder / "coarse", folder / "truth")
    counted = Counted(crispseg.load_refiner("cascadepsp-lite"))
    rows: dict[str, list[Row]] = defaultdict(list)
    spent: dict[str, dict[str, float]] = {}
    for case in cases[:: options.every]:
        for way in options.ways:
            local.CONTEXT_PX, local.OVERLAP_SHARE = (int(part) for part in way.split(":"))
            counted.spent = spent.setdefault(way, dict.fromkeys(counted.spent, 0.0))
            rows[way].append(measure(case, counted.refiner)[0])
    for way, scored in rows.items():
        summary = summarise(scored)
        after, worst = summary["after"], min(100 * row.iou_change for row in scored)
        score = f"IoU {100 * after['iou']:.2f}, mBA {100 * after['mba_released']:.2f}"
        figures = ", ".join(f"{np.round(n, 1)} {what}" for what, n in spent[way].items())
        print(f"{way}: {score}, worst {worst:+.2f}; {figures}")


if __name__ == "__main__":
    main()
