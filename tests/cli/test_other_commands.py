from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crispseg.cli import main as cli
from crispseg.models.zoo import KNOWN, local_file

bundled = pytest.mark.skipif(
    local_file(KNOWN["cascadepsp-lite"]) is None, reason="the bundled model is not there yet"
)


def test_models_lists_what_is_known(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CRISPSEG_HOME", str(tmp_path))
    assert cli.run(["models"]) == 0
    text = capsys.readouterr().out
    assert "cascadepsp-lite" in text
    assert "cascadepsp-resnet50" in text
    assert cli.run(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["cascadepsp-resnet50"]["licence"] == "MIT"
    (tmp_path / "cascadepsp-resnet50.pth").write_bytes(b"x" * 5)
    assert cli.run(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["cascadepsp-resnet50"]["here"]
    assert rows["cascadepsp-resnet50"]["size_bytes"] == 5


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "crispseg", "models", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "cascadepsp-lite" in {row["name"] for row in json.loads(done.stdout)}


def test_downloading_an_unknown_model(capsys) -> None:
    assert cli.run(["models", "download", "cascadepsp-resnet"]) == 2
    assert "did you mean cascadepsp-resnet50?" in capsys.readouterr().err


@bundled
def test_demo_improves_the_mask_it_shows(tmp_path, capsys) -> None:
    assert cli.run(["demo", "--output-dir", str(tmp_path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cutout.png",
        "preview.png",
        "refined.png",
    ]
    assert "look here" in capsys.readouterr().out
    with Image.open(Path(cli.__file__).parent / "assets" / "rough.png") as picture:
        rough = np.asarray(picture)
    with Image.open(tmp_path / "refined.png") as picture:
        refined = np.asarray(picture)
    assert refined.shape == rough.shape
    assert ((refined > 127) != (rough > 127)).mean() > 0.005


@bundled
def test_doctor_finds_nothing_wrong(capsys) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["self_test"]["passed"]
    assert report["packages"]["torch"] != "missing"


def test_train_names_the_line_of_a_mistake(tmp_path, capsys) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('model = "cascadepsp-lite"\n\nlerning_rate = 1.0\n')
    assert cli.run(["train", str(recipe)]) == 2
    assert "line 3: unknown key 'lerning_rate'" in capsys.readouterr().err
