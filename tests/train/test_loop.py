"""The loop on samples that need no data: it learns, and a stopped run goes on bit for bit."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Discs, recipe

from crispseg.models.weights import load_model
from crispseg.train.checkpoint import CHECKPOINT
from crispseg.train.distributed import Group
from crispseg.train.loop import train, try_out
from crispseg.train.run import Run
from crispseg.types import CrispsegError, InputError


def run(config, said=None, **more):
    say = (lambda _line: None) if said is None else said.append
    return train(config, samples=Discs(), say=say, **more)


def records(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in TIMES} for x in lines]


TIMES = ("minutes", "samples_per_second")


def same_weights(first: Path, second: Path) -> None:
    expected, given = (load_model(p).module.state_dict() for p in (first, second))
    for key, value in expected.items():
        assert torch.equal(given[key], value), key


def interrupt_in_step(monkeypatch, step: int, number: signal.Signals) -> None:
    """Send a signal between the optimiser's step and the average's update."""
    update = Run._update_average

    def interrupted(self: Run) -> None:
        if self.step == step:
            signal.raise_signal(number)
        update(self)

    monkeypatch.setattr(Run, "_update_average", interrupted)


def test_the_same_seed_gives_the_same_losses(tmp_path) -> None:
    run(recipe(tmp_path / "a"))
    run(recipe(tmp_path / "b"))
    run(recipe(tmp_path / "c", seed=8))
    assert len(records(tmp_path / "a")) == 6
    assert records(tmp_path / "a") == records(tmp_path / "b")
    assert records(tmp_path / "a") != records(tmp_path / "c")


@pytest.mark.parametrize("model", ["tiny", "tiny-dropout"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(
    model, number, tmp_path, monkeypatch
) -> None:
    straight = run(recipe(tmp_path / "a", model=model))
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 3, number)
        said: list[str] = []
        with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
            run(recipe(tmp_path / "b", model=model), said)
    assert caught.type is (KeyboardInterrupt if number == signal.SIGINT else SystemExit)
    assert "stopped at step 3" in said[-1]
    said.clear()
    resumed = run(recipe(tmp_path / "b", model=model), said)
    assert "resumed at step 3" in said[0]
    same_weights(straight, resumed)
    assert records(tmp_path / "a") == records(tmp_path / "b")


def test_a_worker_lost_to_the_same_signal_is_no_error(tmp_path, monkeypatch) -> None:
    def lost(_self: Discs, index: int) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Discs, "__getitem__", lost)
        with pytest.raises(SystemExit, match="143"):
            run(recipe(tmp_path), said)
    assert "stopped at step 0" in said[-1]
    run(recipe(tmp_path), said)
    assert len(records(tmp_path)) == 6


def test_handlers_are_put_back(tmp_path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run(recipe(tmp_path, iterations=1))
    assert signal.getsignal(signal.SIGINT) is before


def test_it_learns(tmp_path) -> None:
    weights = run(recipe(tmp_path, iterations=60, learning_rate=1e-2, ema_decay=0.5))
    log = records(tmp_path)
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    loaded = load_model(weights)
    assert loaded.metadata["step"] == "60"
    assert loaded.metadata["learning_rate"] == "0.01"
    assert not {"output", "data", "trunk_weights"} & set(loaded.metadata)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("loss", "loss is nan at step 4"),
        ("gradient", "gradient_norm is inf at step 4"),
        ("statistics", "running_mean is no longer finite at step 5"),
    ],
)
def test_what_is_not_finite_stops_the_run_and_is_never_saved(
    spoilt, message, tmp_path, monkeypatch
) -> None:
    config = recipe(tmp_path, iterations=3)
    weights = run(config)
    kept = (tmp_path / CHECKPOINT).read_bytes(), weights.read_bytes()

    def spoil(self: Run, found: dict[str, torch.Tensor]) -> None:
        if self.step == 4:
            if spoilt == "loss":
                found["loss"] += torch.nan
            elif spoilt == "gradient":
                next(self.module.parameters()).grad[:] = torch.inf
            else:
                next(self.module.buffers())[:] = torch.inf

    monkeypatch.setattr(Run, "_share", spoil)
    with pytest.raises(CrispsegError, match=message) as caught:
        run(replace(config, iterations=5))
    assert "nothing is saved since the last checkpoint" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ((tmp_path / CHECKPOINT).read_bytes(), weights.read_bytes()) == kept


def test_a_rate_that_is_too_high_is_named(tmp_path) -> None:
    with pytest.raises(CrispsegError, match="lower learning_rate"):
        run(recipe(tmp_path, iterations=30, learning_rate=1e18, warmup=1))
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_damaged_checkpoint_is_refused(tmp_path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(InputError, match="damaged"):
        run(recipe(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 9}, "seed is 9, but the run in .* began with 7"),
        ({"batch_size": 4}, r"batch_size \(of all processes together\) is 4, but .* with 2"),
        ({"crop_size": 64}, "crop_size is 64, but .* with 48"),
        ({"model": "tiny-plain"}, "model is 'tiny-plain', but .* with 'tiny'"),
        ({"std": (0.5, 0.5, 0.4)}, "std is"),
    ],
)
def test_another_recipe_is_refused(change, message, tmp_path) -> None:
    run(recipe(tmp_path, iterations=1))
    with pytest.raises(InputError, match=message) as caught:
        run(recipe(tmp_path, iterations=2) if not change else recipe(tmp_path, **change))
    assert "--restart" in str(caught.value)


def test_what_decides_no_number_may_change(tmp_path) -> None:
    run(recipe(tmp_path, iterations=1))
    said: list[str] = []
    run(recipe(tmp_path, iterations=2, data="elsewhere", workers=1, checkpoint_minutes=9.0), said)
    assert "resumed at step 1" in said[0]


def test_restart_begins_again(tmp_path) -> None:
    run(recipe(tmp_path / "a", iterations=2))
    expected = records(tmp_path / "a")
    run(recipe(tmp_path, seed=9, iterations=4))
    run(recipe(tmp_path, iterations=2), resume=False)
    assert records(tmp_path) == expected


def test_restart_forgets_the_old_checkpoint_before_the_first_step(tmp_path, monkeypatch) -> None:
    run(recipe(tmp_path, seed=9, iterations=4))
    monkeypatch.setattr(Run, "advance", lambda _run, _sample: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(recipe(tmp_path), resume=False)
    assert not (tmp_path / CHECKPOINT).exists()


def test_checkpoints_of_older_versions_are_taken_or_refused_in_one_line(tmp_path) -> None:
    run(recipe(tmp_path, iterations=1))
    path = tmp_path / CHECKPOINT
    state = torch.load(path, weights_only=True)
    for key in ("recipe", "smooth", "best"):
        del state[key]
    torch.save(state, path)
    said: list[str] = []
    run(recipe(tmp_path, iterations=2), said)
    assert "older version" in said[0]
    torch.save(state | {"module": {}}, path)
    with pytest.raises(InputError, match="does not fit tiny as it is now"):
        run(recipe(tmp_path, iterations=2))


def test_lines_after_the_checkpoint_are_dropped_from_the_log(tmp_path) -> None:
    run(recipe(tmp_path, iterations=2))
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 3, "loss": 9}\n{"step": 4, "lo')
    run(recipe(tmp_path, iterations=3))
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]
    assert records(tmp_path)[-1]["loss"] < 9


def test_an_output_that_is_a_file_is_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        run(recipe(tmp_path / "file"))


def test_processes_that_see_different_folders_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Group, "add", lambda _group, _numbers: [6.0, 14.0])  # steps 1, 2, 3
    monkeypatch.setattr(Group, "size", 3)
    with pytest.raises(InputError, match="must see the same folder"):
        run(recipe(tmp_path))


def test_samples_that_run_out_end_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Discs, "__len__", lambda _self: 5)
    said: list[str] = []
    run(recipe(tmp_path), said)
    assert "no samples are left at step 2" in said[-1]


def test_check_prints_the_recipe_and_writes_nothing(tmp_path) -> None:
    said: list[str] = []
    try_out(recipe(tmp_path / "out"), samples=Discs(), say=said.append)
    assert 'model = "tiny"' in said[0]
    assert "mean = [0.5, 0.5, 0.5]" in said[0]
    assert "parameters" in said[1]
    assert "one step: loss" in said[2]
    assert not (tmp_path / "out").exists()
