"""`crispseg reproduce`: tables that are whole, what is missing, and what runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispseg.cli import main as cli
from crispseg.data.datasets import DATASETS
from crispseg.evaluation.papers import figure, load_tables
from crispseg.models.build import build, build_segmentation
from crispseg.models.magnet import MagnetRefinement
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
    for cost in table.costs.values():
        assert cost.keys() <= {"megabytes", "seconds"}
        assert all(value > 0 for value in cost.values())
    for named in (table.costs, table.weights, table.folders, table.options, table.refinements):
        assert named.keys() <= table.rows.keys()
    assert table.folders.keys() | table.options.keys() <= table.weights.keys()
    if table.kind != "other":  # every line has weights, or a reason why no command measures it
        assert sorted([*table.weights, *table.without]) == sorted(table.rows)
    magnet = {"magnet", "magnet-fast"}
    wanted = {name for name, words in table.options.items() if magnet.intersection(words)}
    assert wanted == table.refinements.keys()
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
    classes = [{"name": "pole", "iou": 0.25}, {"name": "traffic sign", "iou": None}]
    assert figure({"classes": classes}, "classes.pole.iou") == 25
    assert figure({"classes": classes}, "classes.traffic sign.iou") is None


# Figures as the specification of the papers has them: a table's numbers, line by line.
PUBLISHED = {
    "cascadepsp-1": "88.46 70.38 88.76 71.49 88.85 71.88 88.73 71.07 88.74 71.07 88.84 71.36 "
    "89.01 72.10",
    "cascadepsp-2": "91.86 73.10 91.35 73.06 92.01 75.59",
    "magnet-3": "63.23 65.73 65.23 65.21 67.13 66.95 67.57",
    "magnet-4": "52.19 63.23 62.95 63.33 64.39 65.83 66.91 67.57",
    "magnet-6": "63.22 63.25 66.36 66.46 67.37 67.57 66.86",
    "magnet-7": "59.64 52.01 61.99 54.30 63.92 68.90",
    "magnet-8": "50.11 52.86 60.93 63.50 67.86 46.53 62.43 68.40 69.69 70.98 70.36 70.38 71.60 "
    "71.78 71.85 72.96",
    "magnet-9": "65.48 46.56 68.90 69.46 68.91 68.97 69.75 70.60",
    "refinenet-9": "40.3 40.9 42.5 43.1",
    "pspnet-2": "35.82 77.07 37.01 77.87 37.23 78.01 37.09 77.84 36.99 77.87",
    "deeplabv3-3": "68.39 73.21 75.34 75.76 70.23 75.67 76.09 76.66 73.14 75.78 75.96 76.11 "
    "73.45 75.74 75.85 76.02 71.45 74.30 74.70 74.62",
    "deeplabv3-6": "77.21 78.51 79.45 79.77 82.70",
    "deeplabv3-10": "74.45 77.21 75.90 75.62 78.51 75.75",
    "deeplabv3-12": "77.23 77.82 79.06 79.30",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures_are_the_papers(name) -> None:
    figures = [value for row in TABLES[name].rows.values() for value in row]
    assert figures == [float(word) for word in PUBLISHED[name].split()]


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
    assert first.endswith("nobody published; recipes/ade20k-pspnet-resnet50.toml trains")
    second = "; ".join(rows["PSPNet(269)"]["missing"])
    assert f"{tmp_path / 'ade20k-pspnet-resnet269.safetensors'}, which nobody published" in second
    assert second.endswith("recipes/ade20k-pspnet-resnet50.toml trains one of its kind")
    assert rows["PSPNet(269)+MS"]["command"].endswith(
        f"--split val --model {tmp_path / 'ade20k-pspnet-resnet269.safetensors'} "
        "--scales pspnet --flip"
    )
    assert all(row["measured"] is None for row in rows.values())
    assert cli.run(["reproduce", "magnet-4", *place[:-1]]) == 0
    out = capsys.readouterr().out
    assert (
        "MagNet: published 67.57  2007 MB  2.93 s\n  crispseg evaluate --dataset cityscapes" in out
    )
    assert f"--method magnet --refinement {tmp_path / 'magnet-cityscapes.safetensors'}" in out
    assert "recipes/magnet-cityscapes.toml trains" in out
    assert "missing for patch processing: a command: " in out
    assert cli.run(["reproduce", "deeplabv3-7", *place[:-1]]) == 0
    assert "missing for every line: the labels of the test images" in capsys.readouterr().out
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
    assert rows["local only"]["measured"] is rows["local only"]["command"] is None
    assert rows["local only"]["missing"] == [
        "a command: crispseg has no local step without the global one"
    ]
    assert cli.run(["reproduce", "cascadepsp-2", *place, "--check"]) == 0
    out = capsys.readouterr().out
    assert "measured" not in out
    assert "crispseg evaluate" in out


def test_magnets_lines_run_where_their_weights_are(tmp_path, capsys) -> None:
    """Weights of one's own, under the names that the table says; a class's figure as well."""
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    plain = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    about = {"num_classes": "19", "class_names": json.dumps([f"c{i}" for i in range(19)])}
    network = build_segmentation("fcn-lite", 19)
    file = folder / "cityscapes-hrnetw18-ocr.safetensors"
    save_weights(file, network, architecture="fcn-lite", metadata=about, **plain)
    about |= {"stage_sides": "32,64", "tile": "32,32", "point_share": "0.5"}
    for name in ("magnet-cityscapes", "magnet-cityscapes-256-512-2048"):
        file = folder / f"{name}.safetensors"
        save_weights(file, MagnetRefinement(19), architecture="magnet", metadata=about, **plain)
    place = tmp_path / "data/cityscapes"
    photo = np.random.default_rng(0).integers(0, 255, (128, 256, 3), np.uint8)
    ids = np.full((128, 256), 7, np.uint8)
    ids[:, 100:110] = 17  # a pole
    for name, pixels in (("leftImg8bit", photo), ("gtFine", ids)):
        (place / name / "val/bonn").mkdir(parents=True)
        ending = "gtFine_labelIds" if name == "gtFine" else name
        Image.fromarray(pixels).save(place / name / f"val/bonn/bonn_1_{ending}.png")
    command = ["--data", str(tmp_path / "data"), "--weights", str(folder), "--json"]
    assert cli.run(["reproduce", "magnet-5", *command]) == 0
    found = capsys.readouterr()
    assert "measuring MagNet-Fast\n" in found.err  # long work says where it is
    rows = {row["name"]: row for row in json.loads(found.out)["rows"]}
    for name in ("downsampling", "DenseCRF", "MagNet-Fast", "MagNet"):
        assert rows[name]["missing"] == []
        assert rows[name]["measured_costs"] == {}
        fence, pole, *_ = rows[name]["measured"]
        assert fence is None or fence == 0  # there is none
        assert 0 <= pole <= 100
    assert rows["PointRend"]["missing"] == ["a command: not a network of crispseg's"]
    assert cli.run(["reproduce", "magnet-4", *command]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["MagNet"]["published_costs"] == {"megabytes": 2007, "seconds": 2.93}
    assert rows["MagNet"]["measured_costs"]["seconds"] > 0
    if sys.platform == "linux":
        assert rows["MagNet"]["measured_costs"]["megabytes"] > 0


def test_a_line_that_fails_leaves_the_others(tmp_path, capsys) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, classes in (("ade20k-pspnet-resnet50", 3), ("ade20k-pspnet-resnet101", 150)):
        save_weights(
            folder / f"{name}.safetensors",
            build_segmentation("fcn-lite", classes),
            architecture="fcn-lite",
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            metadata={
                "num_classes": str(classes),
                "class_names": json.dumps(list(map(str, range(classes)))),
            },
        )
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        (tmp_path / f"data/ade20k/{kind}/validation").mkdir(parents=True)
        pixels = np.ones((40, 50, 3) if kind == "images" else (40, 50), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"data/ade20k/{kind}/validation/a.{suffix}")
    command = ["--data", str(tmp_path / "data"), "--weights", str(folder)]
    assert cli.run(["reproduce", "pspnet-3", *command, "--json"]) == 2
    found = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(found.out)["rows"]}
    assert rows["PSPNet(50)"]["error"].endswith("knows 3 classes, ade20k has 150")
    assert rows["PSPNet(50)"]["measured"] is None
    assert rows["PSPNet(101)"]["error"] is None
    assert len(rows["PSPNet(101)"]["measured"]) == 2
    assert "2 of 8 lines could not be measured" in found.err
    assert cli.run(["reproduce", "pspnet-3", *command]) == 2
    assert "  failed: " in capsys.readouterr().out


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
