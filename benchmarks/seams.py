"""How far the result moves when the tile grid shifts: the bundled model on three made edges.

    .venv/bin/python benchmarks/seams.py
    .venv/bin/python benchmarks/seams.py --photo

A straight, a curved and a textured edge, each with a rough mask that is 6 px off, are refined with
tiles of 256 px; then again without their first 1 .. 128 rows and columns, in 16 steps, which moves
every tile. For each edge it prints, over all shifts and away from the image's border, the largest
mean distance that the edge has moved (pixels whose binary value differs, for each pixel of edge)
and how far the farthest of these pixels is from the true edge; 0.5 px and 8 px are allowed.

With --photo it is the demo's photo, enlarged three times, in tiles of 384 px and without its first
40 rows and columns: it prints the largest and mean difference of the probabilities, and the share
of pixels whose binary value differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import crispseg

ASSETS = Path(crispseg.__file__).parent / "cli" / "assets"
FACTOR, SHIFT, PHOTO_TILE_SIZE, PHOTO_AWAY = 3, 40, 384, 64

TILE_SIZE, SHIFTS, AWAY = 256, 16, 48
SIDE, OFF_PX = 640, 6
ALLOWED_MOVE_PX, ALLOWED_REACH_PX = 0.5, 8


def straight(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Signed distance to the edge in pixels, positive inside."""
    return (x - 0.2 * y - 0.45 * SIDE) / np.hypot(1, 0.2)


def curved(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return 0.3 * SIDE - np.hypot(y - 0.55 * SIDE, x - 0.55 * SIDE)


EDGES = {"straight": straight, "curved": curved, "textured": straight}


def scene(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, rough mask and distance to the true edge; SIDE + half a tile each way."""
    side = SIDE + TILE_SIZE // 2
    y, x = np.mgrid[:side, :side] + 0.5
    distance = EDGES[name](y, x)
    rough = EDGES[name](y - OFF_PX, x - OFF_PX) > 0
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 6, (side, side))
    if name == "textured":
        cells = rng.normal(0, 30, (side // 6 + 1, side // 6 + 1))
        grain += cells.repeat(6, 0).repeat(6, 1)[:side, :side]
    base = np.where((distance > 0)[..., None], (180, 140, 90), (70, 90, 120))
    image = np.clip(base + grain[..., None], 0, 255).astype(np.uint8)
    return image, rough, distance


def measure(name: str, shifts: list[int]) -> dict:
    image, rough, distance = scene(name)
    refiner = crispseg.load_refiner(tile_size=TILE_SIZE, device="cpu")

    def refined(shift: int) -> np.ndarray:
        part = slice(shift, shift + SIDE)
        result = refiner.refine(
            np.ascontiguousarray(image[part, part]), np.ascontiguousarray(rough[part, part])
        )
        whole = np.zeros(distance.shape)
        whole[part, part] = result
        return whole > 0.5

    first = refined(0)
    moves, reaches = [], []
    for shift in shifts:
        inner = np.s_[shift + AWAY : SIDE - AWAY, shift + AWAY : SIDE - AWAY]
        differs = (first != refined(shift))[inner]
        near = np.abs(distance[inner])
        edge_px = np.count_nonzero(near < 0.5)
        moves.append(np.count_nonzero(differs) / edge_px)
        reaches.append(float(near[differs].max(initial=0)))
    return {
        "edge": name,
        "shifts": len(shifts),
        "largest_mean_move_px": round(max(moves), 3),
        "mean_move_px": round(float(np.mean(moves)), 3),
        "farthest_from_true_edge_px": round(max(reaches), 2),
    }


def enlarged(name: str, mode: str) -> np.ndarray:
    with Image.open(ASSETS / name) as picture:
        size = (picture.width * FACTOR, picture.height * FACTOR)
        return np.asarray(picture.convert(mode).resize(size, Image.Resampling.BICUBIC))


def measure_photo() -> dict:
    image, mask = enlarged("photo.jpg", "RGB"), enlarged("rough.png", "L")
    refiner = crispseg.load_refiner(tile_size=PHOTO_TILE_SIZE)
    inner = np.s_[PHOTO_AWAY:, PHOTO_AWAY:]
    whole = refiner.refine(image, mask)[SHIFT:, SHIFT:][inner]
    cut = np.ascontiguousarray(image[SHIFT:, SHIFT:]), np.ascontiguousarray(mask[SHIFT:, SHIFT:])
    shifted = refiner.refine(*cut)[inner]
    difference = np.abs(whole - shifted)
    band = (whole > 0.05) & (whole < 0.95)
    return {
        "mean": float(difference.mean()),
        "mean_near_edges": float(difference[band].mean()),
        "largest": float(difference.max()),
        "binary_share": float(((whole > 0.5) != (shifted > 0.5)).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=SHIFTS)
    parser.add_argument("--edges", nargs="+", default=list(EDGES), choices=list(EDGES))
    parser.add_argument("--photo", action="store_true")
    options = parser.parse_args()
    if options.photo:
        print(json.dumps(measure_photo()))
        return
    shifts = np.unique(np.linspace(1, TILE_SIZE // 2, options.steps).round().astype(int)).tolist()
    rows = [measure(name, shifts) for name in options.edges]
    moved = max(row["largest_mean_move_px"] for row in rows)
    reached = max(row["farthest_from_true_edge_px"] for row in rows)
    print(json.dumps(rows))
    sys.exit(int(moved > ALLOWED_MOVE_PX or reached > ALLOWED_REACH_PX))


if __name__ == "__main__":
    main()
