"""The pyramid as an ONNX file: one file for every input size."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from crispseg.layers.pyramid import PyramidPooling

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class TwoPyramids(nn.Module):
    """Average and maximum in one file: exporting takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.average = PyramidPooling(4, 2, (1, 2, 6), align_corners=True, norm=True)
        self.maximum = PyramidPooling(4, None, (3,), align_corners=True, pooling="max")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.average(x), self.maximum(x)


def test_exported_with_a_free_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = TwoPyramids().eval()
    free = {2: torch.export.Dim("height", min=6), 3: torch.export.Dim("width", min=6)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its dependencies
        program = torch.onnx.export(
            module,
            (torch.randn(1, 4, 30, 37),),
            dynamo=True,
            dynamic_shapes=(free,),
            verbose=False,
        )
    program.save(tmp_path / "pyramids.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "pyramids.onnx", providers=["CPUExecutionProvider"]
    )
    for size in ((30, 37), (60, 60), (61, 83)):
        x = torch.randn(1, 4, *size)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            for mine, expected in zip(found, module(x), strict=True):
                torch.testing.assert_close(torch.from_numpy(mine), expected, rtol=1e-5, atol=1e-5)
