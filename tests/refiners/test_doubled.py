"""Blocks of an image at twice its size against the enlarged image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from crispseg.models.build import build
from crispseg.models.weights import LoadedModel
from crispseg.refiners.doubled import DoubledImage
from crispseg.refiners.network import CascadeNetwork
from crispseg.tiling.bilinear import bilinear_window
from crispseg.types import Box, Size
from lively import lively

SMALL = Size(13, 17)
BOXES = [
    Box(0, 0, 26, 34),
    Box(4, 2, 20, 30),
    Box(3, 5, 17, 25),
    Box(2, 1, 11, 30),
    Box(25, 33, 26, 34),
    Box(0, 0, 1, 1),
]


@pytest.mark.parametrize("box", BOXES, ids=str)
def test_blocks_are_those_of_the_enlarged_image(box: Box) -> None:
    """To float32's rounding of values near 1; an odd side ends with zeros."""
    image = torch.randn(1, 3, *SMALL, generator=torch.Generator().manual_seed(0))
    image = image.contiguous(memory_format=torch.channels_last)
    window = bilinear_window(image[0].numpy(), Size(26, 34), box)
    window = np.pad(window, ((0, 0), (0, box.height % 2), (0, box.width % 2)))
    expected = F.pixel_unshuffle(torch.from_numpy(window)[None], 2)
    found = DoubledImage(image).blocks(box)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-6
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("box", [Box(0, 0, 96, 128), Box(7, 12, 78, 113)], ids=str)
def test_network_finds_the_same_in_blocks(box: Box) -> None:
    torch.manual_seed(0)
    module = build("cascadepsp-lite")
    with torch.no_grad():
        module.head_s1.weight *= 10
    module = lively(module, largest=1.2, negative_every=7)
    model = LoadedModel(module, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "cascadepsp-lite", "a test")
    network = CascadeNetwork(model, torch.device("cpu"), published=False, precision="exact")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    mask = rng.random(box.size, np.float32) * 2 - 1
    blocks = network.enlarged(image, 255.0, Size(96, 128))(box)
    assert blocks.shape[1] == 12
    planes = network.planes(image, 255.0)
    pixels = torch.from_numpy(bilinear_window(planes, Size(96, 128), box)[None])
    [found] = network.probabilities([blocks], [[mask]])
    [expected] = network.probabilities([pixels], [[mask]])
    assert found.shape == (2, *box.size)
    assert np.ptp(expected) > 0.1
    assert np.abs(found - expected).max() < 1e-4
