"""What ``crispseg bench`` says follows from what a clock says; here the clock is made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import crispseg.bench as bench
import crispseg.cli.bench as command
import crispseg.cli.main as cli
from crispseg.io import write_image, write_mask
from crispseg.models.build import build
from crispseg.models.weights import LoadedModel
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.types import Size


class Clock:
    """Every look at it takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture(scope="module")
def refiner() -> CascadeRefiner:
    torch.manual_seed(0)
    module = build("cascadepsp-lite")
    model = LoadedModel(module, (0.5,) * 3, (0.5,) * 3, architecture="cascadepsp-lite", source="-")
    return CascadeRefiner(model, device="cpu", tile_size=128)


@pytest.fixture
def picture(tmp_path: Path) -> tuple[Path, Path]:
    """190x130 pixels, a rectangle of 100x60: two tiles of 120x130, both with an edge."""
    rng = np.random.default_rng(0)
    mask = np.zeros((130, 190), np.float32)
    mask[30:90, 40:140] = 1
    write_image(tmp_path / "image.png", rng.integers(0, 256, (130, 190, 3), dtype=np.uint8))
    write_mask(tmp_path / "mask.png", mask)
    return tmp_path / "image.png", tmp_path / "mask.png"


def test_every_second_is_in_one_step(refiner: CascadeRefiner, picture: tuple[Path, Path]) -> None:
    network = refiner.network
    measured = bench.measure(refiner, *picture, seconds=0, clock=Clock())
    assert refiner.network is network
    assert measured.size == (130, 190)
    assert measured.boundary_px == 2 * (60 + 100)
    assert measured.tiles_run == 2
    looks = 2  # at the whole: a network of chance changes much
    runs = looks + measured.tiles_run  # each takes the second between two looks at the clock
    assert measured.seconds == {
        "decode": 1,
        "global step": looks,
        "local tiles": measured.tiles_run,
        "blend": runs + 1,  # what passed between the others
        "encode": 1,
    }
    assert measured.total == 1 + (2 * runs + 1) + 1
    assert measured.pixels == {"global step": looks * 88 * 128, "local tiles": 2 * 120 * 130}


def test_rounds_end_with_the_time(refiner: CascadeRefiner, picture: tuple[Path, Path]) -> None:
    clock = Clock()
    bench.measure(refiner, *picture, seconds=0, clock=clock)
    each = clock.now - 2
    for seconds, rounds in ((2.5 * each, 2), (99 * each, 3)):
        clock = Clock()
        bench.measure(refiner, *picture, seconds=seconds, clock=clock)
        assert round(clock.now / each) == rounds


def test_expected_seconds_by_hand() -> None:
    """A square half of the image: the tiles that its edge crosses, and the megapixels around."""
    mask = np.zeros((100, 100), np.float32)
    mask[:, :50] = 1
    measured = bench.Measured(
        Size(1000, 1000),
        1000,
        2,
        {"decode": 0.5, "global step": 1.0, "local tiles": 4.0, "blend": 0.25, "encode": 0.25},
        {"global step": 10_000, "local tiles": 20_000},
    )
    # 1200x1200 is one step from 900: three rows of tiles of 500x1200, the edge at x = 600 in all.
    # A pixel of the mask is 12, 600..612; 96 more to both sides are 204, in steps of 64 256.
    found = bench.expected(measured, mask, 1.44, tile_size=900)
    assert found["size"] == [1200, 1200]
    assert found["tiles"] == 3
    by_hand = 810_000 * 1.0 / 10_000 + 3 * 500 * 256 * 4.0 / 20_000 + 1.44 * 1.0
    assert found["seconds"] == pytest.approx(by_hand, abs=0.05)


def test_sample_keeps_proportions_and_the_mask_hard() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    mask = np.zeros((40, 60), np.float32)
    mask[10:30, 20:50] = 1
    for side in (30, 90):
        pixels, given = bench.sample(image, mask, side)
        assert pixels.shape == (side * 2 // 3, side, 3)
        assert pixels.dtype == np.uint8
        assert set(np.unique(given)) == {0, 1}
        assert given.mean() == pytest.approx(0.25, abs=0.01)


def test_ceilings_leave_out_what_is_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([5e9, 8e9, 1e9, 6e9, 16e9])  # fp32 twice, bf16 once, fp16 twice
    monkeypatch.setattr(bench, "_speed", lambda *_: next(speeds))
    assert bench.ceilings(torch.device("cpu"), 1) == {"fp32": 8.0, "fp16": 16.0}


def test_the_command(
    picture: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(bench, "ceilings", lambda *_: {"fp32": 80.0})
    image, mask = map(str, picture)
    out = tmp_path / "figures.json"
    assert cli.run(["bench", "--quick", "--image", image, "--mask", mask, "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "48 megapixels: about" in shown
    report = json.loads(out.read_text())
    assert report["picture"]["width"] == 190
    assert sum(report["shares"].values()) == pytest.approx(1, abs=0.001)
    assert report["seconds"]["all"] == pytest.approx(
        sum(report["seconds"][k] for k in bench.STEPS), abs=0.001
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--image", "a.jpg"], "belong together"),
        (["--image", "a.jpg", "--mask", "b.png"], "a.jpg"),
        (["--model", "nothing"], "is called 'nothing'"),
        (["--device", "tpu"], "unknown device"),
        (["--json", "figures.txt"], ".json"),
        (["--json", "no/such/figures.json"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(options, words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "ceilings", lambda *_: {})
    assert cli.run(["bench", *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_the_default_picture_is_two_tiles_and_more() -> None:
    assert command.LONG_SIDE > command.TILE_SIZE
