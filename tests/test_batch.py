"""Many images: the three steps overlap, and nothing else changes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from crispseg.batch import Outcome, Steps, overlapped, refine_files, segment_files
from crispseg.io import write_image, write_mask
from crispseg.io.labels import read_labels
from crispseg.large import Job
from crispseg.models.build import build
from crispseg.models.weights import LoadedModel
from crispseg.pipeline import refine_file
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.segmenters.adapters import from_callable
from crispseg.types import InputError

PATIENCE = 20.0  # seconds; only a failure waits so long


def same(item: int, value: object = None) -> object:
    return item if value is None else value


def test_the_next_is_read_and_the_last_written_while_the_network_runs() -> None:
    read_begun = [threading.Event() for _ in range(4)]
    make_begun = [threading.Event() for _ in range(4)]
    write_may_end = [threading.Event() for _ in range(4)]
    too_early: list[int] = []

    def read(i: int) -> int:
        if i >= 2 and not make_begun[i - 1].is_set() and not read_begun[i - 1].is_set():
            too_early.append(i)
        read_begun[i].set()
        return i

    def make(i: int, value: int) -> int:
        make_begun[i].set()
        if i < 3:
            assert read_begun[i + 1].wait(PATIENCE), "the next is not read meanwhile"
        if i < 2 and read_begun[i + 2].is_set():
            too_early.append(i + 2)
        if i > 0:
            write_may_end[i - 1].set()  # would wait for ever if writing were not beside
        return value

    def write(i: int, value: int) -> int:
        assert i == 3 or write_may_end[i].wait(PATIENCE), "not written meanwhile"
        return 10 * value

    found = list(overlapped(range(4), Steps(read, make, write)))
    assert found == [Outcome(i, 10 * i) for i in range(4)]
    assert too_early == []


@pytest.mark.parametrize("step", ["read", "make", "write"])
@pytest.mark.parametrize("bad", [0, 1, 3])
def test_an_error_of_one_does_not_stop_the_others(step: str, bad: int) -> None:
    def fail(item: int, value: object = None) -> object:
        if item == bad:
            raise InputError(f"no {item}")
        return same(item, value)

    steps = {"read": same, "make": same, "write": same} | {step: fail}
    found = list(overlapped([0, 1, 2, 3], Steps(**steps)))
    assert [one.item for one in found] == [0, 1, 2, 3]
    assert [str(one.error) for one in found if one.result is None] == [f"no {bad}"]
    assert [one.result for one in found if one.error is None] == [i for i in range(4) if i != bad]


def test_ctrl_c_ends_it_with_the_last_one_written() -> None:
    events: list[str] = []

    def make(i: int, _: object) -> int:
        if i == 2:
            raise KeyboardInterrupt
        return i

    def note(step: str) -> object:
        return lambda i, *_: events.append(f"{step} {i}") or i

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        list(overlapped(range(9), Steps(note("read"), make, note("write"))))
    assert [e for e in events if e.startswith("write")] == ["write 0", "write 1"]
    assert "read 4" not in events
    assert threading.active_count() == before


def test_other_errors_pass() -> None:
    def bug(_: int) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(overlapped([1, 2], Steps(bug, same, same)))


@pytest.fixture(scope="module")
def refiner() -> CascadeRefiner:
    torch.manual_seed(0)
    module = build("cascadepsp-lite")
    model = LoadedModel(module, (0.5,) * 3, (0.5,) * 3, architecture="cascadepsp-lite", source="-")
    return CascadeRefiner(model, device="cpu", tile_size=128)


def test_files_are_those_of_one_at_a_time(tmp_path: Path, refiner: CascadeRefiner) -> None:
    rng = np.random.default_rng(0)
    jobs = []
    for i, (height, width) in enumerate([(60, 80), (150, 140), (90, 70)]):
        image, mask, out = (tmp_path / f"{i}{end}" for end in (".jpg", "_m.png", "_out.png"))
        write_image(image, rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        given = np.zeros((height, width), np.float32)
        given[20:50, 15 : 40 + 5 * i] = 1
        write_mask(mask, given)
        jobs.append(Job(image, mask, out))
    jobs.insert(1, Job(tmp_path / "none.jpg", jobs[0].mask, tmp_path / "none.png"))
    seen: list[tuple[int, int]] = []
    found = list(refine_files(jobs, refiner, progress=lambda *counts: seen.append(counts)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [outcome.error is None for outcome in found] == [True, False, True, True]
    assert "none.jpg" in str(found[1].error)
    for job, outcome in zip(jobs, found, strict=True):
        if outcome.error is None:
            alone = tmp_path / "alone.png"
            assert refine_file(job.image, job.mask, alone, refiner=refiner) == outcome.result
            assert alone.read_bytes() == job.output.read_bytes()


def test_label_maps_of_many(tmp_path: Path) -> None:
    def thirds(image: np.ndarray) -> np.ndarray:
        return np.stack([image[..., c] == image.max(axis=2) for c in range(3)]) / 3

    segmenter = from_callable(thirds, num_classes=3, output="logits")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for name in "ab":
        write_image(tmp_path / f"{name}.png", image)
    jobs = [(tmp_path / f"{name}.png", tmp_path / f"{name}_labels.png") for name in "ab"]
    for outcome in segment_files(jobs, segmenter):
        expected = segmenter.segment(image)
        np.testing.assert_array_equal(read_labels(outcome.item[1]), expected)
        assert outcome.result.pixels == tuple(np.bincount(expected.ravel(), minlength=3))


def test_failed_ones_hold_no_pixels() -> None:
    def make(number: int, pixels: np.ndarray) -> int:
        raise InputError(f"{number} of {len(pixels)}")

    steps = Steps(lambda number: np.zeros(9), make, lambda number, made: made)
    for outcome in overlapped([1, 2], steps):
        assert str(outcome.error) == f"{outcome.item} of 9"
        assert outcome.error.__traceback__ is None
        assert outcome.error.__context__ is None
