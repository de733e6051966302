"""`crispseg evaluate` on label maps, its tables, its comparison and its report."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score

from crispseg.cli import main as cli
from crispseg.data.datasets import DATASETS
from crispseg.evaluation.page import render_page
from crispseg.evaluation.thumbnails import choose_rows

NAMES = ["b</script>ird", "cat", "dog", "elk"]
LABELS = ["--labels", "data/val/labels", "--predictions"]
CLASSES = ["ground", "tree", "sky"]
BROWSERS = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "chrome")


def maps(number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    truth = np.kron(rng.integers(0, 3, (4, 5)), np.ones((10, 12), int)).astype(np.uint8)
    prediction = np.roll(truth, number, axis=1)
    truth[:, :3] = 255
    return prediction, truth


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in the folder layout, and two folders of predictions."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data/val/images", "data/val/labels", "good", "bad"):
        Path(folder).mkdir(parents=True)
    Path("data/classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    names = [name.replace("/", "-") for name in NAMES]
    for i, name in enumerate(names):
        prediction, truth = maps(i)
        photo = np.random.default_rng(i).integers(0, 255, (*truth.shape, 3), dtype=np.uint8)
        Image.fromarray(photo).save(f"data/val/images/{name}.jpg")
        Image.fromarray(truth).save(f"data/val/labels/{name}.png")
        Image.fromarray(prediction).save(f"good/{name}.png")
        Image.fromarray(np.roll(prediction, 4, 0)).save(f"bad/{name}.png")
    return tmp_path


def measure(*arguments: str, predictions: str = "good") -> int:
    place = ["--dataset", "folder", "--root", "data", "--predictions", predictions]
    return cli.run(["evaluate", *place, "--quiet", *arguments])


def test_figures_equal_scikit_learn(work, capsys) -> None:
    assert measure("--json") == 0
    report = json.loads(capsys.readouterr().out)
    pairs = [maps(i) for i in range(4)]
    p, t = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    p, t = p[t != 255], t[t != 255]
    iou = jaccard_score(t, p, average=None)
    summary = report["summary"]
    assert summary["mean_iou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert summary["pixel_accuracy"] == pytest.approx(accuracy_score(t, p), abs=1e-12)
    assert summary["iou_of_all_pixels"] == pytest.approx(
        jaccard_score(t, p, average="micro"), abs=1e-12
    )
    assert [one["name"] for one in summary["classes"]] == CLASSES
    np.testing.assert_allclose([one["iou"] for one in summary["classes"]], iou, 0, 1e-12)
    assert np.sum(report["confusion"]) == len(t)
    assert [row["name"] for row in report["rows"]] == sorted(
        name.replace("/", "-") for name in NAMES
    )


def test_the_table_names_classes_and_the_worst_images(work, capsys) -> None:
    assert measure() == 0
    out = capsys.readouterr().out
    assert re.search(r"^sky +\d+\.\d\d +\d+\.\d\d", out, re.MULTILINE)
    assert "worst 4 of 4 images" in out
    assert re.search(r"^mean IoU of the classes +\d+\.\d\d$", out, re.MULTILINE)


def test_label_maps_alone_are_enough(work, capsys) -> None:
    place = ["--labels", "data/val/labels", "--predictions", "good", "--quiet", "--json"]
    assert measure("--json") == 0
    with_images = json.loads(capsys.readouterr().out)
    for classes in ("3", "data/classes.txt"):
        assert cli.run(["evaluate", *place, "--classes", classes]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["rows"] == with_images["rows"]
    assert cli.run(["evaluate", *place, "--classes", "3", "--report", "grey.html"]) == 0
    assert "data:image/jpeg" in Path("grey.html").read_text(encoding="utf-8")


def test_predictions_may_be_void_where_the_truth_is(work, capsys) -> None:
    place = ["--labels", "data/val/labels", "--quiet", "--json", "--classes", "3"]
    assert cli.run(["evaluate", *place, "--predictions", "data/val/labels"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["mean_iou"] == summary["mba_released"] == 1
    for path in Path("good").iterdir():
        labels = np.array(Image.open(path))
        labels[20, 30] = 255  # where the truth is a class
        Image.fromarray(labels).save(path)
    assert cli.run(["evaluate", *place, "--predictions", "good"]) == 2
    assert "the prediction holds label 255" in capsys.readouterr().err


def test_predictions_are_found_by_the_names_of_the_images(tmp_path, capsys) -> None:
    """Cityscapes' label maps are named unlike its images; predictions lie in a folder a city."""
    name = "bonn_000000_000019"
    for kind, ending, label in (
        ("root/leftImg8bit/val", "leftImg8bit", 0),
        ("root/gtFine/val", "gtFine_labelIds", 7),
        ("predictions", "leftImg8bit", 0),
    ):
        (tmp_path / kind / "bonn").mkdir(parents=True)
        pixels = np.full((4, 5), label, np.uint8)
        Image.fromarray(pixels).save(tmp_path / kind / f"bonn/{name}_{ending}.png")
    place = ["--dataset", "cityscapes", "--root", str(tmp_path / "root"), "--quiet", "--json"]
    command = ["evaluate", *place, "--predictions", str(tmp_path / "predictions")]
    assert cli.run(command) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["mean_iou"] == 1
    Image.fromarray(pixels + 3).save(tmp_path / f"predictions/{name}.png")
    assert cli.run(command) == 0  # its own name goes before
    assert json.loads(capsys.readouterr().out)["summary"]["mean_iou"] == 0
    (tmp_path / f"predictions/{name}.png").rename(tmp_path / f"predictions/bonn/{name}.png")
    assert cli.run(command) == 2
    assert f"both named like {name}; keep one" in capsys.readouterr().err


def test_names_with_folders_are_taken_as_they_are(tmp_path, capsys) -> None:
    for kind in ("truth", "predictions"):
        for name in ("abacus/1", "wheel/1")[: 2 if kind == "truth" else 1]:
            (tmp_path / kind / name).parent.mkdir(parents=True)
            Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / kind / f"{name}.png")
    place = ["--labels", str(tmp_path / "truth"), "--predictions", str(tmp_path / "predictions")]
    assert cli.run(["evaluate", *place, "--classes", "2", "--quiet"]) == 2
    assert "has no label map named wheel/1.png" in capsys.readouterr().err


def test_results_tables_and_comparison(work, capsys) -> None:
    assert measure("-o", "one", predictions="bad") == 0
    assert measure("-o", "two", "--latex", "t.tex", "--also", "worse & old=one", "--title",
                   "ours", "--layout", "magnet-4") == 0  # fmt: skip
    lines = Path("t.tex").read_text(encoding="utf-8").splitlines()
    assert lines[2] == r"Model & mIoU (\%) & Memory (MB) & Time (s) \\"
    assert lines[4].startswith("ours & ")
    assert lines[5].startswith(r"worse \& old & ")
    with Path("two/images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    results = json.loads(Path("two/results.json").read_text(encoding="utf-8"))
    assert [float(r["mean_iou"]) for r in rows] == [r["mean_iou"] for r in results["rows"]]
    capsys.readouterr()
    assert cli.run(["evaluate", "two/results.json", "--against", "one", "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)["comparison"]
    one = json.loads(Path("one/results.json").read_text(encoding="utf-8"))
    assert {"mean_iou", "pixel_accuracy", "mean_accuracy", "iou_of_all_pixels", "image_iou",
            "mba_released", "mba_paper"} == comparison.keys()  # fmt: skip
    for key, found in comparison.items():
        assert found["first"] == pytest.approx(one["summary"][key], abs=1e-12)
        assert found["second"] == pytest.approx(results["summary"][key], abs=1e-12)
        assert found["low"] <= found["second"] - found["first"] <= found["high"]
    found = comparison["mean_iou"]
    assert found["p_value"] == 2 / 16  # all four images are better: 2 of 16 ways are as extreme
    assert cli.run(["evaluate", "two/results.json", "--against", "one"]) == 0
    by_file = capsys.readouterr().out
    assert "95 % interval" in by_file
    Path("two/sheet.png").write_bytes(b"")  # a run's folder may hold pictures
    assert cli.run(["evaluate", "two", "--against", "one"]) == 0
    assert capsys.readouterr().out == by_file


class Page(html.parser.HTMLParser):
    """What is in a page: places of its data, references that leave it, tags left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.data, self._in_data = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        values = dict(attrs)
        self.outside += [v for k, v in attrs if k in ("src", "href") and v]
        self._in_data = values.get("id") == "data"
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag
        self._in_data = False

    def handle_data(self, data) -> None:
        self.data += data if self._in_data else ""


def test_the_report_is_one_whole_file(work, capsys) -> None:
    assert measure("-o", "one", predictions="bad") == 0
    assert measure("--report", "r.html", "--against", "one", "--pictures", "3") == 0
    page = Page(Path("r.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.outside == []  # pictures are data, scripts and styles within
    data = json.loads(page.data)
    assert {row[0] for row in data["rows"]} == {name.replace("/", "-") for name in NAMES}
    assert sum(bool(row[1]) for row in data["rows"]) == 3
    assert [item["name"] for item in data["bars"][0]["items"]] != []
    assert data["tests"]["lines"]
    assert "<" not in page.data  # a name cannot end the data, or be markup


def test_a_large_report_stays_small(work) -> None:
    picture = "data:image/jpeg;base64," + "A" * 9000
    row = {"mean_iou": 0.5, "accuracy": 0.5, "mba_released": None, "mba_paper": 0.5, "seconds": 0.0}
    rows = [{"name": f"street_{i:06}", "counts": {"0": [1, 2, 2]}} | row for i in range(2000)]
    summary = {"images": 2000, "classes": [{"name": "ground", "iou": 0.5}], "mean_iou": 0.5}
    report = {"kind": "labels", "settings": {}, "inputs": {}, "summary": summary, "rows": rows}
    names = choose_rows([one["name"] for one in rows], 60)
    page = render_page(report, title="x", pictures=dict.fromkeys(names, picture))
    assert page.count(picture) == 60
    assert len(page) < 1_000_000


def test_images_of_one_run_only_are_told(work, capsys) -> None:
    assert measure("-o", "one") == 0
    Path("data/val/labels/cat.png").unlink()
    Path("data/val/images/cat.jpg").unlink()
    capsys.readouterr()
    assert measure("--against", "one") == 0
    out = capsys.readouterr().out
    assert "(1 images are in one of them only, and left out); 3 images" in out
    assert re.search(r"mean IoU of the classes .* \+0.00 +\+0.00 .. \+0.00 +1.0000", out)


SORT = """
<pre id="answer"></pre><script>
const all = query => [...document.querySelectorAll(query)];
const cells = i => all("#rows tbody tr").map(row => row.cells[i].textContent);
const answers = [cells(2)];
all("#rows thead button")[1].click(); answers.push(cells(2));
all("#rows thead button")[0].click(); answers.push(cells(0));
const filter = document.getElementById("filter"); filter.value = "CA";
filter.dispatchEvent(new Event("input"));
answers.push([document.getElementById("count").textContent]);
answers.push([...document.images].map(i => i.naturalWidth > 0));
answers.push([all("path.curve").length, all("rect.bar").length]);
document.getElementById("answer").textContent = JSON.stringify(answers);
</script></body>"""


def test_the_report_sorts_in_a_browser(work, tmp_path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    assert measure("--report", "r.html") == 0
    text = Path("r.html").read_text(encoding="utf-8").replace("</body>", SORT)
    Path("probe.html").write_text(text, encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    done = subprocess.run(
        [*command, (tmp_path / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    answer = html.unescape(re.search(r'<pre id="answer">(.*?)</pre>', done.stdout).group(1))
    first, turned, by_name, count, pictures, shapes = json.loads(answer)
    worst_first = sorted(first, key=float)
    assert first == worst_first
    assert len(set(first)) > 2
    assert turned == worst_first[::-1]
    assert by_name == sorted(name.replace("/", "-") for name in NAMES)
    assert count == ["1 of 4 images"]
    assert pictures == [True]
    assert shapes == [1, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "folder"], "--dataset needs --root"),
        (["--dataset", "folder", "--root", "data", "--labels", "x"], "not both"),
        (["--labels", "data/val/labels", "--predictions", "good"], "--labels needs --classes"),
        (["--dataset", "folder", "--root", "data"], "give --model"),
        ([], "say what to measure"),
        (["--dataset", "folder", "--root", "data", "--predictions", "no"], "no such folder"),
        (["data/classes.json"], "cannot read"),
        (["--labels", "good", "--predictions", "good", "--classes", "2"], "holds label 2"),
        (["--report", "x.txt", "data"], "must end in .html"),
        (["--also", "x", "data"], "TITLE=FILE"),
        ([*LABELS, "wide", "--classes", "3"], "holds label 300"),
        ([*LABELS, "colours", "--classes", "3"], "save class numbers as grey or palette"),
        ([*LABELS, "cut", "--classes", "3"], "damaged or incomplete"),
        ([*LABELS, "small", "--classes", "3"], "but the truth is (40, 60)"),
        ([*LABELS, "nothing", "--classes", "3"], "has no label map named"),
        ([*LABELS, "good", "--classes", "3", "-o", "data/classes.txt"], "classes.txt is a file"),
        (["--dataset", "folder", "--root", "nothing", "--predictions", "good"], "is not a folder"),
    ],
)
def test_bad_input_is_one_line(arguments, message, work, capsys) -> None:
    spoil(work)
    before = sorted(work.rglob("*"))
    assert cli.run(["evaluate", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    tree = "nothing" in arguments and "--dataset" in arguments  # an error that shows the tree
    assert tree or err.count("\n") == 1
    assert message in err
    assert sorted(work.rglob("*")) == before  # nothing half-written


def test_a_wrong_root_shows_the_tree_line_by_line(work, capsys) -> None:
    arguments = ["--dataset", "camvid", "--root", "nothing", "--predictions", "good"]
    assert cli.run(["evaluate", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: nothing is not CamVid: there is no val/images")
    assert lines[1:-1] == DATASETS["camvid"].tree.splitlines()
    assert lines[-1].startswith("get it from ")


def spoil(work: Path) -> None:
    """Folders of predictions that cannot be measured."""
    for folder in ("wide", "colours", "cut", "small", "nothing"):
        (work / folder).mkdir()
    for path in (work / "good").iterdir():
        labels = np.array(Image.open(path))
        Image.fromarray(labels.astype(np.uint16) * 150).save(work / "wide" / path.name)
        Image.fromarray(np.stack([labels] * 4, 2)).save(work / "colours" / path.name)
        Image.fromarray(labels[:-1]).save(work / "small" / path.name)
        (work / "cut" / path.name).write_bytes(path.read_bytes()[:-40])


class Zero:
    """A segmenter that sees ground everywhere."""

    num_classes = 3

    def segment(self, image: np.ndarray) -> np.ndarray:
        return np.zeros(image.shape[:2], np.uint8)


def test_a_segmenter_runs_on_a_data_set(work, monkeypatch, capsys) -> None:
    import crispseg.segmenters.load

    monkeypatch.setattr(crispseg.segmenters.load, "load_segmenter", lambda *_, **__: Zero())
    command = ["evaluate", "--dataset", "folder", "--root", "data", "--model", "x", "--quiet"]
    assert cli.run([*command, "-o", "out", "--json", "--report", "r.html"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["settings"]["peak_memory_mb"] > 10
    assert made["summary"]["classes"][0]["accuracy"] == 1
    assert sum(row["seconds"] for row in made["rows"]) > 0
    assert measure("--json", predictions="out/labels") == 0  # what it wrote gives the same
    given = json.loads(capsys.readouterr().out)
    assert given["confusion"] == made["confusion"]
    monkeypatch.setattr(Zero, "num_classes", 4)
    assert cli.run(command) == 2
    assert "x knows 4 classes, folder has 3" in capsys.readouterr().err


def test_objects_are_refined(work, monkeypatch, capsys) -> None:
    import crispseg.pipeline

    class Eraser:
        def refine(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
            assert mask.dtype == bool
            return np.zeros(mask.shape, np.float32)

    monkeypatch.setattr(crispseg.pipeline, "load_refiner", lambda *_, **__: Eraser())
    for name in ("good", "data/val/labels"):
        for path in Path(name).iterdir():
            pixels = np.array(Image.open(path))
            Image.fromarray(np.where(pixels == 2, 1, pixels).astype(np.uint8)).save(path)
    Path("data/classes.txt").write_text("ground\nobject", encoding="utf-8")
    assert measure("--json", "--refiner", "x") == 0
    classes = json.loads(capsys.readouterr().out)["summary"]["classes"]
    assert [one["accuracy"] for one in classes] == [1, 0]
