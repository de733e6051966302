"""Many small objects in one large image: how many does refining lose?

    .venv/bin/python benchmarks/lost_objects.py [--side 8192] [--least 3 --most 22] [--seed 0]

One object in each 512x512 pixels: discs, bars as wide as a disc's radius, and wide discs with a
slit as narrow as that, radii drawn from ``--least`` to ``--most`` pixels. The given mask is each
shape moved by a tenth to a third of its radius. Prints, for each kind, the mean IoU before and
after, how many came out with an IoU below 0.5, and how many are worse than the given mask by more
than 0.01. Takes 90 s of one core and 5 GB of memory. No time is measured.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from large_memory import COLOURS

import crispseg
from crispseg.metrics.boundary import intersection_over_union

CELL, GRAIN = 512, 8
KINDS = ("disc", "bar", "slit")
WIDE, BAR = 130, 140


def shape(kind: str, radius: float, angle: float, centre: np.ndarray) -> np.ndarray:
    """(CELL, CELL) bool."""
    y, x = (axis - middle for axis, middle in zip(np.ogrid[:CELL, :CELL], centre, strict=True))
    across = abs(y * np.cos(angle) - x * np.sin(angle))
    along = x * np.cos(angle) + y * np.sin(angle)
    narrow = across < max(radius / 2, 2)
    if kind == "disc":
        return y * y + x * x < radius * radius
    if kind == "bar":
        return narrow & (abs(along) < BAR)
    return (y * y + x * x < WIDE * WIDE) & ~(narrow & (along > 30 - WIDE))


def scene(side: int, least: float, most: float, rng: np.random.Generator):
    """Image, given mask and truth, and the kind of the object in each cell."""
    truth, given = np.zeros((2, side, side), bool)
    kinds = {}
    for y in range(0, side, CELL):
        for x in range(0, side, CELL):
            kind, radius = rng.choice(KINDS, p=(0.5, 0.25, 0.25)), rng.uniform(least, most)
            angle, direction = rng.uniform(0, 2 * np.pi, 2)
            centre = CELL / 2 + rng.uniform(-60, 60, 2)
            off = rng.uniform(0.1, 0.35) * radius * np.array([np.cos(direction), np.sin(direction)])
            at = np.s_[y : y + CELL, x : x + CELL]
            truth[at] = shape(kind, radius, angle, centre)
            given[at] = shape(kind, radius, angle, centre + off)
            kinds[y, x] = kind
    cells = rng.integers(0, 32, (side // GRAIN, side // GRAIN), dtype=np.uint8)
    image = np.where(truth[..., None], *(np.array(colour, np.uint8) for colour in COLOURS))
    image += cells.repeat(GRAIN, 0).repeat(GRAIN, 1)[..., None]
    return image, given, truth, kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--least", type=float, default=3)
    parser.add_argument("--most", type=float, default=22)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    crispseg.keep_freed_memory()
    rng = np.random.default_rng(options.seed)
    image, given, truth, kinds = scene(options.side, options.least, options.most, rng)
    found = crispseg.load_refiner(device="cpu").refine(image, given) > 0.5
    for kind in KINDS:
        boxes = [np.s_[y : y + CELL, x : x + CELL] for (y, x), k in kinds.items() if k == kind]
        before, after = (
            np.array([intersection_over_union(mask[at], truth[at]) for at in boxes])
            for mask in (given, found)
        )
        figures = {
            "kind": kind,
            "objects": len(boxes),
            "iou_before": round(before.mean(), 4),
            "iou_after": round(after.mean(), 4),
            "lost": int((after < 0.5).sum()),
            "worse": int((after < before - 0.01).sum()),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
