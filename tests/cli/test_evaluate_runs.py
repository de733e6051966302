"""`crispseg evaluate` that makes label maps: options of the segmenter, refiners, going on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crispseg.methods
import crispseg.segmenters.load
from crispseg.cli import main as cli
from crispseg.evaluation.thumbnails import choose_rows
from crispseg.metrics.confusion import ConfusionMatrix

NAMES = ("a", "b", "c", "d")
DATA = ["evaluate", "--dataset", "folder", "--root", "data", "--quiet", "--json"]


def truth_of(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    truth = np.kron(rng.integers(0, 3, (4, 5)), np.ones((10, 12), int)).astype(np.uint8)
    truth[:, :3] = 255
    return truth


def given_of(number: int) -> np.ndarray:
    truth = truth_of(number)
    return np.roll(np.where(truth == 255, 0, truth), 3, 1).astype(np.uint8)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in the folder layout, and predictions of it."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data/val/images", "data/val/labels", "given"):
        Path(folder).mkdir(parents=True)
    Path("data/classes.txt").write_text("ground\ntree\nsky", encoding="utf-8")
    for number, name in enumerate(NAMES):
        truth = truth_of(number)
        photo = np.full((*truth.shape, 3), 10 * number, np.uint8)
        Image.fromarray(photo).save(f"data/val/images/{name}.png")
        Image.fromarray(truth).save(f"data/val/labels/{name}.png")
        Image.fromarray(given_of(number)).save(f"given/{name}.png")
    return tmp_path


class Counting:
    """A segmenter that sees one class everywhere, and remembers what it saw."""

    num_classes = 3
    stop_after = 99

    def __init__(self) -> None:
        self.seen: list[int] = []

    def segment(self, image: np.ndarray) -> np.ndarray:
        if len(self.seen) >= self.stop_after:
            raise KeyboardInterrupt
        self.seen.append(int(image[0, 0, 0]) // 10)
        return np.full(image.shape[:2], 1, np.uint8)


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> Counting:
    found = Counting()
    monkeypatch.setattr(crispseg.segmenters.load, "load_segmenter", lambda *_, **__: found)
    return found


def test_options_of_the_segmenter_reach_it(work, monkeypatch, capsys) -> None:
    given = {}

    def load(model: str, **options: object) -> Counting:
        given.update(options, model=model)
        return Counting()

    monkeypatch.setattr(crispseg.segmenters.load, "load_segmenter", load)
    looks = ["--scales", "0.5,1", "--flip", "--output-stride", "8", "--tile-size", "0"]
    assert cli.run([*DATA, "--model", "net", *looks, "--device", "cpu"]) == 0
    assert given == {
        **{"model": "net", "scales": (0.5, 1.0), "flip": True, "output_stride": 8},
        **{"tile_size": 0, "device": "cpu"},
    }
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["scales"], settings["flip"], settings["tile_size"]) == ([0.5, 1.0], True, 0)
    assert cli.run([*DATA, "--model", "net", "--scales", "pspnet"]) == 0
    assert given["scales"] == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def test_a_stopped_run_goes_on_where_it_was(work, segmenter, capsys) -> None:
    command = [*DATA, "--model", "net", "-o", "run"]
    segmenter.stop_after = 2
    assert cli.run(command) == 130
    assert segmenter.seen == [0, 1]
    segmenter.stop_after = 99
    capsys.readouterr()
    assert cli.run([part for part in command if part != "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert segmenter.seen == [0, 1, 2, 3]
    assert "2 of 4 label maps taken over from run" in err
    stopped = json.loads(out)
    assert cli.run([*DATA, "--model", "net"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert stopped["confusion"] == whole["confusion"]
    plain = [{k: v for k, v in row.items() if k != "seconds"} for row in whole["rows"]]
    again = [{k: v for k, v in row.items() if k != "seconds"} for row in stopped["rows"]]
    assert again == plain


def test_only_what_changed_is_made_again(work, segmenter) -> None:
    command = [*DATA, "--model", "net", "-o", "run"]
    assert cli.run(command) == 0
    os.utime("data/val/images/b.png", ns=(1, 1))
    Path("run/labels/c.png").unlink()
    segmenter.seen.clear()
    assert cli.run(command) == 0
    assert segmenter.seen == [1, 2]
    segmenter.seen.clear()
    assert cli.run([*command, "--flip"]) == 0  # another way to look at all of them
    assert segmenter.seen == [0, 1, 2, 3]


class Truth:
    """A refiner that knows the answer for the right half of each image."""

    def __init__(self) -> None:
        self.calls = 0

    def refine_labels(
        self, image: np.ndarray, labels: np.ndarray, *, ignore_index: int
    ) -> np.ndarray:
        assert ignore_index == 255
        self.calls += 1
        truth = truth_of(int(image[0, 0, 0]) // 10)
        half = labels.shape[1] // 2
        out = labels.copy()
        out[:, half:] = truth[:, half:]
        return out


@pytest.mark.parametrize("made", [True, False])
def test_label_maps_are_measured_before_and_after(
    made, work, segmenter, monkeypatch, capsys
) -> None:
    refiner, given = Truth(), {}

    def load(method: str, **options: object) -> Truth:
        given.update(options, method=method)
        return refiner

    monkeypatch.setattr(crispseg.methods, "load_label_refiner", load)
    start = ["--model", "net"] if made else ["--predictions", "given"]
    command = [*DATA, *start, "--refiner", "w", "--method", "divide", "-o", "run"]
    assert cli.run([*command, "--report", "r.html", "--latex", "t.tex", "--layout",
                    "cascadepsp-4", "--title", "net"]) == 0  # fmt: skip
    assert (given["method"], given["model"]) == ("divide", "w")
    found = json.loads(capsys.readouterr().out)
    before, after = ConfusionMatrix(3), ConfusionMatrix(3)
    for number in range(4):
        first = np.ones((40, 60), np.uint8) if made else given_of(number)
        before.add(first, truth_of(number))
        second = Truth().refine_labels(np.full((1, 1, 3), 10 * number), first, ignore_index=255)
        after.add(second, truth_of(number))
    assert found["before"]["summary"]["mean_iou"] == before.mean_iou()
    assert found["summary"]["mean_iou"] == after.mean_iou() > before.mean_iou()
    assert found["comparison"]["mean_iou"]["first"] == pytest.approx(before.mean_iou(), abs=1e-12)
    assert found["comparison"]["mean_iou"]["p_value"] == 2 / 16
    table = Path("t.tex").read_text(encoding="utf-8")
    assert f"net & {100 * before.mean_iou():.2f} & " in table
    assert f"net + w & {100 * after.mean_iou():.2f} & " in table
    page = Path("r.html").read_text(encoding="utf-8")
    assert '"mean IoU before"' in page
    assert refiner.calls == 4  # the pictures of the report are of what was written
    assert cli.run(command) == 0
    assert refiner.calls == 4  # and so is a run that goes on
    assert json.loads(capsys.readouterr().out)["summary"]["mean_iou"] == after.mean_iou()
    if not made:
        Image.fromarray(given_of(9)).save("given/b.png")
        assert cli.run(command) == 0
        assert refiner.calls == 5  # another prediction is refined again
    readable = [part for part in command if part != "--json"]
    assert cli.run(readable) == 0
    assert "before   after   change" in capsys.readouterr().out


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """ADE20K with one image, and predictions in the numbers of its own files; those."""
    monkeypatch.chdir(tmp_path)
    ids = np.random.default_rng(0).integers(0, 151, (30, 40)).astype(np.uint8)
    ids[0, :2] = (0, 150)
    photo = np.zeros((30, 40, 3), np.uint8)
    for folder, pixels in (("ade/images", photo), ("ade/annotations", ids), ("own", ids)):
        Path(folder, "validation").mkdir(parents=True)
        Image.fromarray(pixels).save(f"{folder}/validation/one.png")
    return ids


def test_predictions_may_have_the_numbers_of_the_benchmark(benchmark, capsys) -> None:
    place = ["--dataset", "ade20k", "--root", "ade", "--predictions", "own"]
    command = ["evaluate", *place, "--quiet", "--json", "-o", "run"]
    assert cli.run(command) == 2
    message = "holds label 150; ade20k has the classes 0 to 149; if these are the numbers of its"
    assert f"{message} own files, give --prediction-ids dataset\n" in capsys.readouterr().err
    assert cli.run([*command, "--prediction-ids", "dataset"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["summary"]["mean_iou"] == report["summary"]["pixel_accuracy"] == 1
    assert report["settings"]["prediction_ids"] == "dataset"
    other = np.where(benchmark == 150, 149, benchmark)  # one number for another
    Image.fromarray(other).save("own/validation/one.png")
    assert cli.run([*command, "--prediction-ids", "dataset"]) == 0
    wrong = (benchmark == 150).sum()
    accuracy = 1 - wrong / (benchmark > 0).sum()
    found = json.loads(capsys.readouterr().out)["summary"]["pixel_accuracy"]
    assert found == pytest.approx(accuracy, abs=1e-12)
    benchmark[0, 0] = 151
    Image.fromarray(benchmark).save("own/validation/one.png")
    assert cli.run([*command, "--prediction-ids", "dataset"]) == 2
    assert "one.png: label 151 is none of this data set's" in capsys.readouterr().err
    assert cli.run(command) == 2  # no number of its own files either: no such advice
    assert "holds label 151; ade20k has the classes 0 to 149\n" in capsys.readouterr().err


def test_a_missing_prediction_is_told_before_long_work(work, monkeypatch, capsys) -> None:
    seen = Truth()
    monkeypatch.setattr(crispseg.methods, "load_label_refiner", lambda *_, **__: seen)
    Path("given/d.png").unlink()
    command = [*DATA, "--predictions", "given", "--method", "guided"]
    assert cli.run(command) == 2
    assert "given has no label map named d.png" in capsys.readouterr().err
    assert seen.calls == 0
    assert cli.run([*command, "--limit", "3"]) == 0
    assert seen.calls == 3


def test_a_method_without_weights_runs_on_label_maps_and_masks(work, capsys) -> None:
    assert cli.run([*DATA, "--predictions", "given", "--method", "guided"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["method"] == "guided"
    assert found["before"]["summary"]["images"] == 4
    for folder in ("rough", "true"):
        Path(folder).mkdir()
        for number, name in enumerate(NAMES):
            labels = given_of(number) if folder == "rough" else truth_of(number)
            Image.fromarray((labels == 1).astype(np.uint8) * 255).save(f"{folder}/{name}.png")
    command = ["evaluate", "data/val/images", "rough", "true", "--quiet", "--json"]
    assert cli.run([*command, "--method", "guided", "-o", "masks"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["method"] == "guided"
    assert len(list(Path("masks/refined").iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*DATA, "--predictions", "given", "--flip"], "--flip is for a segmenter"),
        ([*DATA, "--predictions", "given", "--method", "magnet", "--segmenter", "x"], "wants a"),
        ([*DATA, "--predictions", "given", "--refiner", "w", "--fast"], "for one object"),
        ([*DATA, "--model", "m", "--predictions", "given"], "not both"),
        ([*DATA, "--model", "m", "--prediction-ids", "dataset"], "is for --dataset with"),
        (["evaluate", "given", "--prediction-ids", "dataset"], "masks are measured"),
        ([*DATA, "--predictions", "given", "--prediction-ids", "dataset"], "hold classes; leave"),
        ([*DATA, "--model", "m", "--scales", "big"], "--scales must be numbers"),
        (["evaluate", "data/val/images", "given", "given", "--method", "divide"],
         "method divide refines label maps"),
        (["evaluate", "data/val/images", "given", "given", "--flip"], "masks are measured"),
        (["evaluate", "--labels", "data/val/labels", "--classes", "3", "--predictions", "given",
          "--method", "guided"], "refining needs the images"),
        ([*DATA, "--predictions", "given", "--latex", "t.tex", "--layout", "cascadepsp-4"],
         "were not refined"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(arguments, message, work, capsys) -> None:
    assert cli.run(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_pictures_are_of_the_worst_the_median_and_the_best() -> None:
    ranked = [f"{number:02}" for number in range(20)]  # worst first
    assert choose_rows(ranked, 5) == ["00", "01", "02", "10", "19"]
    assert choose_rows(ranked, 2) == ["00", "01"]
    assert choose_rows(ranked, 0) == []
    assert choose_rows(ranked[:4], 5) == ranked[:4]
    for most in range(3, 20):
        assert len(set(choose_rows(ranked, most))) == most
