"""`crispseg refine` through its real door: exit codes, one-line errors, files written or not."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispseg.cli import main as cli
from crispseg.models.build import build
from crispseg.models.weights import save_weights

SIZE = (90, 120)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photo.jpg and mask.png, and nothing else."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save("photo.jpg")
    mask = np.zeros(SIZE, np.uint8)
    mask[20:70, 30:80] = 255
    Image.fromarray(mask).save("mask.png")
    return tmp_path


def refine(model: Path, *arguments: str) -> int:
    return cli.run(["refine", "--model", str(model), "--tile-size", "128", *arguments])


def shown(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_result_is_grey_of_the_size_of_the_image(work, model, capsys) -> None:
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.png", "--preview", "look.png") == 0
    assert shown("out.png").shape == SIZE
    assert shown("look.png").shape[2] == 3
    assert "pixels changed" in capsys.readouterr().out
    assert sorted(os.listdir()) == ["look.png", "mask.png", "out.png", "photo.jpg"]


def test_binary_writes_two_values(work, model) -> None:
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.png", "--binary") == 0
    assert set(np.unique(shown("out.png"))) <= {0, 255}


def test_quiet_prints_nothing_and_json_prints_json(work, model, capsys) -> None:
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.png", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.png", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output"] == "out.png"
    assert report["tiles_run"] == report["tiles_planned"] >= 1
    assert 0 <= report["changed_fraction"] <= 1


def test_fast_stops_after_the_global_step(work, capsys, model) -> None:
    planned = []
    for options in ((), ("--fast",)):
        assert refine(model, "photo.jpg", "mask.png", "-o", "out.png", "--json", *options) == 0
        planned.append(json.loads(capsys.readouterr().out)["tiles_planned"])
    assert planned[0] >= 1
    assert planned[1] == 0


@pytest.mark.parametrize("options", [["--mode", "published"], ["--roi", "0,0,50,50"]])
def test_options_reach_the_refiner(options, work, model) -> None:
    assert refine(model, "photo.jpg", "mask.png", "-o", "plain.png") == 0
    assert refine(model, "photo.jpg", "mask.png", "-o", "other.png", *options) == 0
    assert Path("plain.png").read_bytes() != Path("other.png").read_bytes()


def test_empty_and_full_masks_stay_as_they_are(work, model) -> None:
    for value in (0, 255):
        Image.fromarray(np.full(SIZE, value, np.uint8)).save("flat.png")
        assert refine(model, "photo.jpg", "flat.png", "-o", "out.png") == 0
        assert (shown("out.png") == value).all()


def test_a_picture_too_narrow_to_refine_is_told(work, model, capsys) -> None:
    pixels, rough = np.asarray(Image.open("photo.jpg"))[:9], np.asarray(Image.open("mask.png"))
    at = int(np.flatnonzero(rough.any(axis=1))[5])
    Image.fromarray(pixels).save("narrow.png")
    Image.fromarray(rough[at : at + 9]).save("rows.png")
    for fast in ([], ["--fast"]):
        assert refine(model, "narrow.png", "rows.png", "-o", "out.png", *fast) == 0
        assert "refining takes 12 pixels on each side" in capsys.readouterr().out
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.png") == 0
    assert "refining takes" not in capsys.readouterr().out


def test_a_mask_without_an_object_is_told(work, model, capsys) -> None:
    labels = np.arange(12, dtype=np.uint8).repeat(SIZE[1])[: SIZE[1] * SIZE[0]]
    Image.fromarray(np.resize(labels, SIZE)).save("labels.png")
    for mask, told in (("labels.png", True), ("mask.png", False)):
        assert refine(model, "photo.jpg", mask, "-o", "out.png") == 0
        assert ("no pixel above one half" in capsys.readouterr().out) is told


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises pixels it does not have."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (struct.pack(">I", len(header) - 4), header, struct.pack(">I", zlib.crc32(header)))
    )


def break_mask_size() -> None:
    Image.fromarray(np.zeros((50, 50), np.uint8)).save("mask.png")


def break_nan() -> None:
    np.save("mask.npy", np.full(SIZE, np.nan, np.float32))


CASES = {
    "mask of another size": (break_mask_size, [], "mask.png is 50x50 but photo.jpg is 120x90"),
    "empty file": (lambda: Path("photo.jpg").write_bytes(b""), [], "photo.jpg"),
    "truncated JPEG": (
        lambda: Path("photo.jpg").write_bytes(Path("photo.jpg").read_bytes()[:3000]),
        [],
        "photo.jpg",
    ),
    "text named .png": (lambda: Path("mask.png").write_text("hello there\n"), [], "mask.png"),
    "folder as mask": (
        lambda: (Path("mask.png").unlink(), Path("mask.png").mkdir()),
        [],
        "mask.png",
    ),
    "missing image": (lambda: Path("photo.jpg").unlink(), [], "photo.jpg"),
    "40,000 x 40,000 without data": (
        lambda: Path("photo.jpg").write_bytes(png_header(40_000, 40_000)),
        [],
        "photo.jpg",
    ),
    "NaN in a float mask": (break_nan, ["MASK=mask.npy"], "NaN"),
    "unknown suffix": (lambda: None, ["-o", "out.xyz"], "xyz"),
    "missing folder": (lambda: None, ["-o", "nowhere/out.png"], "nowhere"),
    "output over input": (lambda: None, ["-o", "mask.png"], "is an input"),
    "preview over output": (lambda: None, ["--preview", "out.png"], "different files"),
    "confidence over output": (lambda: None, ["--confidence", "out.png"], "different files"),
    "confidence of no kind": (lambda: None, ["--confidence", "sure.xyz"], "sure.xyz"),
    "unknown model": (lambda: None, ["--model", "cascadepsp"], "did you mean"),
    "unknown device": (lambda: None, ["--device", "tpu"], "unknown device"),
    "no such GPU": (lambda: None, ["--device", "cuda:99"], "cuda:99"),
    "tiny tiles": (lambda: None, ["--tile-size", "8"], "128 or more"),
    "bad ROI": (lambda: None, ["--roi", "1,2,3"], "four integers"),
    "ROI outside": (lambda: None, ["--roi", "0,0,999,5"], "reaches out"),
    "limit that is no number": (lambda: None, ["--max-megapixels", "nan"], "above 0, not nan"),
    "limit without end": (lambda: None, ["--max-megapixels", "inf"], "above 0, not inf"),
    "too many pixels": (lambda: None, ["--max-megapixels", "0.001"], "--max-megapixels"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_writes_nothing(case, work, model, capfd) -> None:
    prepare, options, expected = CASES[case]
    prepare()
    before = {p.name: p.read_bytes() for p in work.iterdir() if p.is_file()}
    mask = next((o.split("=")[1] for o in options if o.startswith("MASK=")), "mask.png")
    options = [o for o in options if not o.startswith("MASK=")]
    assert refine(model, "photo.jpg", mask, "-o", "out.png", *options) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert "Traceback" not in err
    assert {p.name: p.read_bytes() for p in work.iterdir() if p.is_file()} == before


def test_a_turned_photo_fits_the_mask_as_it_is_seen(work, model, capfd) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(shown("photo.jpg")).save("turned.jpg", exif=exif)
    assert refine(model, "turned.jpg", "mask.png", "-o", "out.png") == 2
    assert "EXIF orientation" in capfd.readouterr().err
    Image.fromarray(np.rot90(shown("mask.png"), 3)).save("seen.png")
    assert refine(model, "turned.jpg", "seen.png", "-o", "out.png") == 0
    assert shown("out.png").shape == (SIZE[1], SIZE[0])


def test_confidence_is_written_beside_the_mask(work, model) -> None:
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.npy", "--confidence", "sure.png") == 0
    probability = np.load("out.npy")
    sure = np.asarray(Image.open("sure.png"))
    assert sure.min() >= 127
    expected = np.rint(255 * np.maximum(probability, 1 - probability))
    np.testing.assert_array_equal(sure, expected)


def test_guard_and_calibration_can_be_switched_off(work, tmp_path, capsys) -> None:
    """A guard that trusts nothing gives the input back, and says how much it undid."""
    torch.manual_seed(0)
    module = build("cascadepsp-lite")
    names = ("constant", "log_share", "log_thickness", "certainty", "added")
    guard = json.dumps(dict.fromkeys(names, 0) | {"constant": -50})
    path = tmp_path / "wary.safetensors"
    about = {"temperature": "2", "guard": guard}
    save_weights(
        path,
        module,
        architecture="cascadepsp-lite",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        metadata=about,
    )
    assert refine(path, "photo.jpg", "mask.png", "-o", "a.png", "--json") == 0
    guarded = json.loads(capsys.readouterr().out)
    assert guarded["kept_pixels"] > 0
    off = ("--no-guard", "--no-calibrated")
    assert refine(path, "photo.jpg", "mask.png", "-o", "b.png", "--json", *off) == 0
    free = json.loads(capsys.readouterr().out)
    assert free["kept_places"] == 0
    assert free["changed_pixels"] == guarded["changed_pixels"] + guarded["kept_pixels"]


def test_an_interrupted_run_leaves_no_output(work, model, monkeypatch, capfd) -> None:
    def interrupt(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crispseg.refiners.cascade.CascadeRefiner.run", interrupt)
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.png") == 130
    assert capfd.readouterr().err.count("\n") == 1
    assert sorted(os.listdir()) == ["mask.png", "photo.jpg"]


def test_too_little_memory_says_what_to_try(work, model, monkeypatch, capfd) -> None:
    def ask_for_too_much(*_args: object, **_options: object) -> None:
        torch.empty(2**60)

    monkeypatch.setattr("crispseg.refiners.cascade.CascadeRefiner.run", ask_for_too_much)
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.png") == 2
    error = capfd.readouterr().err
    assert "--tile-size" in error
    assert error.count("\n") == 1


def test_a_preview_that_fails_leaves_no_output(work, model, monkeypatch) -> None:
    def fail(*_args: object) -> None:
        raise MemoryError

    monkeypatch.setattr("crispseg.preview.render_preview", fail)
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.png", "--preview", "look.png") == 2
    assert sorted(os.listdir()) == ["mask.png", "photo.jpg"]


def test_sigterm_removes_the_temporary_file(work, model, monkeypatch) -> None:
    seen: list[str] = []

    def be_terminated(*_args: object) -> None:
        seen.extend(os.listdir())
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    monkeypatch.setattr("crispseg.io.encode._save_with_vips", be_terminated)
    options = ["--model", str(model), "--tile-size", "128"]
    command = ["crispseg", "refine", "photo.jpg", "mask.png", "-o", "out.png", *options]
    monkeypatch.setattr(sys, "argv", command)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert stop.value.code == 143
    assert len(seen) == 3
    assert sorted(os.listdir()) == ["mask.png", "photo.jpg"]


def test_a_fast_run_speaks_of_no_tiles(work, model, capsys) -> None:
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.png", "--fast") == 0
    assert "tiles" not in capsys.readouterr().out


def test_an_error_of_ours_is_one_line_too(work, model, monkeypatch, capfd) -> None:
    def break_down(*_args: object, **_options: object) -> None:
        raise RuntimeError("something\nodd")

    monkeypatch.setattr("crispseg.refiners.cascade.CascadeRefiner.run", break_down)
    assert refine(model, "photo.jpg", "mask.png", "-o", "out.png") == 1
    error = capfd.readouterr().err
    assert "something odd" in error
    assert "bug in crispseg" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0),
        (["--help"], 0),
        (["--version"], 0),
        (["refine", "--help"], 0),
        (["refine"], 2),
        (["refine", "a", "b", "-o", "c", "--mode", "fancy"], 2),
        (["nothing"], 2),
    ],
)
def test_usage(arguments, code, capfd) -> None:
    assert cli.run(arguments) == code
    err = capfd.readouterr().err
    assert err.count("\n") == (1 if code else 0)


def test_a_reader_that_has_gone_is_no_error() -> None:
    command = Path(sys.executable).parent / "crispseg"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([command, "models"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_installed_command_runs() -> None:
    command = Path(sys.executable).parent / "crispseg"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("crispseg ")
