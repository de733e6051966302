"""Where tiles meet: nothing may show the grid (promise 5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cascade import disc, refiner
from torch import Tensor
from torch.nn import functional as F

import crispseg
from crispseg.models.zoo import KNOWN, local_file

TILE = 256
RAMP = TILE // 4 - 2 * 16


def test_tiles_that_disagree_leave_no_step() -> None:
    """The worst network there is: every tile answers with another constant."""
    calls = iter(range(10_000))

    def moody(image: Tensor, seg: Tensor) -> Tensor:
        return torch.full_like(seg, next(calls) % 2 * 0.98 + 0.01)

    size = (900, 1000)
    mask = np.zeros(size, bool)
    mask[::2] = True  # an edge everywhere, so that every tile is run
    result = refiner(moody, tile_size=TILE).refine(np.zeros((*size, 3), np.uint8), mask)
    assert result.std() > 0.2
    for axis in (0, 1):
        # One pixel further, the mix changes by one step of the ramp, on either side of a tile.
        assert np.abs(np.diff(result, axis=axis)).max() < 2.2 / RAMP


def test_a_shifted_grid_gives_the_same_result() -> None:
    """A network that looks 12 px far cannot know where its tile lies."""

    def local_average(image: Tensor, seg: Tensor) -> Tensor:
        return F.avg_pool2d((image[:, :1] + 1) / 2, 25, 1, 12, count_include_pad=False)

    rng = np.random.default_rng(0)
    size = (700, 800)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = disc(*size, 200, 350, 400) ^ (rng.random(size) < 0.02)
    model = refiner(local_average, tile_size=TILE)
    whole = model.refine(image, mask)
    for shift in (1, 37, 100):
        shifted = model.refine(image[shift:, shift:], mask[shift:, shift:])
        inner = np.s_[16:-16, 16:-16]
        np.testing.assert_allclose(whole[shift:, shift:][inner], shifted[inner], atol=1e-5)


@pytest.mark.skipif(
    local_file(KNOWN["cascadepsp-lite"]) is None, reason="the bundled model is not there"
)
def test_a_shifted_grid_changes_little_with_the_bundled_model() -> None:
    """The bound that docs/architecture.md states: 0.5 % of the pixels."""
    assets = Path(crispseg.__file__).parent / "cli" / "assets"
    with Image.open(assets / "photo.jpg") as picture:
        image = np.asarray(picture.resize((1024, 1024)))
    with Image.open(assets / "rough.png") as picture:
        mask = np.asarray(picture.resize((1024, 1024)))
    model = crispseg.load_refiner(tile_size=384, device="cpu")
    whole = model.refine(image, mask)[40:, 40:]
    shifted = model.refine(image[40:, 40:].copy(), mask[40:, 40:].copy())
    inner = np.s_[64:, 64:]
    assert ((whole > 0.5) != (shifted > 0.5))[inner].mean() < 0.005
