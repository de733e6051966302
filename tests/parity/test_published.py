"""mode="published" against the released package, `segmentation-refinement` 0.6.

The package's procedure takes any network with its calling convention. The quick tests run both
procedures on the same small random network, at the sizes that matter; the slow test runs the
package's own 67.68 M network against ours. tests/models/test_cascadepsp.py compares the networks.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from crispseg.models.cascadepsp import RefinementModule
from crispseg.models.efficientnet import EfficientNetLite
from crispseg.models.weights import LoadedModel
from crispseg.pipeline import load_refiner
from crispseg.refiners.cascade import CascadeRefiner

eval_helper = pytest.importorskip("segmentation_refinement.eval_helper")

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "published_speed.py"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PackageConvention(nn.Module):
    """Our network behind the package's calling convention."""

    def __init__(self, module: RefinementModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, im, seg, inter_s8=None, inter_s4=None):
        logits = self.module(im, seg, inter_s8, inter_s4)
        return {
            "pred_224": logits.s1.sigmoid(),
            "pred_28_3": logits.s8_3.sigmoid(),
            "pred_56_2": logits.s4_3.sigmoid(),
        }


def scene(width: int, height: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image, and a mask with a hole that touches two borders."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3))
    image = image.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)
    mask = (y > 0.3 * height) & (x < 0.7 * width)
    mask &= np.hypot(y - 0.6 * height, x - 0.3 * width) > 0.12 * min(height, width)
    return image, mask


def small_network() -> RefinementModule:
    """The published architecture, narrow and on a small trunk."""
    return RefinementModule(
        EfficientNetLite(in_channels=6, stages=3),
        pyramid_channels=96,
        up_channels=(32, 16, 8),
        head_channels=16,
    )


def lively_network() -> RefinementModule:
    """Weights that are not degenerate: random, then taught for some steps to follow the mask.

    BatchNorm statistics come from real passes, and logits have both signs everywhere.
    """
    torch.manual_seed(0)
    module = small_network().train()
    optimiser = torch.optim.Adam(module.parameters(), 2e-3)
    image, mask = scene(96, 96)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    truth = torch.from_numpy(mask).float()[None, None]
    for step in range(25):
        turned = [torch.rot90(x, step % 4, (2, 3)) for x in (pixels, truth)]
        logits = module(turned[0], turned[1] * 2 - 1)
        loss = sum(
            torch.nn.functional.binary_cross_entropy_with_logits(out, turned[1]) for out in logits
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return module.eval()


def package_result(module: nn.Module, image, mask, *, fast: bool, tile_size: int) -> np.ndarray:
    """What the package computes, before it turns the result into uint8."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    seg = torch.from_numpy(mask).float()[None, None] * 2 - 1
    procedure = eval_helper.process_im_single_pass if fast else eval_helper.process_high_res_im
    with torch.no_grad():
        return procedure(module, pixels, seg, tile_size)[0, 0].numpy()


def our_refiner(module: RefinementModule, *, fast: bool, tile_size: int) -> CascadeRefiner:
    model = LoadedModel(module, MEAN, STD, architecture="cascadepsp-lite", source="random")
    return CascadeRefiner(model, mode="published", fast=fast, tile_size=tile_size, device="cpu")


SIZES = [(640, 480), (1000, 1002), (901, 1399), (2400, 1600)]
CASES = [
    (width, height, tile_size, fast)
    for width, height in SIZES
    for tile_size in (900, 512)
    for fast in (True, False)
]
# Of the larger sizes, what differs from all others; the rest would take half of the suite's time.
QUICK = [*CASES[:4], (1000, 1002, 900, False), (901, 1399, 512, False)]


@pytest.mark.parametrize(
    ("width", "height", "tile_size", "fast"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_same_result_as_the_package(width, height, tile_size, fast) -> None:
    module = lively_network()
    image, mask = scene(width, height)
    expected = package_result(
        PackageConvention(module), image, mask, fast=fast, tile_size=tile_size
    )
    ours = our_refiner(module, fast=fast, tile_size=tile_size).refine(image, mask)
    assert 0.05 < (expected > 0.5).mean() < 0.95  # the comparison means something
    assert ours.shape == mask.shape
    # Same float32 operations; the differences are summation order and the merger's 2^-24 steps.
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    theirs_uint8, ours_uint8 = (expected * 255).astype(np.uint8), np.rint(ours * 255)
    assert np.abs(theirs_uint8.astype(int) - ours_uint8).max() <= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("width", "height", "tile_size"), [(640, 480, 512), (1000, 1002, 512)])
def test_same_bytes_as_the_package_with_the_full_network(
    width, height, tile_size, tmp_path
) -> None:
    """End to end: the package's own class and ours read one file of published layout."""
    # Random weights that follow the mask: a dozen steps of training leave it all on one side.
    benchmark = runpy.run_path(str(BENCHMARK))
    benchmark["write_for_package"](benchmark["random_network"](), tmp_path)
    theirs = benchmark["package_refiner"](tmp_path)
    refiner = load_refiner(tmp_path / "model", mode="published", tile_size=tile_size, device="cpu")
    image, mask = scene(width, height)
    expected = theirs.refine(image, mask.astype(np.uint8) * 255, L=tile_size)
    result = np.rint(refiner.refine(image, mask) * 255)
    assert 0.02 < (expected > 127).mean() < 0.98
    assert np.abs(expected.astype(int) - result).max() <= 1
