"""The loss against explicit loops over pixels, written from the specification."""

from __future__ import annotations

import math

import numpy as np
import torch

from crispseg.models.cascadepsp import CascadeLogits
from crispseg.train.losses import cascade_loss, gradient_magnitude

# In the order s1, s8_1, s4_2, s8_2, s8_3, s4_3.
CE = (0, 1, 0.5, 1, 1, 0.5)
L1 = (1, 0, 0.25, 0, 0, 0.25)
L2 = (1, 0, 0.25, 0, 0, 0.25)


def magnitude(picture: list[list[float]]) -> list[list[float]]:
    """3x3 mean, Sobel / 4, sqrt(gx^2 + gy^2 + 1e-4); zeros outside the picture, each time."""
    height, width = len(picture), len(picture[0])

    def at(values: list[list[float]], y: int, x: int) -> float:
        return values[y][x] if 0 <= y < height and 0 <= x < width else 0.0

    def over(values: list[list[float]], kernel: list[list[float]]) -> list[list[float]]:
        out = [[0.0] * width for _ in range(height)]
        for y in range(height):
            for x in range(width):
                for i in range(3):
                    for j in range(3):
                        out[y][x] += kernel[i][j] * at(values, y + i - 1, x + j - 1)
        return out

    mean = over(picture, [[1 / 9] * 3] * 3)
    gx = over(mean, [[-0.25, 0, 0.25], [-0.5, 0, 0.5], [-0.25, 0, 0.25]])
    gy = over(mean, [[-0.25, -0.5, -0.25], [0, 0, 0], [0.25, 0.5, 0.25]])
    return [
        [math.sqrt(gx[y][x] ** 2 + gy[y][x] ** 2 + 1e-4) for x in range(width)]
        for y in range(height)
    ]


def brute_force(outputs: list[np.ndarray | None], truth: np.ndarray) -> dict[str, float]:
    """Every pixel of every output on its own; all are (N, H, W)."""
    count, height, width = truth.shape
    parts = {"ce": 0.0, "l1_l2": 0.0, "gradient": 0.0}
    for k, logits in enumerate(outputs):
        for index in np.ndindex(truth.shape) if logits is not None else ():
            p, t = 1 / (1 + math.exp(-logits[index])), truth[index]
            parts["ce"] -= CE[k] * math.log(p if t > 0.5 else 1 - p) / truth.size
            parts["l1_l2"] += (L1[k] * abs(p - t) + L2[k] * (p - t) ** 2) / truth.size
    for n in range(count):
        probability = [[1 / (1 + math.exp(-v)) for v in row] for row in outputs[0][n].tolist()]
        ours, theirs = magnitude(probability), magnitude(truth[n].tolist())
        for y in range(height):
            for x in range(width):
                parts["gradient"] += 5 * abs(ours[y][x] - theirs[y][x]) / truth.size
    return parts


def test_equal_to_brute_force_with_and_without_skipped_runs() -> None:
    """float64 to 1e-10: sums of some hundred terms. float32, which trains: to 1e-5."""
    rng = np.random.default_rng(0)
    truth = rng.random((2, 9, 12))
    outputs = [rng.normal(0, 2, truth.shape) for _ in range(6)]
    for skipped in ([], [1], [1, 2, 3]):
        given = [None if i in skipped else out for i, out in enumerate(outputs)]
        expected = brute_force(given, truth)
        for kind, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            tensors = [None if g is None else torch.tensor(g, dtype=kind)[:, None] for g in given]
            total, parts = cascade_loss(
                CascadeLogits(*tensors), torch.tensor(truth, dtype=kind)[:, None]
            )
            assert list(parts) == list(expected)
            np.testing.assert_allclose(float(total), sum(expected.values()), rtol=tolerance)
            for name, value in expected.items():
                np.testing.assert_allclose(float(parts[name]), value, rtol=tolerance)


def test_gradient_magnitude_of_a_step_by_hand() -> None:
    """Far from the border, a step from 0 to 1: mean 0, 1/3, 2/3, 1; Sobel / 4 spans two columns."""
    step = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    step[..., 6:] = 1
    row = gradient_magnitude(step)[0, 0, 6].tolist()
    slopes = {3: 0.0, 4: 1 / 3, 5: 2 / 3, 6: 2 / 3, 7: 1 / 3, 8: 0.0}
    for x, slope in slopes.items():
        assert math.isclose(row[x], math.sqrt(slope**2 + 1e-4), rel_tol=1e-12)


def test_a_perfect_answer_costs_almost_nothing() -> None:
    truth = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    logits = (truth * 2 - 1) * 30
    total, _ = cascade_loss(CascadeLogits(*[logits] * 6), truth)
    assert float(total) < 1e-5


def test_a_mean_over_samples_so_that_processes_can_share_a_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(4, 1, 8, 8, generator=generator)
    logits = [torch.randn(4, 1, 8, 8, generator=generator) for _ in range(6)]
    whole, _ = cascade_loss(CascadeLogits(*logits), truth)
    halves = [
        cascade_loss(CascadeLogits(*(x[part] for x in logits)), truth[part])[0]
        for part in (slice(2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(halves) / 2, whole)
