"""``crispseg refine`` and ``segment`` for folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine

import crispseg.cli.main as cli


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders ``in`` with a.jpg, b.jpg, c.jpg, loose.jpg and ``masks`` of the first three."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("in", "masks"):
        Path(folder).mkdir()
    for name in ("a", "b", "c", "loose"):
        pixels = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"in/{name}.jpg")
    mask = np.zeros((60, 70), np.uint8)
    mask[20:50, 30:60] = 255
    for name in "abc":
        Image.fromarray(mask).save(f"masks/{name}.png")
    return tmp_path


def refine(model: Path, *options: str) -> int:
    given = ["refine", "in", "masks", "-o", "out", "--model", str(model), "--tile-size", "128"]
    return cli.run([*given, *options])


def test_every_photo_with_a_mask_is_refined_as_alone(work, model, capsys) -> None:
    assert refine(model) == 0
    shown = capsys.readouterr()
    assert "3 images refined" in shown.out
    assert "loose: has no coarse file in masks" in shown.err
    assert sorted(os.listdir("out")) == ["a.png", "b.png", "c.png"]
    alone = ["refine", "in/b.jpg", "masks/b.png", "-o", "b.png", "--model", str(model)]
    assert cli.run([*alone, "--tile-size", "128"]) == 0
    assert Path("b.png").read_bytes() == Path("out/b.png").read_bytes()


def test_results_that_are_there_are_kept(work, model, capsys) -> None:
    Path("out").mkdir()
    Path("out/b.png").write_text("mine")
    assert refine(model, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["already_there"], report["failed"]) == (2, 1, [])
    assert Path("out/b.png").read_text() == "mine"
    assert refine(model, "--quiet", "--restart") == 0
    assert capsys.readouterr().out == ""
    assert Path("out/b.png").read_bytes()[1:4] == b"PNG"


def test_one_bad_photo_does_not_stop_the_others(work, model, capsys) -> None:
    Path("in/b.jpg").write_bytes(b"no picture")
    assert refine(model) == 2
    shown = capsys.readouterr().err
    assert "in/b.jpg" in shown
    assert "1 of 3 images have failed" in shown.splitlines()[-1]
    assert sorted(os.listdir("out")) == ["a.png", "c.png"]
    os.remove("out/c.png")
    assert refine(model, "--stop") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: in/b.jpg")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--roi", "0,0,9,9"], "--roi is for one image"),
        (["--labels"], "folder"),
        (["-o", "in"], "holds inputs"),
        (["-o", "in/a.jpg"], "cannot make the folder"),
        (["--model", "nothing"], "is called 'nothing'"),
    ],
)
def test_bad_input_is_one_line(options, words, work, model, capsys) -> None:
    assert refine(model, *options) == 2
    shown = capsys.readouterr().err.splitlines()
    assert words in shown[-1]
    assert "Traceback" not in "".join(shown)


def test_a_folder_needs_a_folder_of_masks(work, model, capsys) -> None:
    assert cli.run(["refine", "in", "masks/a.png", "-o", "out"]) == 2
    assert "give a folder of masks" in capsys.readouterr().err


def test_rasters_with_a_grid_stay_rasters(work, capsys) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 90, 120), dtype=np.uint8)
    grid = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500000, 0, -0.5, 4100000)}
    shape = {"count": 3, "height": 90, "width": 120, "dtype": "uint8"}
    with rasterio.open("in/field.tif", "w", driver="GTiff", **shape, **grid) as file:
        file.write(pixels)
    Path("in/broken.tif").write_bytes(b"II*")
    assert cli.run(["segment", "in", "-o", "out"]) == 2
    assert "broken.tif" in capsys.readouterr().err
    assert sorted(os.listdir("out")) == ["a.png", "b.png", "c.png", "field.tif", "loose.png"]
    with rasterio.open("out/field.tif") as file:
        assert (file.crs, file.transform) == (grid["crs"], grid["transform"])


def test_segmenting_a_folder(work, capsys) -> None:
    options = ["segment", "in", "-o", "labels", "--json"]
    assert cli.run(options) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
    assert cli.run(options) == 0
    assert json.loads(capsys.readouterr().out)["already_there"] == 4
    assert sorted(os.listdir("labels")) == ["a.png", "b.png", "c.png", "loose.png"]
    assert cli.run(["segment", "in", "-o", "labels", "--overlay", "x.png"]) == 2
    assert "--overlay is for one image" in capsys.readouterr().err
