"""CamVid, label maps of a segmenter: both ways to refine them with CascadePSP's network.

    python recipes/scene_table.py --data CAMVID [--every 10] [--model cascadepsp-lite]

Columns: mIoU over the pictures, mean mBA of pictures, objects that divide and conquer cuts out,
network runs (one pass: of the mask decoder) and seconds of one busy core, each a picture.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from crispseg.data.crops import decode
from crispseg.data.datasets import open_dataset
from crispseg.metrics.boundary import mean_boundary_accuracy_of_labels
from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.pipeline import load_refiner
from crispseg.refiners.scene import refine_scene, scene_objects
from crispseg.segmenters.load import load_segmenter

WAYS = ("input", "divide-and-conquer", "one-pass")


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--every", type=int, default=10, help="take every n-th picture only")
    parser.add_argument("--model", default="cascadepsp-lite")
    parser.add_argument("--segmenter", default="lwrefinenet-camvid")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset("camvid", arguments.data, arguments.split)
    segmenter = load_segmenter(arguments.segmenter, tile_size=0, device="cpu")
    refiner = load_refiner(arguments.model, device="cpu")
    pairs = [decode(dataset, number) for number in range(0, len(dataset), arguments.every)]
    maps = [segmenter.segment(image) for image, _ in pairs]
    objects = np.mean([len(scene_objects(labels, dataset.ignore_index)) for labels in maps])
    print(f"{len(pairs)} pictures, {objects:.1f} objects each\n")
    print("| way | mIoU | mBA | runs | s |\n" + "|---" * 5 + "|")
    for way in WAYS:
        matrix, scores = ConfusionMatrix(dataset.num_classes), []
        runs, seconds = 0, 0.0
        for (image, truth), labels in zip(pairs, maps, strict=True):
            found = labels
            if way != "input":
                begun = time.process_time()
                scene = refine_scene(
                    refiner.network, image, labels, way=way, tile_size=refiner.tile_size
                )
                seconds += time.process_time() - begun
                found, runs = scene.labels, runs + scene.network_runs
            matrix.add(found, truth)
            scores.append(mean_boundary_accuracy_of_labels(found, truth))
        shown = f"{100 * matrix.mean_iou():.2f} | {100 * np.nanmean(scores):.2f}"
        count = len(pairs)
        print(f"| {way} | {shown} | {runs / count:.1f} | {seconds / count:.2f} |", flush=True)


if __name__ == "__main__":
    main()
