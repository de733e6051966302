"""The loss against plain NumPy, written from the specification."""

from __future__ import annotations

import numpy as np
import torch

from crispseg.models.cascadepsp import CascadeLogits
from crispseg.train.losses import cascade_loss


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def magnitude(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, 1)
    height, width = x.shape
    mean = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    padded = np.pad(mean, 1)
    gx, gy = (
        sum(k[i, j] * padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
        for k in (kernel, kernel.T)
    )
    return np.sqrt(gx**2 + gy**2 + 1e-4)


def brute_force(outputs: list[np.ndarray | None], truth: np.ndarray) -> float:
    total = 0.0
    ce, l1, l2 = [0, 1, 0.5, 1, 1, 0.5], [1, 0, 0.25, 0, 0, 0.25], [1, 0, 0.25, 0, 0, 0.25]
    hard = truth > 0.5
    for i, logits in enumerate(outputs):
        if logits is None:
            continue
        p = sigmoid(logits)
        total += ce[i] * -np.where(hard, np.log(p), np.log(1 - p)).mean()
        total += l1[i] * np.abs(p - truth).mean() + l2[i] * ((p - truth) ** 2).mean()
    difference = [
        np.abs(magnitude(sigmoid(a)) - magnitude(t)).mean()
        for a, t in zip(outputs[0][:, 0], truth[:, 0], strict=True)
    ]
    return total + 5 * float(np.mean(difference))


def test_equal_to_brute_force_with_and_without_skipped_runs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((2, 1, 9, 12))
    outputs = [rng.normal(0, 2, truth.shape) for _ in range(6)]
    for skipped in ([], [1], [1, 2, 3]):
        given = [None if i in skipped else out for i, out in enumerate(outputs)]
        logits = CascadeLogits(*(None if g is None else torch.from_numpy(g) for g in given))
        total, parts = cascade_loss(logits, torch.from_numpy(truth))
        np.testing.assert_allclose(float(total), brute_force(given, truth), rtol=1e-10)
        np.testing.assert_allclose(sum(float(p) for p in parts.values()), float(total))


def test_a_perfect_answer_costs_almost_nothing() -> None:
    truth = (torch.rand(1, 1, 16, 16) > 0.5).float()
    logits = (truth * 2 - 1) * 30
    total, _ = cascade_loss(CascadeLogits(*[logits] * 6), truth)
    assert float(total) < 1e-5
