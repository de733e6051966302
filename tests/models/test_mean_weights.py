"""The recipe that takes the mean of two stages' weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crispseg.models.build import build
from crispseg.models.weights import load_model, save_weights

RECIPE = Path(__file__).parents[2] / "recipes" / "mean_weights.py"


def weights(path: Path, seed: int, std: float = 0.5) -> Path:
    torch.manual_seed(seed)
    network = build("cascadepsp-lite")
    mean, about = (0.5,) * 3, {"seed": str(seed)}
    save_weights(path, network, architecture="cascadepsp-lite", mean=mean, std=(std,) * 3,
                 metadata=about)  # fmt: skip
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RECIPE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_floats_are_mixed_and_the_rest_is_the_seconds(tmp_path: Path) -> None:
    first, second = (weights(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    out = tmp_path / "mean.safetensors"
    done = run(first, second, "--share", 0.25, "--output", out)
    assert done.returncode == 0, done.stderr
    a, b, mean = (load_model(path) for path in (first, second, out))
    assert mean.metadata["seed"] == "2"
    assert mean.metadata["share_of_last_stage"] == "0.25"
    states = (m.module.state_dict() for m in (a, b, mean))
    for one, other, found in zip(*(s.values() for s in states), strict=True):
        wanted = torch.lerp(one, other, 0.25) if other.is_floating_point() else other
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("arguments", [["--share", "1.5"], ["--share", "0.5"]])
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    first = weights(tmp_path / "1.safetensors", 1)
    second = weights(tmp_path / "2.safetensors", 2, std=0.25)
    done = run(first, second, *arguments, "--output", tmp_path / "mean.safetensors")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "mean.safetensors").exists()
