"""Every kind of network that we build, from a weights file to labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from crispseg.models import resnet
from crispseg.models.build import build_segmentation
from crispseg.models.weights import save_weights
from crispseg.segmenters.load import load_segmenter
from crispseg.types import InputError

NAMES = ("sky", "road", "car")
IMAGE = np.random.default_rng(0).integers(0, 256, (70, 91, 3), dtype=np.uint8)


def saved(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    metadata = {"num_classes": "3", "class_names": json.dumps(NAMES)}
    save_weights(
        path,
        build_segmentation(name, 3),
        architecture=name,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        metadata=metadata,
    )
    return path


@pytest.mark.parametrize(
    "name", ["fcn-lite", "pspnet-lite", "fpn-lite", "deeplabv3-lite", "lwrefinenet-lite"]
)
def test_file_to_labels_is_the_network_itself(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path, name)
    segmenter = load_segmenter(path, tile_size=0, device="cpu")
    assert segmenter.class_names == NAMES
    torch.manual_seed(0)
    module = build_segmentation(name, 3).eval()
    pixels = torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        expected = module((pixels - 0.5) / 0.5).logits.softmax(dim=1)[0].numpy()
    found = segmenter.probabilities(IMAGE)
    # float32 in another memory layout; probabilities of untrained networks differ by far more
    np.testing.assert_allclose(found, expected, atol=1e-4)
    labels = segmenter.segment(IMAGE)
    assert np.array_equal(labels, found.argmax(axis=0))


def test_only_deeplab_changes_its_output_stride(tmp_path: Path) -> None:
    path = saved(tmp_path, "deeplabv3-lite")
    coarse, fine = (
        load_segmenter(path, output_stride=stride, device="cpu").probabilities(IMAGE)
        for stride in (16, 8)
    )
    assert np.abs(coarse - fine).max() > 1e-4
    with pytest.raises(InputError, match="output_stride = 7"):
        load_segmenter(path, output_stride=7)
    with pytest.raises(InputError, match="output_stride = 8: PSPNet runs at"):
        load_segmenter(saved(tmp_path, "pspnet-lite"), output_stride=8)


def test_a_compiled_network_names_the_classes_of_the_one_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen whole: labels by their own way, without probabilities."""
    monkeypatch.setattr(resnet, "WIDTHS", (16, 16, 64, 64))
    path = saved(tmp_path, "deeplabv3-torchvision-resnet50")
    written, compiled = (
        load_segmenter(path, tile_size=0, device="cpu", precision=name)
        for name in ("plain", "exact")
    )
    expected, found = written.probabilities(IMAGE), compiled.probabilities(IMAGE)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    seen: list[tuple[int, int]] = []
    labels = compiled.segment(IMAGE, progress=lambda *counts: seen.append(counts))
    assert seen == [(0, 1), (1, 1)]
    assert labels.dtype == np.uint8
    taken = np.take_along_axis(expected, labels[None].astype(int), axis=0)[0]
    assert (expected.max(axis=0) - taken).max() < 1e-4  # another class only where both are equal


def test_precision_is_for_networks_that_have_one(tmp_path: Path) -> None:
    path = saved(tmp_path, "pspnet-lite")
    with pytest.raises(InputError, match="has no form in bf16"):
        load_segmenter(path, precision="bf16", device="cpu")
    load_segmenter(path, precision="exact", device="cpu")
