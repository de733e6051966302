"""Resizing by windows against PyTorch's whole-image resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from crispseg.tiling.resample import bilinear_window, resize_area
from crispseg.types import Box, Size

SHAPES = [((37, 53), (10, 7)), ((64, 64), (16, 16)), ((5, 900), (1, 13)), ((20, 20), (20, 20))]


@pytest.mark.parametrize(("shape", "size"), SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool, np.float32])
@pytest.mark.parametrize("channels", [None, 3])
def test_area_equals_pytorch(shape, size, dtype, channels) -> None:
    rng = np.random.default_rng(0)
    full = (*shape, channels) if channels else shape
    array = (rng.random(full) * (60000 if dtype == np.uint16 else 1.99)).astype(dtype)
    result = resize_area(array, Size(*size))
    tensor = torch.from_numpy(np.atleast_3d(array).astype(np.float64)).permute(2, 0, 1)[None]
    expected = F.interpolate(tensor, size=size, mode="area")[0].permute(1, 2, 0).numpy()
    assert result.dtype == np.float32
    np.testing.assert_allclose(np.atleast_3d(result), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("small", "size"), [((7, 9), (30, 50)), ((1, 4), (3, 17)), ((6, 6), (6, 6))]
)
def test_windows_equal_pytorch(small, size) -> None:
    array = np.random.default_rng(0).random(small, dtype=np.float32)
    whole = F.interpolate(
        torch.from_numpy(array)[None, None], size=size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    rng = np.random.default_rng(1)
    for _ in range(20):
        y0, x0 = rng.integers(size[0]), rng.integers(size[1])
        y1, x1 = rng.integers(y0, size[0]) + 1, rng.integers(x0, size[1]) + 1
        box = Box(int(y0), int(x0), int(y1), int(x1))
        window = bilinear_window(array, Size(*size), box)
        np.testing.assert_allclose(window, whole[box.slices], atol=2e-6)


def test_constants_stay_exact_and_results_are_copies() -> None:
    array = np.full((3, 5), 0.3, np.float32)
    assert (bilinear_window(array, Size(100, 77), Box(5, 6, 90, 70)) == np.float32(0.3)).all()
    same = bilinear_window(array, Size(3, 5), Box(0, 0, 3, 5))
    same[:] = 0
    assert (array == np.float32(0.3)).all()
