"""`crispseg evaluate` through its real door."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crispseg.cli import main as cli

SIZE = (90, 120)
NAMES = ["cat", "dog", "owl"]


def box(y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[y0:y1, x0:x1] = 255
    return mask


TRUTH = box(20, 30, 60, 90)  # 40 x 60
COARSE = {
    "cat": box(20, 30, 60, 60),  # IoU 1/2
    "dog": box(20, 30, 50, 90),  # IoU 3/4
    "owl": box(20, 30, 60, 90),  # IoU 1
}
REFINED = {
    "cat": box(20, 30, 60, 90),  # IoU 1
    "dog": box(20, 30, 40, 90),  # IoU 1/2
    "owl": box(20, 30, 60, 90),  # IoU 1
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders images, coarse, truth and refined with three images each, and nothing else."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("images", "coarse", "truth", "refined"):
        Path(folder).mkdir()
    for name in NAMES:
        photo = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(photo).save(f"images/{name}.jpg")
        Image.fromarray(COARSE[name]).save(f"coarse/{name}.png")
        Image.fromarray(TRUTH).save(f"truth/{name}.png")
        Image.fromarray(REFINED[name]).save(f"refined/{name}.png")
    return tmp_path


def given(*arguments: str) -> int:
    """Evaluate refined masks that are there."""
    return cli.run(["evaluate", "images", "coarse", "truth", "--refined", "refined", *arguments])


def refining(model: Path, *arguments: str) -> int:
    options = ["--model", str(model), "--tile-size", "128"]
    return cli.run(["evaluate", "images", "coarse", "truth", *options, *arguments])


def test_given_masks_by_hand(work, capsys) -> None:
    assert given("--json") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == ""
    rows = {row["name"]: row for row in report["rows"]}
    assert [rows[name]["before"]["iou"] for name in NAMES] == [0.5, 0.75, 1]
    assert [rows[name]["after"]["iou"] for name in NAMES] == [1, 0.5, 1]
    assert rows["dog"]["before"]["intersection"] == 1800
    assert rows["owl"]["after"]["mba_released"] == rows["owl"]["after"]["boundary_iou"] == 1
    summary = report["summary"]
    assert summary["before"]["iou"] == 0.75
    assert summary["after"]["iou_of_all_pixels"] == pytest.approx(2.5 / 3)
    assert summary["change"]["iou"] == pytest.approx(2.5 / 3 - 0.75)
    assert summary["worse"] == ["dog"]
    assert report["settings"]["model"] is None
    assert report["skipped"] == []
    assert sorted(os.listdir()) == ["coarse", "images", "refined", "truth"]


def test_the_table_has_worst_first_and_all_measures(work, capsys) -> None:
    assert given() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["dog", "owl", "cat"]
    assert lines[2].split()[1:4] == ["75.00", "50.00", "-25.00"]
    assert all(len(line) <= 100 for line in lines)
    for title in ("IoU, mean", "IoU of all pixels", "radii of the released", "radii of the paper"):
        assert any(line.startswith(title) or title in line for line in lines[6:])
    assert lines[-1] == "made worse by more than 1 IoU point: 1 of 3: dog"


def test_only_the_worst_ten_unless_all(work, capsys) -> None:
    for i in range(12):
        for folder, suffix in (("images", "jpg"), ("coarse", "png"), ("truth", "png")):
            os.link(f"{folder}/owl.{suffix}", f"{folder}/owl{i}.{suffix}")
        os.link("refined/owl.png", f"refined/owl{i}.png")
    assert given() == 0
    text = capsys.readouterr().out
    assert text.startswith("worst 10 of 15 images")
    assert sum(line.startswith("owl") for line in text.splitlines()) == 9
    assert given("--all") == 0
    assert sum(line.startswith("owl") for line in capsys.readouterr().out.splitlines()) == 13


def test_limit_takes_the_first_by_name(work, capsys) -> None:
    assert given("--limit", "2", "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["cat", "dog"]


def test_a_truth_without_edge_is_left_out_of_mba_and_said(work, capsys) -> None:
    Image.fromarray(box(0, 0, 0, 0)).save("truth/cat.png")
    assert given() == 0
    text = capsys.readouterr().out
    assert "mBA leaves out 1 whose truth is empty or full" in text
    assert next(x for x in text.splitlines() if x.startswith("cat")).split()[1:6] == [
        *("0.00", "0.00", "+0.00", "-", "-")
    ]
    assert given("--json") == 0
    assert "NaN" not in capsys.readouterr().out


def test_the_report_has_pictures_and_a_test(work, capsys) -> None:
    assert given("--report", "r.html", "--latex", "t.tex", "--title", "rough") == 0
    assert "First before refinement, second after; 3 images" in capsys.readouterr().out
    text = Path("r.html").read_text(encoding="utf-8")
    data = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    rows = {row[0]: row for row in data["rows"]}
    assert rows["cat"][2:5] == [0.5, 1.0, 0.5]
    assert all(row[1].startswith("data:image/jpeg;base64,") for row in rows.values())
    assert [series["values"] for series in data["curves"][0]["series"]] == [
        [0.5, 0.75, 1.0],
        [1.0, 0.5, 1.0],
    ]
    lines = Path("t.tex").read_text(encoding="utf-8").splitlines()
    # 2400 true pixels in each: 1200 + 1800 + 2400 found before, 2400 + 1200 + 2400 after
    assert lines[4].startswith("rough & 75.00 & ")
    assert lines[5].startswith("rough + refined & 83.33 & ")


def test_a_model_refines_and_a_sheet_shows_it(work, model, capsys) -> None:
    assert refining(model, "-o", "out", "--sheet", "out/sheet.png") == 0
    text = capsys.readouterr().out
    report = json.loads(Path("out/results.json").read_text())
    assert report["settings"]["architecture"] == "cascadepsp-lite"
    assert report["settings"]["tile_size"] == 128
    assert len(report["settings"]["model_sha256"]) == 64
    made = ["images.csv", "refined", "results.json", "rows.jsonl", "sheet.png"]
    assert sorted(os.listdir("out")) == made
    with Image.open("out/sheet.png") as sheet:
        assert sheet.width <= 2400
    # What was written is what was measured.
    assert cli.run(["evaluate", "images", "coarse", "truth", "--refined", "out/refined"]) == 0
    assert capsys.readouterr().out == text
    # And it is what `crispseg refine` makes.
    options = ["--model", str(model), "--tile-size", "128", "-o", "cat.png"]
    assert cli.run(["refine", "images/cat.jpg", "coarse/cat.png", *options]) == 0
    assert Path("cat.png").read_bytes() == Path("out/refined/cat.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [(["--fast"], "fast", True), (["--mode", "published"], "mode", "published")],
)
def test_options_reach_the_refiner(options, key, value, work, model, capsys) -> None:
    reports = []
    for more in ([], options):
        assert refining(model, "--json", "--limit", "1", *more) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[1]["settings"][key] == value != reports[0]["settings"][key]


def test_a_stopped_run_goes_on_where_it_stopped(work, model, monkeypatch, capfd) -> None:
    from crispseg.refiners.cascade import CascadeRefiner

    assert refining(model, "--json") == 0
    whole = json.loads(capfd.readouterr().out)
    original, calls = CascadeRefiner.refine, []

    def stop_at_the_third(self, image, mask, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, image, mask, **options)

    monkeypatch.setattr(CascadeRefiner, "refine", stop_at_the_third)
    assert refining(model, "-o", "out") == 130
    err = capfd.readouterr().err
    assert "2 of 3 images are in out/rows.jsonl; the same command goes on" in err
    assert sorted(os.listdir("out")) == ["refined", "rows.jsonl"]
    assert refining(model, "-o", "out", "--json") == 0
    out, err = capfd.readouterr()
    assert err == "2 of 3 images taken over from out/rows.jsonl\n"
    assert len(calls) == 4
    resumed = json.loads(out)
    for report in (resumed, whole):
        report["summary"].pop("seconds")
        for row in report["rows"]:
            row.pop("seconds")
    assert resumed == whole
    assert refining(model, "-o", "out", "--fast") == 0
    assert "out/rows.jsonl: fast changed; begun anew\n" in capfd.readouterr().err
    assert len(calls) == 7


def test_one_folder_in_the_layout_of_big(work, capsys) -> None:
    Path("big").mkdir()
    for name in NAMES:
        os.link(f"images/{name}.jpg", f"big/{name}_im.jpg")
        os.link(f"coarse/{name}.png", f"big/{name}_seg.png")
        os.link(f"truth/{name}.png", f"big/{name}_gt.png")
    outputs = []
    for folders in (["images", "coarse", "truth"], ["big"], ["big"] * 3):
        assert cli.run(["evaluate", *folders, "--refined", "refined"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]


def damage(path: str) -> None:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])


CASES = {
    "missing truth": (
        lambda: os.unlink("truth/dog.png"),
        [],
        "1 of 3 images cannot be measured, first: dog: has no truth file in truth (--skip-bad",
    ),
    "unequal size": (
        lambda: Image.fromarray(np.zeros((50, 60), np.uint8)).save("coarse/dog.png"),
        [],
        "coarse/dog.png is 60x50 but truth/dog.png is 120x90",
    ),
    "empty folder": (
        lambda: [os.unlink(f"coarse/{name}.png") for name in NAMES],
        [],
        "coarse has no coarse files",
    ),
    "no such folder": (lambda: os.rename("truth", "t"), [], "cannot list the folder truth"),
    "damaged mask": (lambda: damage("coarse/dog.png"), [], "coarse/dog.png"),
    "empty file": (lambda: Path("images/cat.jpg").write_bytes(b""), [], "images/cat.jpg"),
    "two folders": (lambda: None, ["TWO"], "one folder, or three"),
    "model and refined": (lambda: None, ["--refined", "refined"], "no --model"),
    "unknown model": (lambda: None, ["--model", "cascade"], "did you mean"),
    "sheet without suffix": (lambda: None, ["--sheet", "sheet"], "must end in"),
    "sheet over an input": (lambda: None, ["--sheet", "truth/cat.png"], "is an input"),
    "output is a file": (lambda: None, ["-o", "images/cat.jpg"], "cannot make the folder"),
    "zero images": (lambda: None, ["--limit", "0"], "--limit"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_writes_nothing(case, work, model, capfd) -> None:
    prepare, options, expected = CASES[case]
    prepare()
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    if options == ["TWO"]:
        code = cli.run(["evaluate", "images", "coarse"])
    else:
        code = refining(model, *options)
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == before


def test_bad_images_can_be_left_out_and_are_named(work, capfd) -> None:
    os.unlink("truth/cat.png")
    damage("coarse/dog.png")
    assert given("--skip-bad", "--json") == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert [row["name"] for row in report["rows"]] == ["owl"]
    assert [skip["name"] for skip in report["skipped"]] == ["cat", "dog"]
    assert err.splitlines()[0] == "skipped cat: has no truth file in truth"
    assert err.splitlines()[1].startswith("skipped dog: coarse/dog.png")
    damage("coarse/owl.png")
    assert given("--skip-bad") == 2
    assert "no image could be measured" in capfd.readouterr().err


def test_coarse_masks_are_never_written_over(work, model, capfd) -> None:
    os.rename("coarse", "refined_before")
    Path("out").mkdir()
    os.rename("refined_before", "out/refined")
    before = Path("out/refined/cat.png").read_bytes()
    options = ["--model", str(model), "-o", "out"]
    assert cli.run(["evaluate", "images", "out/refined", "truth", *options]) == 2
    assert "out/refined is an input" in capfd.readouterr().err
    assert Path("out/refined/cat.png").read_bytes() == before


def test_results_among_the_photos_do_not_stop_measuring(work, capsys) -> None:
    """One folder for everything, the results too: it is measured each time."""
    Path("all").mkdir()
    for name in NAMES:
        for folder, ending in (("images", "im.jpg"), ("coarse", "seg.png"), ("truth", "gt.png")):
            (file,) = Path(folder).glob(f"{name}.*")
            Path(f"all/{name}_{ending}").write_bytes(file.read_bytes())
    command = ["evaluate", "all", "--refined", "refined", "-o", "all", "--json"]
    assert cli.run(command) == 0
    first = json.loads(capsys.readouterr().out)["rows"][0]
    Image.fromarray(COARSE["cat"]).save("refined/cat.png")
    assert cli.run(command) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["after"] != first["after"]
