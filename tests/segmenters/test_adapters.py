"""Networks of other libraries, random and small: the same answers as those libraries give."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from small import CLASSES, photo, small_net
from torch import nn
from torch.nn import functional as F

from crispseg.models.zoo import IMAGENET_MEAN, IMAGENET_STD
from crispseg.segmenters.adapters import (
    from_callable,
    from_hugging_face,
    from_module,
    from_segmentation_models,
    from_torchvision,
)
from crispseg.segmenters.base import Inference, Segmenter
from crispseg.segmenters.load import load_segmenter
from crispseg.segmenters.network import NetworkSegmenter
from crispseg.segmenters.onnx_file import from_onnx
from crispseg.types import InputError


def as_tensor(image: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(image.astype(np.float32) / 255)
    normal = (pixels - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    return normal.permute(2, 0, 1)[None]


def close(segmenter: Segmenter, image: np.ndarray, expected: torch.Tensor) -> None:
    """Probabilities to 1e-5, and both methods of the protocol."""
    result = segmenter.probabilities(image)
    np.testing.assert_allclose(result, expected[0].numpy(), atol=1e-5)
    assert (segmenter.segment(image) == result.argmax(axis=0)).all()
    assert len(segmenter.class_names) == segmenter.num_classes == len(result)


@torch.inference_mode()
def test_torchvision() -> None:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).eval()
    image = photo(65, 90)
    names = ["a", "b", "c", "d", "e"]
    net = from_torchvision(model, class_names=names, device="cpu")
    assert net.class_names == tuple(names)
    close(net, image, model(as_tensor(image))["out"].softmax(dim=1))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("classes", "activation"), [(3, None), (1, None), (1, "sigmoid"), (3, "softmax2d")]
)
def test_segmentation_models(classes, activation) -> None:
    import segmentation_models_pytorch as smp

    model = smp.FPN("resnet18", encoder_weights=None, classes=classes, activation=activation).eval()
    image = photo(70, 90)  # neither side divides by 32
    answer = model(F.pad(as_tensor(image), (0, 6, 0, 26)))[:, :, :70, :90]
    if activation is None:
        answer = answer.sigmoid() if classes == 1 else answer.softmax(dim=1)
    if classes == 1:
        answer = torch.cat([1 - answer, answer], dim=1)
    net = from_segmentation_models(model, device="cpu")
    assert net.class_names[0] == ("background" if classes == 1 else "class 0")
    close(net, image, answer)


@torch.inference_mode()
def test_hugging_face() -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
        num_attention_heads=[1, 1, 2, 2],
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
    )
    model = SegformerForSemanticSegmentation(config).eval()
    image = photo(64, 96)
    logits = model(as_tensor(image)).logits
    assert logits.shape == (1, 4, 16, 24)
    full = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=False)
    net = from_hugging_face(model, device="cpu")
    assert net.class_names == CLASSES
    close(net, image, full.softmax(dim=1))


def export(path: Path, *, fixed: bool = False, **metadata: str) -> nn.Module:
    import onnx

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.net(image).logits

    module = Logits().eval()
    size = torch.export.Dim.DYNAMIC
    shapes = None if fixed else ({2: size, 3: size},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own use of older functions
        program = torch.onnx.export(
            module, (torch.zeros(1, 3, 48, 64),), dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    model = program.model_proto
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return module


@torch.inference_mode()
def test_onnx_of_any_size(tmp_path) -> None:
    path = tmp_path / "net.onnx"
    about = {
        "class_names": json.dumps(CLASSES),
        "colours": json.dumps([[i, i, i] for i in range(4)]),
    }
    module = export(path, **about)
    image = photo(50, 77)
    net = from_onnx(path)
    assert net.class_names == CLASSES
    assert net.colours[3] == (3, 3, 3)
    close(net, image, module(as_tensor(image)).softmax(dim=1))
    loaded = load_segmenter(path, tile_size=40)
    assert loaded.inference.tile_size == 40
    assert loaded.segment(image).shape == (50, 77)
    with pytest.raises(InputError, match="3 class names for 4 classes"):
        from_onnx(path, class_names=CLASSES[:3])
    export(path, mean="[1, 2]")
    with pytest.raises(InputError, match="unusable metadata"):
        from_onnx(path)


@torch.inference_mode()
def test_onnx_of_one_size_is_run_in_tiles_of_it(tmp_path) -> None:
    path = tmp_path / "net.onnx"
    module = export(path, fixed=True)
    net = from_onnx(path)
    assert net.inference.tile_size == 48
    image = photo(60, 130)
    # seven pixels from the border of the image no padding is seen; margins of 48 px tiles are two,
    # the network sees three far: hence no 1e-5 here
    expected = module(as_tensor(image)).softmax(dim=1)[0].numpy()
    difference = np.abs(net.probabilities(image) - expected)[:, 7:-7, 7:-7]
    assert np.median(difference) < 1e-6
    assert difference.mean() < 0.01
    with pytest.raises(InputError, match="--tile-size 48"):
        load_segmenter(path, tile_size=64)


def test_files_that_are_no_segmentation_networks(tmp_path) -> None:
    import onnx
    from onnx import TensorProto, helper

    path = tmp_path / "net.onnx"
    for shape, out, message in (
        ((1, 7), (1, 7), "does not take one image"),
        ((1, 3, 8, 8), (1, 3), "does not return"),
    ):
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, out)
        if len(shape) == 2:
            nodes = [helper.make_node("Relu", ["x"], ["y"])]
        else:
            nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
        graph = helper.make_graph(nodes, "g", [given], [answer])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, path)
        with pytest.raises(InputError, match=message):
            from_onnx(path)
    with pytest.raises(InputError, match="no such file"):
        from_onnx(tmp_path / "other.onnx")


def brightness(image: np.ndarray) -> np.ndarray:
    value = image.mean(axis=2) / np.iinfo(image.dtype).max
    return np.stack([1 - value, value])


@pytest.mark.parametrize("size", [(40, 61), (61, 40)])
def test_a_plain_function_of_pixels_is_the_same_in_tiles(size) -> None:
    image = photo(*size)
    net = from_callable(brightness, class_names=["dark", "light"])
    np.testing.assert_allclose(net.probabilities(image), brightness(image), atol=1e-6)
    tiled = from_callable(brightness, num_classes=2, inference=Inference(tile_size=32))
    np.testing.assert_allclose(tiled.probabilities(image), brightness(image), atol=1e-6)


def test_a_function_may_answer_in_logits_and_at_lower_resolution() -> None:
    image = photo(40, 60)

    def coarse(tile: np.ndarray) -> np.ndarray:
        return np.log(brightness(tile) + 1e-9)[:, ::4, ::4]

    net = from_callable(coarse, num_classes=2, output="logits")
    logits = torch.from_numpy(coarse(image)).float()[None]
    expected = F.interpolate(logits, (40, 60), mode="bilinear", align_corners=False)
    close(net, image, expected.softmax(dim=1))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda tile: brightness(tile) * 9, "say output='logits'"),
        (lambda tile: brightness(tile) * 0.5, "do not add up to 1"),
        (lambda tile: brightness(tile)[0], r"not \(classes, h, w\)"),
        (lambda tile: np.stack([brightness(tile)[0]] * 5), "5 channels, not 2"),
    ],
)
def test_functions_that_return_something_else(function, message) -> None:
    with pytest.raises(InputError, match=message):
        from_callable(function, num_classes=2).segment(photo(9, 9))


def test_networks_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="has no classifier"):
        from_torchvision(nn.Conv2d(3, 4, 1))
    with pytest.raises(InputError, match=r"no config\.id2label"):
        from_hugging_face(nn.Conv2d(3, 4, 1))
    with pytest.raises(InputError, match="has no segmentation_head"):
        from_segmentation_models(nn.Conv2d(3, 4, 1))
    with pytest.raises(InputError, match="class_names= or num_classes="):
        from_callable(brightness)
    flat = from_module(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), num_classes=3)
    with pytest.raises(InputError, match="does not return"):
        flat.segment(photo(9, 9))


@torch.inference_mode()
def test_align_corners_is_the_networks() -> None:
    net = nn.AvgPool2d(4)
    image = photo(32, 32)
    for align in (False, True):
        small = net(as_tensor(image))
        full = F.interpolate(small, (32, 32), mode="bilinear", align_corners=align)
        segmenter = from_module(net, num_classes=3, device="cpu", align_corners=align)
        assert isinstance(segmenter, NetworkSegmenter)
        close(segmenter, image, full.softmax(dim=1))
