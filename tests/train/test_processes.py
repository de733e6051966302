"""Real processes: ``crispseg train`` killed, stopped and shared, with the tiny networks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from tiny import recipe

from crispseg.cli.main import run as crispseg
from crispseg.data.samples import RefinerSamples
from crispseg.train.config import recipe_text
from crispseg.train.loop import train
from crispseg.train.run import Run

# Processes forked from one that has imported torch start at once.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["crispseg.cli.main", "crispseg.train.loop", "cv2"])
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    tiny.write_cache(folder)
    return folder


def write_recipe(folder: Path, **keys) -> str:
    path = folder / "recipe.toml"
    path.write_text(recipe_text(recipe(folder / "out", **keys)))
    return str(path)


def fork(path: str, name: str = "said", **environment: object):
    """``crispseg train PATH`` in another process; what it says goes to the file ``name``."""
    texts = {key: str(value) for key, value in environment.items()}
    said = Path(path).parent / name
    process = FORK.Process(target=tiny.command, args=(["train", path], said, texts))
    process.start()
    return process


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "out" / "log.jsonl").read_text().splitlines()
    return [(r["step"], r["loss"]) for r in map(json.loads, lines)]


def test_killed_with_sigkill_and_resumed_the_losses_are_the_same(data, tmp_path) -> None:
    keys = {"data": str(data), "checkpoint_minutes": 0.0, "model": "tiny-dropout"}
    path = write_recipe(tmp_path, **keys)
    process = fork(path, TINY_KILL_AT=9)  # while it makes the fifth batch
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "said").read_text()
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3, 4]
    assert crispseg(["train", path]) == 0
    straight = tmp_path / "straight"
    train(recipe(straight / "out", **keys), say=lambda _line: None)
    assert losses(tmp_path) == losses(straight)
    assert len(losses(tmp_path)) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_every_process_prints_no_traceback(number, data, tmp_path) -> None:
    """A terminal sends Ctrl-C, and a scheduler SIGTERM, to the workers as well."""
    path = write_recipe(tmp_path, data=str(data), iterations=100_000, workers=2)
    process = fork(path)
    log = tmp_path / "out" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") > 1) and time.monotonic() < deadline:
        time.sleep(0.02)  # the second step is the second worker's
    os.killpg(process.pid, number)
    process.join(120)
    *_, stopped, last = ["", *(tmp_path / "said").read_text().splitlines()]
    if number == signal.SIGINT:
        assert last == "error: interrupted; nothing half-written is left"
        last = stopped
    assert process.exitcode == 128 + number
    assert "all is saved" in last
    assert "Traceback" not in (tmp_path / "said").read_text()
    state = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    assert state["step"] == losses(tmp_path)[-1][0]


def test_two_processes_are_one_with_the_whole_batch(data, tmp_path, capsys) -> None:
    keys = {"data": str(data), "model": "tiny-plain", "iterations": 2, "local_step_share": 0.5}
    keys |= {"validate_every": 2, "validate_count": 3}
    path = write_recipe(tmp_path, **keys)
    done = subprocess.run(
        [sys.executable, *TORCHRUN, tiny.__file__, "train", path],
        env=os.environ | {"TINY_GRADIENTS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights:") == 1
    check_gradients(data, tmp_path, keys)
    files = {"checkpoint.pt", "log.jsonl", "tiny-plain.safetensors", "tiny-plain-best.safetensors"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == files

    keys["iterations"] = 4
    path = write_recipe(tmp_path, **keys)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    place = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [fork(path, f"said{rank}", RANK=rank, LOCAL_RANK=rank, **place) for rank in (0, 1)]
    for process in both:
        process.join(120)
    said = [(tmp_path / f"said{rank}").read_text() for rank in (0, 1)]
    assert [process.exitcode for process in both] == [0, 0], said
    assert "resumed at step 2" in said[0]
    assert said[1] == ""

    alone = tmp_path / "alone"
    train(recipe(alone / "out", **keys | {"batch_size": 4}), say=lambda _line: None)
    log, expected = (
        [json.loads(line) for line in (where / "out" / "log.jsonl").read_text().splitlines()]
        for where in (tmp_path, alone)
    )
    assert [record["step"] for record in log] == [1, 2, 2, 3, 4, 4]
    # Errors are of each process's half, so only these are those of the whole batch. Adam divides
    # by the gradient's size, which lifts the rounding of small gradients to steps.
    for name in ("loss", "gradient_norm", "validation/iou_after", "validation/mba_before"):
        ours, theirs = ([r[name] for r in records if name in r] for records in (log, expected))
        assert ours == pytest.approx(theirs, rel=1e-3), name

    # One process with the batch of both goes on.
    assert crispseg(["train", path, "--set", "batch_size=4", "--set", "iterations=5"]) == 0
    assert "resumed at step 4" in capsys.readouterr().out


def check_gradients(data: Path, folder: Path, keys: dict[str, object]) -> None:
    """Both processes have them; to 1e-5 of the largest, they are those of the whole batch.

    1e-5: sums of 48 x 48 x 4 float32 terms, in another order.
    """
    one = Run(recipe(folder, **keys | {"batch_size": 4}))
    samples = RefinerSamples(data, crop_size=48, seed=7)
    one.advance(torch.utils.data.default_collate([samples[i] for i in range(4)]))
    first, second = (torch.load(folder / f"gradients-1-{rank}.pt") for rank in (0, 1))
    largest = max(float(p.grad.abs().max()) for p in one.module.parameters())
    for name, parameter in one.module.named_parameters():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], parameter.grad, rtol=0, atol=1e-5 * largest)


def test_check_and_set_through_the_command(data, tmp_path, capsys) -> None:
    path = write_recipe(tmp_path)
    changes = ("--set", f"data={data}", "--set", "seed=3")
    assert crispseg(["train", path, "--check", *changes]) == 0
    out = capsys.readouterr().out
    assert "seed = 3" in out
    assert "one step: loss" in out
    assert not (tmp_path / "out").exists()
    assert crispseg(["train", path, "--set", "batch_size=x"]) == 2
    assert "--set batch_size" in capsys.readouterr().err
