"""Measure segmentation networks on a split of a data set and print the table of docs/results.md.

    python recipes/segmentation_results.py camvid .data/camvid WEIGHTS [WEIGHTS ...] [--split val]

Each network sees whole images: once; at output stride 8 where it was trained at 16 and can change;
at three scales (DeepLabv3's for Cityscapes) with mirror images. Mean IoU and accuracies are over
all pixels of the split that are not void. ``--json FILE`` also keeps the IoU of every class.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from crispseg.data.datasets import Dataset, open_dataset
from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.models.deeplabv3 import DeepLabV3
from crispseg.models.weights import load_model
from crispseg.segmenters.base import CITYSCAPES_SCALES
from crispseg.segmenters.load import load_segmenter

FINER_STRIDE = 8
HEADER = "| network | seen | mIoU | pixel accuracy | mean accuracy | seconds an image |"


def ways_of(path: Path) -> dict[str, dict[str, Any]]:
    """Row title -> options of ``load_segmenter``."""
    ways: dict[str, dict[str, Any]] = {"once": {}}
    module = load_model(path).module
    if isinstance(module, DeepLabV3) and module.output_stride > FINER_STRIDE:
        ways[f"once, output stride {FINER_STRIDE}"] = {"output_stride": FINER_STRIDE}
    ways["scales 0.75, 1, 1.25, mirrored"] = {"scales": CITYSCAPES_SCALES, "flip": True}
    return ways


def measure(path: Path, options: dict[str, Any], dataset: Dataset) -> tuple[ConfusionMatrix, float]:
    """Confusion matrix over the split, and seconds an image (network and averaging alone)."""
    segmenter = load_segmenter(path, tile_size=0, **options)
    matrix, seconds = ConfusionMatrix(dataset.num_classes, dataset.ignore_index), 0.0
    for item in dataset:
        image = item.read_image()
        begun = time.perf_counter()
        labels = segmenter.segment(image)
        seconds += time.perf_counter() - begun
        matrix.add(labels, item.read_labels())
    return matrix, seconds / len(dataset)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", help="name, see `crispseg datasets`")
    parser.add_argument("root", type=Path)
    parser.add_argument("weights", type=Path, nargs="+", help="safetensors files")
    parser.add_argument("--split", default="val")
    parser.add_argument("--once", action="store_true", help="no scales and no mirror images")
    parser.add_argument("--json", type=Path, help="IoU of every class, here")
    args = parser.parse_args()
    dataset = open_dataset(args.dataset, args.root, args.split)
    print(HEADER, "|" + "---|" * (HEADER.count("|") - 1), sep="\n")
    results = {}
    for path in args.weights:
        for title, options in ways_of(path).items():
            if args.once and "scales" in options:
                continue
            matrix, seconds = measure(path, options, dataset)
            scores = (matrix.mean_iou(), matrix.pixel_accuracy(), matrix.mean_accuracy())
            shown = " | ".join(f"{100 * score:.2f}" for score in scores)
            print(f"| {path.stem} | {title} | {shown} | {seconds:.2f} |", flush=True)
            classes = dict(zip(dataset.class_names, matrix.iou().tolist(), strict=True))
            results[f"{path.stem}, {title}"] = {"mean_iou": scores[0], "iou": classes}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
