"""How far the result moves when the tile grid shifts: the bundled model on the demo's photo.

    .venv/bin/python benchmarks/seams.py

The photo is enlarged three times and refined with tiles of 384 px, whole and with its first 40 rows
and columns cut off, which moves every tile. Prints the largest and mean difference of the
probabilities, and the share of pixels whose binary value differs, away from the cut.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

import crispseg

ASSETS = Path(crispseg.__file__).parent / "cli" / "assets"
FACTOR, SHIFT, TILE_SIZE, AWAY = 3, 40, 384, 64


def enlarged(name: str, mode: str) -> np.ndarray:
    with Image.open(ASSETS / name) as picture:
        size = (picture.width * FACTOR, picture.height * FACTOR)
        return np.asarray(picture.convert(mode).resize(size, Image.Resampling.BICUBIC))


def main() -> None:
    image, mask = enlarged("photo.jpg", "RGB"), enlarged("rough.png", "L")
    refiner = crispseg.load_refiner(tile_size=TILE_SIZE)
    whole = refiner.refine(image, mask)[SHIFT:, SHIFT:][AWAY:, AWAY:]
    cut = np.ascontiguousarray(image[SHIFT:, SHIFT:]), np.ascontiguousarray(mask[SHIFT:, SHIFT:])
    shifted = refiner.refine(*cut)[AWAY:, AWAY:]
    difference = np.abs(whole - shifted)
    band = (whole > 0.05) & (whole < 0.95)
    figures = {
        "mean": float(difference.mean()),
        "mean_near_edges": float(difference[band].mean()),
        "largest": float(difference.max()),
        "binary_share": float(((whole > 0.5) != (shifted > 0.5)).mean()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
