"""Draw what the training's coarse masks look like: docs/images/perturbations.jpg.

    python recipes/draw_perturbations.py docs/images/perturbations.jpg

One panel for each kind, at the size of a training crop (192 px, shown enlarged). The photo is the
demo's; the mask taken for true is the demo's polygon after GrabCut, so that the picture depends on
no weights. Green: its outline. Red: what the coarse mask adds; blue: what it lacks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import crispseg
from crispseg.data.perturb import NETWORK_ERRORS, degrade_mask, perturb_mask
from crispseg.io import read_image, read_mask
from crispseg.io.atomic import atomic_path

Bytes = NDArray[np.uint8]
BoolMask = NDArray[np.bool_]

ASSETS = Path(crispseg.__file__).parent / "cli" / "assets"
SEED, COLUMNS, GAP, BAND = 37, 3, 6, 22
SIDE, ENLARGED = 192, 2
RED, BLUE, GREEN = (235, 40, 40), (40, 90, 255), (60, 220, 60)

KINDS: dict[str, Callable[[BoolMask, np.random.Generator], BoolMask]] = {
    "the paper's, to IoU 0.85": partial(perturb_mask, target_iou=0.85),
    **NETWORK_ERRORS,
    "one to three together": degrade_mask,
    "both": lambda mask, rng: perturb_mask(degrade_mask(mask, rng), rng, target_iou=0.8),
}


def panel(image: Bytes, truth: BoolMask, coarse: BoolMask, title: str) -> Bytes:
    """The photo, paled, with what is added and what is missing; a title above."""
    shown = image // 2 + 100
    for wrong, colour in ((coarse & ~truth, RED), (truth & ~coarse, BLUE)):
        shown[wrong] = (0.35 * shown[wrong] + 0.65 * np.array(colour)).astype(np.uint8)
    shown = np.kron(shown, np.ones((ENLARGED, ENLARGED, 1), np.uint8))
    large = np.kron(truth.astype(np.uint8), np.ones((ENLARGED, ENLARGED), np.uint8))
    contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, contours, -1, GREEN, 1)
    band = Image.new("RGB", (shown.shape[1], BAND), "white")
    iou = np.count_nonzero(coarse & truth) / np.count_nonzero(coarse | truth)
    ImageDraw.Draw(band).text(
        (2, 3), f"{title}   (IoU {iou:.2f})", "black", ImageFont.load_default(14)
    )
    return np.vstack([np.array(band), shown])


def tightened(image: Bytes, rough: BoolMask) -> BoolMask:
    """GrabCut within 12 px of a rough mask's edge; the largest piece, without holes."""
    solid, reach = rough.astype(np.uint8), np.ones((25, 25), np.uint8)
    labels = np.where(rough, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.erode(solid, reach) > 0] = cv2.GC_FGD
    labels[cv2.dilate(solid, reach) == 0] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image[..., ::-1].copy(), labels, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    outlines, _ = cv2.findContours(found, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=cv2.contourArea)
    return cv2.drawContours(np.zeros_like(solid), [largest], -1, 1, cv2.FILLED) > 0


def main() -> None:
    """Parse the command line and write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    image, rough = read_image(ASSETS / "photo.jpg"), read_mask(ASSETS / "rough.png")
    truth = tightened(image, rough > 0.5)
    size = (SIDE, SIDE)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    truth = cv2.resize(truth.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    panels = [
        panel(image, truth, make(truth, np.random.default_rng(SEED)), title)
        for title, make in KINDS.items()
    ]
    rows = [
        np.hstack([np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in row])
        for row in (panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS))
    ]
    with atomic_path(options.out) as path:
        Image.fromarray(np.vstack(rows)).save(path, "JPEG", quality=85)


if __name__ == "__main__":
    main()
