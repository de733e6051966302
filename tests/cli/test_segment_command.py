"""`crispseg segment` through its real door: files, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispseg.cli import main as cli
from crispseg.models import build as builders
from crispseg.models.build import build
from crispseg.models.segmentation import ClassLogits, SegmentationModule
from crispseg.models.weights import save_weights

SIZE = (90, 120)
NAMES = ("road", "sky", "tree")
COLOURS = ((128, 64, 128), (70, 130, 180), (107, 142, 35))


class Colours(SegmentationModule):
    """Red is road, green is sky, blue is tree: a 1x1 convolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.trunk = torch.nn.Conv2d(3, num_classes, 1)

    def forward(self, image: torch.Tensor) -> ClassLogits:
        return ClassLogits(self.trunk(image))


@pytest.fixture(autouse=True)
def _builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(builders.SEGMENTATION_BUILDERS, "colours", Colours)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photo.png, whose thirds are red, green and blue, net.safetensors, and what
    a refiner would need."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRISPSEG_HOME", str(tmp_path / "home"))
    pixels = np.zeros((*SIZE, 3), np.uint8)
    for i in range(3):
        pixels[:, 40 * i : 40 * i + 40, i] = 200
    Image.fromarray(pixels).save("photo.png")
    net = Colours(3)
    net.trunk.weight.data = torch.eye(3)[:, :, None, None] * 2
    net.trunk.bias.data.zero_()
    save(net)
    return tmp_path


def save(net: Colours, **metadata: str) -> None:
    about = {
        "num_classes": "3",
        "class_names": json.dumps(NAMES),
        "colours": json.dumps(COLOURS),
    } | metadata
    options = {"architecture": "colours", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    save_weights("net.safetensors", net, metadata=about, **options)


def segment(*arguments: str) -> int:
    return cli.run(
        ["segment", "photo.png", "-o", "out.png", "--model", "net.safetensors", *arguments]
    )


def thirds() -> np.ndarray:
    return np.repeat(np.arange(3, dtype=np.uint8), 40)[None].repeat(SIZE[0], axis=0)


def test_class_numbers_are_written_with_the_colours_as_palette(work, capsys) -> None:
    assert segment() == 0
    with Image.open("out.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[:9] == [value for colour in COLOURS for value in colour]
        assert (np.asarray(picture) == thirds()).all()
    assert "road 33.3 %, sky 33.3 %, tree 33.3 %" in capsys.readouterr().out
    assert sorted(os.listdir()) == ["net.safetensors", "out.png", "photo.png"]


@pytest.mark.parametrize("options", [(), ("--scales", "0.5,1", "--flip"), ("--tile-size", "48")])
def test_probabilities_and_overlay(options, work) -> None:
    assert segment("--probabilities", "p.npy", "--overlay", "look.png", *options) == 0
    values = np.load("p.npy")
    assert (values.dtype, values.shape) == (np.float32, (3, *SIZE))
    np.testing.assert_allclose(values.sum(axis=0), 1, atol=1e-5)
    with Image.open("out.png") as picture:
        assert (np.asarray(picture) == values.argmax(axis=0)).all()
    with Image.open("look.png") as picture:
        look = np.asarray(picture)
    assert look.shape[1] >= SIZE[1]
    assert look.shape[0] > SIZE[0]  # the legend
    assert look[45, 60].tolist() == [35, 165, 90]  # half photo, half the colour of sky


@pytest.mark.parametrize("name", ["out.npy", "out.tif"])
def test_other_formats(name, work) -> None:
    assert cli.run(["segment", "photo.png", "-o", name, "--model", "net.safetensors"]) == 0
    read = np.load(name) if name.endswith("npy") else np.asarray(Image.open(name))
    assert read.dtype == np.uint8
    assert (read == thirds()).all()


def test_the_orientation_of_the_photo_is_applied(work) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    with Image.open("photo.png") as picture:
        picture.save("turned.jpg", exif=exif, quality=95)
    arguments = ["segment", "turned.jpg", "-o", "out.npy", "--model", "net.safetensors"]
    assert cli.run(arguments) == 0
    assert (np.load("out.npy") == np.rot90(thirds(), -1)).all()


def test_json_and_quiet(work, capsys) -> None:
    assert segment("--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["classes"][0] == {"id": 0, "name": "road", "pixels": 3600}
    assert (report["height"], report["width"], report["num_classes"]) == (*SIZE, 3)
    assert segment("--quiet") == 0
    assert capsys.readouterr() == ("", "")


def truncate() -> None:
    Path("photo.png").write_bytes(Path("photo.png").read_bytes()[:100])


def refiner() -> None:
    options = {"architecture": "cascadepsp-lite", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    save_weights("refiner.safetensors", build("cascadepsp-lite"), **options)


CASES = {
    "unknown model": (lambda: None, ["--model", "pspnet"], "no model or weights file"),
    "a refiner's weights": (refiner, ["--model", "refiner.safetensors"], "refines masks"),
    "a bundled refiner": (lambda: None, ["--model", "cascadepsp-lite"], "crispseg refine"),
    "no classes said": (
        lambda: save(Colours(3), num_classes="0", class_names="[]"),
        [],
        "no usable num_classes",
    ),
    "names do not fit": (
        lambda: save(Colours(3), class_names='["a"]'),
        [],
        "no usable num_classes",
    ),
    "endless classes": (
        lambda: save(Colours(3), num_classes="9" * 30, class_names="[]"),
        [],
        "no usable num_classes",
    ),
    "weights of other classes": (
        lambda: save(Colours(3), num_classes="4", class_names="[]", colours="[]"),
        [],
        "does not fit colours",
    ),
    "truncated photo": (truncate, [], "photo.png"),
    "missing photo": (lambda: Path("photo.png").unlink(), [], "no such file"),
    "scales that are words": (lambda: None, ["--scales", "big"], "0.75,1,1.25"),
    "scale 0": (lambda: None, ["--scales", "0,1"], "scales must lie"),
    "scale nan": (lambda: None, ["--scales", "nan"], "scales must lie"),
    "tiny tiles": (lambda: None, ["--tile-size", "8"], "32 or more"),
    "overlap too large": (lambda: None, ["--tile-size", "64", "--overlap", "64"], "0..63"),
    "negative overlap": (lambda: None, ["--overlap", "-1"], "0..1023"),
    "no batch": (lambda: None, ["--batch-size", "0"], "batch_size"),
    "probabilities as PNG": (lambda: None, ["--probabilities", "p.png"], ".npy"),
    "labels as JPEG": (lambda: None, ["-o", "out.jpg"], "out.jpg"),
    "labels nowhere": (lambda: None, ["-o", "nowhere/out.png"], "nowhere"),
    "overlay over labels": (lambda: None, ["--overlay", "out.png"], "different files"),
    "output over photo": (lambda: None, ["-o", "photo.png"], "is an input"),
    "probabilities over model": (lambda: None, ["-o", "net.npy", "--model", "net.npy"], "net.npy"),
    "no such GPU": (lambda: None, ["--device", "cuda:99"], "cuda:99"),
    "too many pixels": (lambda: None, ["--max-megapixels", "0.001"], "--max-megapixels"),
    "damaged ONNX": (
        lambda: Path("a.onnx").write_bytes(b"not a network"),
        ["--model", "a.onnx"],
        "not a usable ONNX file",
    ),
    "missing ONNX": (lambda: None, ["--model", "b.onnx"], "b.onnx"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_writes_nothing(case, work, capfd) -> None:
    prepare, options, expected = CASES[case]
    prepare()
    before = {p.name: p.read_bytes() for p in work.iterdir() if p.is_file()}
    assert segment(*options) == 2
    error = capfd.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert {p.name: p.read_bytes() for p in work.iterdir() if p.is_file()} == before


def test_a_segmenters_weights_do_not_refine(work, capfd) -> None:
    Image.fromarray(np.zeros(SIZE, np.uint8)).save("mask.png")
    arguments = ["refine", "photo.png", "mask.png", "-o", "out.png", "--model", "net.safetensors"]
    assert cli.run(arguments) == 2
    assert "crispseg segment" in capfd.readouterr().err


def test_ctrl_c_leaves_nothing(work, monkeypatch, capfd) -> None:
    seen = []

    def stop(self, image: torch.Tensor) -> ClassLogits:
        seen.append(sorted(os.listdir()))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return ClassLogits(self.trunk(image))

    monkeypatch.setattr(Colours, "forward", stop)
    assert segment("--tile-size", "48", "--probabilities", "p.npy", "--overlay", "look.png") == 130
    assert len(seen) == 3
    assert len(seen[0]) == 3  # the probabilities, on their way
    assert sorted(os.listdir()) == ["net.safetensors", "photo.png"]
    assert "interrupted" in capfd.readouterr().err


def test_help_needs_no_torch() -> None:
    import subprocess

    code = "import sys; from crispseg.cli.main import run; run(['segment', '--help'])"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
