"""DenseCRF, guided filter and boundary offset: closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from crispseg.refiners.bilateral import SparseGrid, exact_filter
from crispseg.refiners.classical import (
    BoundaryOffset,
    ClassicalRefiner,
    DenseCrf,
    GuidedFilter,
    box_mean,
    near_boundary,
)
from crispseg.types import Box, InputError

Array = np.ndarray
METHODS = [DenseCrf(), GuidedFilter(radius=6, epsilon=1e-4), BoundaryOffset(width_px=3)]


def scene(height: int = 30, width: int = 40) -> tuple[Array, Array, Array]:
    """Noisy image of two colours, coarse mask whose edge is 3 px off, true mask."""
    truth = np.zeros((height, width), bool)
    truth[:, width // 2 :] = True
    coarse = np.zeros_like(truth)
    coarse[:, width // 2 + 3 :] = True
    noise = np.random.default_rng(0).integers(-8, 8, (height, width, 3))
    image = np.where(truth[..., None], (200, 60, 40), (60, 120, 180)) + noise
    return image.astype(np.uint8), coarse, truth


def test_grid_filters_nearly_as_every_pixel_with_every_other() -> None:
    image, *_ = scene(18, 26)
    rng = np.random.default_rng(1)
    for crf in (DenseCrf(), DenseCrf(smooth_px=2, position_px=10, colour=30)):
        for features in crf.features(image):
            values = rng.random((3, len(features)), np.float32)
            ones = np.ones((1, len(features)), np.float32)
            grid = SparseGrid(features)
            found = grid.filter(values) / grid.filter(ones)
            exact = exact_filter(features, values) / exact_filter(features, ones)
            # Means of noise: exact ones vary by about 0.05, ours follow them.
            assert np.abs(found - exact).max() < 0.03
            # The shape of the kernel is nearly a Gaussian's: total weights rise and fall alike.
            ratio = grid.filter(ones) / exact_filter(features, ones)
            assert ratio.std() / ratio.mean() < 0.2


def test_mean_field_with_the_grid_is_that_with_exact_kernels() -> None:
    image, coarse, truth = scene(18, 26)
    crf = DenseCrf(position_px=20)
    probabilities = np.stack([np.where(coarse, 0.1, 0.9), np.where(coarse, 0.9, 0.1)])
    probabilities = probabilities.astype(np.float32)
    smooth, both = crf.features(image)
    exact = crf.mean_field(
        probabilities, (lambda v: exact_filter(smooth, v), lambda v: exact_filter(both, v))
    )
    found = crf.improve(image, probabilities)
    assert np.array_equal(exact[1] > 0.5, truth)
    assert ((found[1] > 0.5) == (exact[1] > 0.5)).mean() > 0.99


def test_one_step_of_the_mean_field_by_hand() -> None:
    # Two pixels, kernels that sum both: K' has 1/2 everywhere.
    crf = DenseCrf(iterations=1, smooth_weight=2.0, colour_weight=0.0)
    given = np.array([[[0.8, 0.4]], [[0.2, 0.6]]], np.float32)
    found = crf.mean_field(given, (lambda v: v @ np.ones((2, 2), np.float32), lambda v: v))
    logits = np.log(given[:, 0]) + 2 * given[:, 0].mean(axis=1, keepdims=True)
    expected = np.exp(logits) / np.exp(logits).sum(axis=0)
    assert np.allclose(found[:, 0], expected, atol=1e-5)


def test_guided_filter_gives_back_a_linear_function_of_the_colours() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 25, 3), dtype=np.uint8)
    guide = np.moveaxis(image / 255, -1, 0)
    linear = (0.2 * guide[0] - 0.1 * guide[1] + 0.4 * guide[2] + 0.1)[None]
    found = GuidedFilter(radius=3, epsilon=1e-12).filter(guide, linear)
    assert np.abs(found - linear).max() < 1e-6


def test_guided_filter_is_a_box_filter_without_an_image() -> None:
    # A flat guide has no slope: means of means.
    values = np.random.default_rng(0).random((1, 20, 22))
    found = GuidedFilter(radius=2, epsilon=1e-3).filter(np.full((3, 20, 22), 0.5), values)
    assert np.allclose(found, box_mean(box_mean(values, 2), 2), atol=1e-6)


def test_guided_filter_is_the_papers_regression() -> None:
    rng = np.random.default_rng(3)
    guide, values = rng.random((3, 9, 8)), rng.random((1, 9, 8))
    radius, epsilon = 2, 0.01
    slopes, offsets = np.zeros((3, 9, 8)), np.zeros((9, 8))
    for y in range(9):
        for x in range(8):
            window = np.s_[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
            colours, targets = guide[:, *window].reshape(3, -1), values[0][window].ravel()
            centred = colours - colours.mean(axis=1, keepdims=True)
            matrix = centred @ centred.T / len(targets) + epsilon * np.eye(3)
            slope = np.linalg.solve(matrix, centred @ (targets - targets.mean()) / len(targets))
            slopes[:, y, x] = slope
            offsets[y, x] = targets.mean() - slope @ colours.mean(axis=1)
    expected = (box_mean(slopes, 2) * guide).sum(axis=0) + box_mean(offsets[None], 2)[0]
    assert np.allclose(
        GuidedFilter(radius=radius, epsilon=epsilon).filter(guide, values)[0], expected
    )


def test_box_mean_by_hand() -> None:
    values = np.arange(5.0).reshape(1, 1, 5)
    assert box_mean(values, 1).ravel().tolist() == [0.5, 1, 2, 3, 3.5]


def test_band_around_a_boundary_by_hand() -> None:
    labels = np.array([[0, 0, 0, 0, 5, 5, 5, 5]])
    assert near_boundary(labels, 2).astype(int).tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_every_method_moves_the_mask_to_the_edge(method: ClassicalRefiner) -> None:
    image, coarse, truth = scene()
    given, pixels = coarse.copy(), image.copy()
    found = method.refine(image, coarse)
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    wrong = ((found > 0.5) != truth).mean()
    assert wrong < 0.5 * (coarse != truth).mean()
    assert np.array_equal(coarse, given) and np.array_equal(image, pixels)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_label_maps_keep_void_and_know_no_new_labels(method: ClassicalRefiner) -> None:
    image, coarse, truth = scene()
    labels = np.where(coarse, 300, 7).astype(np.uint16)
    labels[:10, :12] = 65535
    found = method.refine_labels(image, labels, ignore_index=65535)
    assert found.dtype == np.uint16
    assert np.array_equal(found == 65535, labels == 65535)
    assert set(np.unique(found)) == {7, 300, 65535}
    assert ((found == 300) != truth).mean() < 0.5 * ((labels == 300) != truth).mean()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_empty_full_and_roi(method: ClassicalRefiner) -> None:
    image, coarse, _ = scene()
    assert not method.refine(image, np.zeros_like(coarse)).any()
    assert method.refine(image, np.ones_like(coarse)).all()
    found = method.refine(image, coarse, roi=Box(0, 0, 10, 40))
    assert np.array_equal(found[10:] > 0.5, coarse[10:])
    assert not np.array_equal(found[:10] > 0.5, coarse[:10])
    with pytest.raises(InputError, match="ROI"):
        method.refine(image, coarse, roi=Box(0, 0, 99, 40))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DenseCrf(certainty=1.0),
        lambda: GuidedFilter(radius=0),
        lambda: BoundaryOffset(width_px=0),
    ],
)
def test_settings_are_checked(make) -> None:
    with pytest.raises(InputError):
        make()
