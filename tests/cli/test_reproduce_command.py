"""`crispseg reproduce`: tables that are whole, what is missing, and what runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispseg.cli import main as cli
from crispseg.data.datasets import DATASETS
from crispseg.evaluation.papers import figure, load_tables
from crispseg.models.build import build
from crispseg.models.weights import save_weights

ROOT = Path(__file__).parents[2]
TABLES = load_tables()


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_whole(name) -> None:
    table = TABLES[name]
    assert table.kind in ("refine", "segment", "labels", "other")
    assert bool(table.needs) == (table.kind == "other")
    spec = DATASETS[table.dataset]
    if table.kind in ("segment", "labels"):
        assert table.split in spec.splits
    for row, figures in table.rows.items():
        assert len(figures) == len(table.columns), row
        assert all(0 < value < 100 for value in figures), row
    for named in (table.weights, table.folders, table.options):
        assert named.keys() <= table.rows.keys()
    if table.kind in ("refine", "labels"):
        assert table.folders.keys() == table.weights.keys()
    assert not table.recipe or (ROOT / table.recipe).is_file()


def test_all_five_papers_are_there() -> None:
    papers = {name.partition("-")[0] for name in TABLES}
    assert papers == {"cascadepsp", "magnet", "refinenet", "pspnet", "deeplabv3"}
    assert TABLES["cascadepsp-3"].rows["PSPNet"] == [90.49, 59.63, 93.93, 75.32]
    assert TABLES["pspnet-3"].rows["PSPNet(50)"] == [41.68, 80.04]
    assert TABLES["pspnet-3"].options["PSPNet(50)+MS"] == ["--scales", "pspnet", "--flip"]


def test_columns_are_places_in_a_summary() -> None:
    summary = {"after": {"mba_released": 0.5}, "mean_iou": None}
    assert figure(summary, "after.mba_released") == 50
    assert figure(summary, "mean_iou") is None


def test_tables_are_listed_and_unknown_ones_refused(capsys) -> None:
    assert cli.run(["reproduce"]) == 0
    assert "magnet-8" in capsys.readouterr().out
    assert cli.run(["reproduce", "magnet-1"]) == 2
    assert "unknown table 'magnet-1'" in capsys.readouterr().err


def test_what_is_missing_is_said(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CRISPSEG_HOME", str(tmp_path / "home"))
    place = ["--data", str(tmp_path), "--weights", str(tmp_path), "--json"]
    assert cli.run(["reproduce", "pspnet-3", *place]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    first = "; ".join(rows["PSPNet(50)"]["missing"])
    assert f"{tmp_path / 'ade20k'} is not ADE20K" in first
    assert "recipes/ade20k-pspnet-resnet50.toml trains" in first
    assert "nobody published any" in "; ".join(rows["PSPNet(269)"]["missing"])
    assert all(row["command"] is None and row["measured"] is None for row in rows.values())
    assert cli.run(["reproduce", "magnet-4", *place[:-1]]) == 0
    out = capsys.readouterr().out
    assert "MagNet: published 67.57" in out
    assert "missing for every line: MagNet's stages" in out
    assert "recipes/magnet-cityscapes.toml trains its modules" in out
    assert cli.run(["reproduce", "cascadepsp-4", *place]) == 0
    (first, *_) = json.loads(capsys.readouterr().out)["rows"]
    assert any("predictions-refinenet of this line's label maps" in m for m in first["missing"])


def test_what_is_here_runs(tmp_path, capsys) -> None:
    torch.manual_seed(0)
    module = build("cascadepsp-lite")
    weights = tmp_path / "weights/cascadepsp-resnet50.safetensors"
    weights.parent.mkdir()
    save_weights(weights, module, architecture="cascadepsp-lite", mean=(0.5,) * 3, std=(0.5,) * 3)
    folder = tmp_path / "data/big/val"
    folder.mkdir(parents=True)
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 10:40] = 255
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(folder / "bus_im.jpg")
    Image.fromarray(mask).save(folder / "bus_gt.png")
    Image.fromarray(np.roll(mask, 3, 1)).save(folder / "bus_seg.png")
    place = ["--data", str(tmp_path / "data"), "--weights", str(weights.parent)]
    assert cli.run(["reproduce", "cascadepsp-2", *place, "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["global only"]["command"].endswith("--fast")
    assert len(rows["global only"]["measured"]) == 2
    assert 0 <= rows["both"]["measured"][0] <= 100
    assert rows["local only"]["measured"] is None
    assert cli.run(["reproduce", "cascadepsp-2", *place, "--check"]) == 0
    out = capsys.readouterr().out
    assert "measured" not in out
    assert "crispseg evaluate" in out


def test_scenes_are_measured_before_and_after(tmp_path, capsys) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights/cascadepsp-resnet50.safetensors"
    weights.parent.mkdir()
    save_weights(
        weights,
        build("cascadepsp-lite"),
        architecture="cascadepsp-lite",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    root = tmp_path / "data/ade20k"
    truth = np.ones((40, 50), np.uint8)
    truth[10:30, 10:40] = 3
    for folder, pixels in (
        ("images/validation", np.full((40, 50, 3), 90, np.uint8)),
        ("annotations/validation", truth),
        ("predictions-pspnet", np.roll(truth, 3, 1) - 1),
    ):
        (root / folder).mkdir(parents=True)
        suffix = "jpg" if pixels.ndim == 3 else "png"
        Image.fromarray(pixels).save(root / folder / f"ADE_val_1.{suffix}")
    place = ["--data", str(tmp_path / "data"), "--weights", str(weights.parent)]
    assert cli.run(["reproduce", "cascadepsp-4", *place, "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["RefineNet"]["measured"] is None
    before, _, after, _ = rows["PSPNet"]["measured"]
    # 3 of 30 columns are off: 540 of 660 pixels of the object, 1340 of 1460 of the rest
    assert before == pytest.approx(50 * (540 / 660 + 1340 / 1460), abs=1e-9)
    assert 0 <= after <= 100
