"""``crispseg refine`` for label maps and with other methods, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crispseg.cli.main import run
from crispseg.io import write_image, write_labels, write_mask
from crispseg.io.labels import read_coloured_labels, read_labels
from crispseg.methods import MagnetLabels, load_label_refiner
from crispseg.refiners.points import Budget


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    truth = np.zeros((60, 80), np.uint8)
    truth[:, 40:] = 2
    noise = np.random.default_rng(0).integers(-8, 8, (60, 80, 3))
    image = np.where(truth[..., None] > 0, (200, 60, 40), (60, 120, 180)) + noise
    labels = np.zeros_like(truth)
    labels[:, 43:] = 2
    labels[:5] = 255
    write_image("image.png", image.astype(np.uint8))
    write_labels("labels.png", labels)
    write_mask("mask.png", (labels == 2).astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("method", ["cascade", "divide", "densecrf", "guided", "offset"])
def test_a_label_map_comes_out_as_one(method, work, model, capsys) -> None:
    options = ["--labels", "--method", method, "-o", "out.png", "--json"]
    if method in ("cascade", "divide"):
        options += ["--model", str(model)]
    assert run(["refine", "image.png", "labels.png", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    given, found = read_labels("labels.png"), read_labels("out.png")
    assert report["changed_pixels"] == (given != found).sum()
    assert np.array_equal(found == 255, given == 255)
    assert set(np.unique(found)) <= {0, 2, 255}
    if method == "densecrf":
        assert (found[10:, 40:43] == 2).mean() > 0.9


def test_colours_of_the_label_map_are_kept(work) -> None:
    colours = [(0, 0, 0), (10, 20, 30), (200, 100, 50)]
    write_labels("labels.png", read_labels("labels.png"), colours)
    options = ("--labels", "--method", "guided", "-o", "out.png", "--quiet")
    assert run(["refine", "image.png", "labels.png", *options]) == 0
    kept, given = (read_coloured_labels(path)[1] for path in ("out.png", "labels.png"))
    assert kept == given
    assert kept[:3] == colours
    assert read_coloured_labels("mask.png")[1] == []


def test_magnet_runs_with_the_weights_that_ship(work, capsys) -> None:
    options = ("--labels", "--method", "magnet", "-o", "out.png", "--json")
    assert run(["refine", "image.png", "labels.png", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    given, found = read_labels("labels.png"), read_labels("out.png")
    assert report["changed_pixels"] == (given != found).sum() > 0
    assert np.array_equal(found == 255, given == 255)
    assert found[found != 255].max() <= 10


def test_magnet_fast_is_magnet_with_the_papers_budget(work) -> None:
    budgets = {}
    for method in ("magnet", "magnet-fast"):
        refiner = load_label_refiner(method, device="cpu")
        assert isinstance(refiner, MagnetLabels)
        budgets[method] = refiner.progressive.budget
    assert budgets == {"magnet": None, "magnet-fast": Budget(tiles=3)}
    options = ("--labels", "--method", "magnet-fast", "-o", "fast.png")
    assert run(["refine", "image.png", "labels.png", *options]) == 0
    assert (read_labels("fast.png") != read_labels("labels.png")).any()


def test_masks_can_be_refined_by_a_classical_method(work, capsys) -> None:
    assert run(["refine", "image.png", "mask.png", "-o", "o.png", "--method", "densecrf"]) == 0
    assert "pixels changed" in capsys.readouterr().out
    assert (read_labels("o.png")[10:, 40:43] > 127).mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("labels.png", "--labels", "--fast"), "--fast is for one object's mask"),
        (("labels.png", "--labels", "--roi", "0,0,9,9"), "--roi is for one object's mask"),
        (
            ("labels.png", "--labels", "--method", "magnet", "--segmenter", "x"),
            "wants a refinement",
        ),
        (("mask.png", "--method", "divide"), "say --labels"),
        (("image.png", "--labels"), "is not a label map"),
        (("labels.png", "--labels", "--segmenter", "x"), "--segmenter is for method magnet"),
        (("labels.png", "--labels", "--tile-size", "64"), "--tile-size is for one object's mask"),
        (("mask.png", "--method", "guided", "--no-guard"), "--no-guard is for one object's mask"),
        (("mask.png", "--method", "guided", "--ignore-index", "3"), "is for label maps"),
        (("mask.png", "--refinement", "x"), "--refinement is for method magnet"),
        (("mask.png", "--ignore-index", "3"), "--ignore-index is for label maps"),
        (("labels.png", "--labels", "--ignore-index", "-7"), "greater than or equal to 0"),
        (("mask.png", "--stop"), "--stop is for a folder"),
        (("mask.png", "--tolerance", "3"), "--tolerance is for --polygons"),
        (("mask.png", "--method", "guided", "--device", "cpu"), "--device is for methods with"),
        (("mask.png", "--method", "guided", "--model", "x"), "--model is for methods cascade"),
        (("mask.png", "--ignore-index", "255"), "--ignore-index is for label maps"),
        (("labels.png", "--labels", "--guard"), "--guard is for one object's mask"),
        (("labels.png", "--labels", "--workers", "1"), "--workers is for one object's mask"),
        (("mask.png", "--precision", "fp8"), "'--precision': 'fp8' is not one of"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, message, work, capfd) -> None:
    assert run(["refine", "image.png", *arguments, "-o", "out.png"]) == 2
    errors = capfd.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert not Path("out.png").exists()


def test_a_map_of_another_size_is_one_line(work, capfd) -> None:
    write_labels("small.png", np.zeros((5, 5), np.uint8))
    arguments = ("small.png", "--labels", "--method", "offset", "-o", "out.png")
    assert run(["refine", "image.png", *arguments]) == 2
    assert "label map is 5x5 but the image is 80x60" in capfd.readouterr().err
