"""CamVid val, coarse networks and what refines them: one table, one run.

    python recipes/magnet_table.py --data CAMVID --refinement runs/magnet-camvid/magnet.safetensors

The bundled segmenter sees the image at a quarter of its size (120 x 90). Rows: that enlarged
(downsampling), tiles of 120 x 90 at full size (tiles only), DenseCRF and the guided filter on the
first, PointRend's points, MagNet-Fast (three tiles of the last size; or the middle size at once
and one tile of the last), MagNet, and MagNet without its middle magnification, with
half of the score, and with all points. Columns: mIoU over the data set, mean mBA, network passes,
seconds and peak memory of numpy arrays, all per image.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crispseg.data.crops import decode
from crispseg.data.datasets import open_dataset
from crispseg.metrics.boundary import mean_boundary_accuracy_of_labels
from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.models.magnet import load_magnet
from crispseg.refiners.classical import DenseCrf, GuidedFilter
from crispseg.refiners.points import Budget
from crispseg.refiners.progressive import ProgressiveRefiner, Stage, TakeFine, point_rend
from crispseg.segmenters.load import load_segmenter
from crispseg.types import Size

TILE = Size(90, 120)
FIRST, MIDDLE, LAST = Stage(120), Stage(240, TILE, 0.8), Stage(None, TILE, 0.8)
MIDDLE_AT_ONCE = Stage(240, Size(180, 240), 1.0)


def methods(segmenter: str, refinement: str) -> tuple[dict[str, Callable], list[int]]:
    """Name -> image to labels; and the list that counts network passes."""
    network = load_segmenter(segmenter, tile_size=0)
    module = load_magnet(refinement)
    passes = [0]

    def predict(image: np.ndarray) -> np.ndarray:
        passes[0] += 1
        return network.probabilities(image)

    def magnet(*stages: Stage, **options: object) -> ProgressiveRefiner:
        return ProgressiveRefiner(predict, module, stages, **options)

    down = magnet(FIRST)
    everywhere = ProgressiveRefiner(predict, TakeFine(), (FIRST, Stage(None, TILE, 1.0)))
    all_points = tuple(Stage(s.long_side, s.tile, 1.0) for s in (MIDDLE, LAST))

    def coarse(image: np.ndarray) -> np.ndarray:
        output = down.run(image, keep_probabilities=True).stages[-1].output
        return output.probabilities(Size(*image.shape[:2]))

    table = {
        "downsampling": down.segment,
        "tiles only": everywhere.segment,
        "DenseCRF": lambda image: DenseCrf().improve(image, coarse(image)).argmax(axis=0),
        "guided filter": lambda image: GuidedFilter().improve(image, coarse(image)).argmax(axis=0),
        "PointRend-style": point_rend(predict, (FIRST, MIDDLE, LAST)).segment,
        "MagNet-Fast, 3 tiles of 120 > 480": magnet(FIRST, LAST, budget=Budget(tiles=3)).segment,
        "MagNet-Fast": magnet(FIRST, MIDDLE_AT_ONCE, LAST, budget=Budget(tiles=1)).segment,
        "MagNet": magnet(FIRST, MIDDLE, LAST).segment,
        "MagNet, tiles overlap by a third": magnet(FIRST, MIDDLE, LAST, overlap_px=30).segment,
        "MagNet, 120 > 480": magnet(FIRST, LAST).segment,
        "MagNet, Yu only": magnet(FIRST, MIDDLE, LAST, factors="coarse").segment,
        "MagNet, 1 - Ru only": magnet(FIRST, MIDDLE, LAST, factors="refined").segment,
        "MagNet, all points": magnet(FIRST, *all_points).segment,
        "MagNet, no median": magnet(FIRST, MIDDLE, LAST, median_px=1).segment,
    }
    return table, passes


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--refinement", required=True)
    parser.add_argument("--segmenter", default="lwrefinenet-camvid")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image only")
    arguments = parser.parse_args()
    dataset = open_dataset("camvid", arguments.data, "val")
    table, passes = methods(arguments.segmenter, arguments.refinement)
    numbers = range(0, len(dataset), arguments.every)
    print(
        f"{len(numbers)} images\n\n| method | mIoU | mBA | passes | s | peak MB |\n"
        + "|---" * 6
        + "|"
    )
    for name, segment in table.items():
        matrix, scores, seconds, peak = ConfusionMatrix(dataset.num_classes), [], 0.0, 0
        passes[0] = 0
        for number in numbers:
            image, truth = decode(dataset, number)
            tracemalloc.start()
            begun = time.perf_counter()
            found = segment(image)
            seconds += time.perf_counter() - begun
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            matrix.add(found, truth)
            scores.append(mean_boundary_accuracy_of_labels(found, truth))
        count = len(numbers)
        print(
            f"| {name} | {100 * matrix.mean_iou():.2f} | {100 * np.nanmean(scores):.2f} | "
            f"{passes[0] / count:.1f} | {seconds / count:.2f} | {peak / 1e6:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
