r"""Fit bias, temperature and guard of a refiner on validation images, and write them into it.

    python recipes/fit_guard.py WEIGHTS --cases .data/validation/* [--output WEIGHTS] [--bias-only]

Each folder of cases has ``images/``, ``coarse/`` and ``truth/`` (``recipes/make_test_sets.py``);
none of its objects may be in the training split or in a test set.

* Bias: the logit above which a pixel is object, of images that are not enlarged; the one with the
  highest mBA (released code's radii), mean over the folders, of ``BIASES``.
* Temperature: minimises the cross entropy of the pixels within 8 px of the refined edge, where
  probabilities are neither 0 nor 1 (Guo et al., ICML 2017).
* Guard: logistic regression on ``crispseg.refiners.guard.FEATURES`` of every connected change that
  is large enough; the target is the share of its pixels that are right, its weight the root of its
  size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crispseg.evaluation.cases import Case, find_cases
from crispseg.evaluation.scores import score_masks
from crispseg.io import read_image, read_mask
from crispseg.metrics.bands import boundary_band
from crispseg.metrics.boundary import intersection_over_union
from crispseg.metrics.calibration import CalibrationBins
from crispseg.models.weights import LoadedModel, load_model, save_weights
from crispseg.refiners.cascade import TILE_SIZE, CascadeRefiner
from crispseg.refiners.guard import FEATURES, calibrate, find_changes, judged, keep_better
from crispseg.refiners.local import enlarged_by

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Result = tuple[Flags, NDArray[np.float32], Flags]  # given mask, raw probabilities, truth

BAND_PX = 8
BIASES = np.arange(-10, 11) / 10
PIXELS_PER_CASE = 20_000
RIDGE = 1e-3


def main() -> None:
    """Parse the command line, refine, fit, report, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--cases", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, help="instead of changing WEIGHTS")
    parser.add_argument("--bias-only", action="store_true", help="keep temperature and guard")
    options = parser.parse_args()
    model = load_model(options.weights)
    folders = [list(refined(model, folder)) for folder in options.cases]
    known = {k: v for k, v in model.metadata.items() if k not in ("architecture", "mean", "std")}
    bias = fit_bias(folders)
    known["bias"] = f"{bias:.2f}"
    if not options.bias_only:
        results = [(g, unbiased(g, p, bias), truth) for cases in folders for g, p, truth in cases]
        temperature = fit_temperature(results)
        weights = fit_guard(results, temperature)
        report(results, temperature, weights)
        guard = {n: round(float(w), 4) for n, w in zip(FEATURES, weights, strict=True)}
        known |= {"temperature": f"{temperature:.4f}", "guard": json.dumps(guard)}
    save_weights(
        options.output or options.weights,
        model.module,
        architecture=model.architecture,
        mean=model.mean,
        std=model.std,
        metadata=known,
    )


def refined(model: LoadedModel, folder: Path) -> Iterator[Result]:
    """Given mask, raw probabilities and truth of every case."""
    refiner = CascadeRefiner(replace(model, metadata={}))
    for case in cases_of(folder):
        image, given = read_image(case.image), read_mask(case.coarse) > 0.5
        yield given, refiner.refine(image, given), read_mask(case.truth) > 0.5
    print(f"refined {folder}", flush=True)


def cases_of(folder: Path) -> list[Case]:
    """Images with masks in the three folders of a set."""
    return find_cases(folder / "images", folder / "coarse", folder / "truth")[0]


def unbiased(given: Flags, probability: NDArray[np.float32], bias: float) -> NDArray[np.float32]:
    """Probabilities with the bias taken off their logits, where the refiner does."""
    if enlarged_by(given, TILE_SIZE) > 1:
        return probability
    odds = probability / np.maximum(1 - probability, 1e-30) * np.float32(np.exp(-bias))
    return np.asarray(odds / (1 + odds), np.float32)


def fit_bias(folders: list[list[Result]]) -> float:
    """Of ``BIASES`` the one with the highest mBA, mean over folders, of what is not enlarged."""
    rows = []
    for results in folders:
        scores = [
            [row.mba_released for row in score_masks([p > 1 / (1 + np.exp(-b)) for b in BIASES], t)]
            for given, p, t in results
            if enlarged_by(given, TILE_SIZE) == 1
        ]
        if scores:
            rows.append(np.mean(scores, axis=0))
    if not rows:
        print("bias 0: every image is enlarged")
        return 0.0
    found = 100 * np.mean(rows, axis=0)
    chosen = int(found.argmax())
    print(
        f"bias {BIASES[chosen]:.1f}: mBA {found[chosen]:.2f}, without {found[BIASES == 0][0]:.2f}"
    )
    return float(BIASES[chosen])


def edge_pixels(results: list[Result]) -> tuple[Floats, Flags]:
    """Logits and truth of pixels near the refined edges, at most PIXELS_PER_CASE of each case."""
    rng = np.random.default_rng(0)
    logits, truths = [], []
    for _, probability, truth in results:
        band = np.flatnonzero(boundary_band(probability > 0.5, BAND_PX))
        chosen = rng.choice(band, min(len(band), PIXELS_PER_CASE), replace=False)
        p = np.clip(probability.ravel()[chosen].astype(np.float64), 1e-6, 1 - 1e-6)
        logits.append(np.log(p / (1 - p)))
        truths.append(truth.ravel()[chosen])
    return np.concatenate(logits), np.concatenate(truths)


def fit_temperature(results: list[Result]) -> float:
    """The temperature of least cross entropy, by golden section over its logarithm."""
    logits, truth = edge_pixels(results)
    if not len(logits):
        raise SystemExit("nothing to fit: the refined masks have no edge; is this model trained?")
    signed = np.where(truth, logits, -logits)

    def cost(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).mean())

    low, high, ratio = np.log(0.2), np.log(10.0), (np.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, second) if cost(first) < cost(second) else (first, high)
    return float(np.exp((low + high) / 2))


def fit_guard(results: list[Result], temperature: float) -> Floats:
    """Weights of FEATURES by Newton's method."""
    features, shares, sizes = [], [], []
    for given, raw, truth in results:
        changes = find_changes(given, calibrate(raw, temperature))
        right = np.bincount(changes.label[truth != given], minlength=len(changes.pixels) + 1)[1:]
        large = judged(changes.features)
        features.append(changes.features[large])
        shares.append(right[large] / changes.pixels[large])
        sizes.append(changes.pixels[large])
    x, y = np.concatenate(features), np.concatenate(shares)
    weight = np.sqrt(np.concatenate(sizes))
    if not len(y):
        raise SystemExit("nothing to fit: the model changed no mask by more than a few pixels")
    weights = np.zeros(len(FEATURES))
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (weight * (y - p)) - RIDGE * weights
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(len(FEATURES))
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    print(f"{len(y)} changes, {100 * np.average(y, weights=weight):.1f} % right")
    return weights


def report(results: list[Result], temperature: float, weights: Floats) -> None:
    """Print what both do on the images they were fitted on."""
    rows: list[tuple[float, ...]] = []
    bins = {"raw": CalibrationBins(), "calibrated": CalibrationBins()}
    for given, raw, truth in results:
        honest = calibrate(raw, temperature)
        bins["raw"].add(raw, truth)
        bins["calibrated"].add(honest, truth)
        guarded, _ = keep_better(given, honest, tuple(weights))
        rows.append(tuple(intersection_over_union(m > 0.5, truth) for m in (given, raw, guarded)))
    given_iou, raw_iou, guarded_iou = 100 * np.array(rows).T
    print(f"temperature {temperature:.3f}; guard {dict(zip(FEATURES, weights, strict=True))}")
    for name, found in bins.items():
        print(f"expected calibration error, {name}: {100 * found.expected_calibration_error():.2f}")
    for name, after in (("unguarded", raw_iou), ("guarded", guarded_iou)):
        change = after - given_iou
        print(
            f"{name}: IoU {given_iou.mean():.2f} -> {after.mean():.2f}, worst {change.min():+.2f}, "
            f"fifth percentile {np.percentile(change, 5):+.2f}, worse by 1: {(change < -1).sum()}"
        )


if __name__ == "__main__":
    main()
