"""``crispseg refine`` and ``segment`` for folders."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine

import crispseg.cli.main as cli
from crispseg.models.build import build
from crispseg.models.weights import save_weights


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


def shown_in(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def refine(model: Path, *options: str) -> int:
    given = ["refine", "in", "masks", "-o", "out", "--model", str(model), "--tile-size", "128"]
    return cli.run([*given, *options])


def test_every_photo_with_a_mask_is_refined_as_alone(work, model, capsys) -> None:
    assert refine(model) == 0
    shown = capsys.readouterr()
    assert "3 images refined" in shown.out
    assert "loose: has no coarse file in masks" in shown.err
    assert shown_in("out") == ["a.png", "b.png", "c.png"]
    alone = ["refine", "in/b.jpg", "masks/b.png", "-o", "b.png", "--model", str(model)]
    assert cli.run([*alone, "--tile-size", "128"]) == 0
    assert Path("b.png").read_bytes() == Path("out/b.png").read_bytes()


def counts(model: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, int]:
    assert refine(model, "--json", *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] == []
    return report["images"], report["already_there"]


def test_results_of_the_same_run_are_kept(work, model, capsys) -> None:
    assert counts(model, capsys) == (3, 0)
    os.remove("out/b.png")
    Path("out/c.png").write_bytes(b"")
    assert counts(model, capsys, "--batch-size", "2") == (2, 1)
    assert Path("out/c.png").read_bytes()[1:4] == b"PNG"
    assert refine(model, "--quiet", "--restart") == 0
    assert capsys.readouterr().out == ""


def test_a_result_is_made_anew_when_its_mask_has_changed(work, model, capsys) -> None:
    assert counts(model, capsys) == (3, 0)
    made = os.stat("out/a.png").st_mtime_ns
    os.utime("masks/a.png", ns=(made + 1, made + 1))
    future = made + 10**13
    os.utime("masks/b.png", ns=(future, future))
    assert counts(model, capsys) == (1, 2)


def test_results_of_two_runs_do_not_mix(work, model, capsys) -> None:
    assert counts(model, capsys) == (3, 0)
    before = Path("out/a.png").read_bytes()
    assert refine(model, "--binary") == 2
    assert "out: was begun with another binary; go on" in capsys.readouterr().err
    os.rename("masks", "others")
    assert cli.run(["refine", "in", "others", "-o", "out", "--model", str(model)]) == 2
    assert "another folder of masks, tile size; go on" in capsys.readouterr().err
    assert Path("out/a.png").read_bytes() == before


def test_a_restart_that_was_stopped_goes_on_as_one(work, model, capsys) -> None:
    assert counts(model, capsys) == (3, 0)
    old = os.stat("out/a.png").st_mtime_ns
    Path("in/b.jpg").write_bytes(b"no picture")
    assert refine(model, "--restart", "--stop") == 2
    os.utime("out/c.png", ns=(old, old))  # as if it had not come that far
    os.remove("in/b.jpg")
    capsys.readouterr()
    assert counts(model, capsys) == (1, 1)


def test_two_runs_do_not_work_in_one_folder(work, model, capsys) -> None:
    Path("out").mkdir()
    other = os.open("out", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert refine(model) == 2
    assert "out: another process is at work in it" in capsys.readouterr().err
    os.close(other)
    assert counts(model, capsys) == (3, 0)


def test_a_restart_makes_results_from_the_future_too(work, model, capsys) -> None:
    assert counts(model, capsys) == (3, 0)
    future = os.stat("out/a.png").st_mtime_ns + 10**13
    os.utime("out/a.png", ns=(future, future))
    assert counts(model, capsys, "--restart", "--binary") == (3, 0)


def test_a_run_that_does_not_begin_leaves_what_is_there_to_the_old(work, model, capsys) -> None:
    assert counts(model, capsys) == (3, 0)
    for wrong in (["--model", "nothing"], ["--tile-size", "5"], ["--batch-size", "0"]):
        assert refine(model, "--restart", *wrong) == 2
    capsys.readouterr()
    assert counts(model, capsys) == (0, 3)


def test_an_input_that_is_gone_fails_alone(work, model, capsys) -> None:
    assert counts(model, capsys) == (3, 0)
    os.remove("in/a.jpg")
    os.symlink("nowhere.jpg", "in/a.jpg")
    assert refine(model) == 2
    shown = capsys.readouterr().err.splitlines()
    assert "1 of 1 images have failed" in shown[-1]
    assert any(line.startswith("a: in/a.jpg: ") for line in shown)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "[1]", '{"of": 3}'])
def test_a_damaged_journal_is_one_line(text, work, model, capsys) -> None:
    assert counts(model, capsys) == (3, 0)
    Path("out/.crispseg.json").write_text(text)
    assert refine(model) == 2
    assert "--restart" in capsys.readouterr().err
    assert counts(model, capsys, "--restart") == (3, 0)


def test_other_weights_of_the_same_name_are_another_model(work, model, capsys) -> None:
    mine = work / "mine.safetensors"
    mine.write_bytes(model.read_bytes())
    assert counts(mine, capsys) == (3, 0)
    os.utime(mine, ns=(1, 1))
    assert counts(mine, capsys) == (0, 3)
    save_weights(
        mine,
        build("cascadepsp-lite"),
        architecture="cascadepsp-lite",
        mean=(0.5,) * 3,
        std=(1,) * 3,
    )
    assert refine(mine) == 2
    assert "another model" in capsys.readouterr().err


def test_what_other_programs_have_made_is_not_taken_for_a_result(work, model, capsys) -> None:
    Path("out").mkdir()
    Path("out/b.png").write_text("mine")
    assert refine(model) == 2
    assert "out: holds b.png, which no run over a folder has made" in capsys.readouterr().err
    assert Path("out/b.png").read_text() == "mine"
    assert counts(model, capsys, "--restart") == (3, 0)


def test_one_bad_photo_does_not_stop_the_others(work, model, capsys) -> None:
    Path("in/b.jpg").write_bytes(b"no picture")
    assert refine(model) == 2
    shown = capsys.readouterr().err
    assert "in/b.jpg" in shown
    assert "1 of 3 images have failed" in shown.splitlines()[-1]
    assert shown_in("out") == ["a.png", "c.png"]
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
    assert shown_in("out") == ["a.png", "b.png", "c.png", "field.tif", "loose.png"]
    with rasterio.open("out/field.tif") as file:
        assert (file.crs, file.transform) == (grid["crs"], grid["transform"])


def test_segmenting_a_folder(work, capsys) -> None:
    options = ["segment", "in", "-o", "labels", "--json"]
    assert cli.run(options) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
    assert cli.run(options) == 0
    assert json.loads(capsys.readouterr().out)["already_there"] == 4
    assert shown_in("labels") == ["a.png", "b.png", "c.png", "loose.png"]
    assert cli.run([*options, "--flip"]) == 2
    assert "begun with another flip" in capsys.readouterr().err
    assert cli.run(["segment", "in", "-o", "labels", "--overlay", "x.png"]) == 2
    assert "--overlay is for one image" in capsys.readouterr().err
    assert cli.run(["segment", "in/a.jpg", "-o", "a.png", "--stop"]) == 2
    assert "--stop is for a folder" in capsys.readouterr().err
