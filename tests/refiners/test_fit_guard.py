"""The recipe that fits temperature and guard: known answers come back, and files are written."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from crispseg.models.build import build
from crispseg.models.weights import load_model, save_weights
from crispseg.refiners.guard import FEATURES, Calibration, keep_better

pytest.importorskip("cv2")
RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    sys.path.insert(0, str(RECIPES))
    try:
        return importlib.import_module("fit_guard")
    finally:
        sys.path.remove(str(RECIPES))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_temperature_of_simulated_pixels_is_found(recipe, temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (200, 400))
    logits[:, :200] = np.abs(logits[:, :200])  # an edge in the middle
    logits[:, 200:] = -np.abs(logits[:, 200:])
    truth = rng.random(logits.shape) < 1 / (1 + np.exp(-logits / temperature))
    probability = (1 / (1 + np.exp(-logits))).astype(np.float32)
    results = [(truth, probability, truth)]
    found = recipe.fit_temperature(results)
    # 6,800 pixels of the band carry the estimate: about 5 % of standard error.
    assert found == pytest.approx(temperature, rel=0.15)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square whose edge is mended by thin strips, rightly, and that loses a block, wrongly."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((120, 120), np.bool_)
    truth[20:100, 20:100] = True
    given, refined = truth.copy(), truth.copy()
    for y in range(22, 98, 8):
        given[y : y + 3, 97:100] = False
    y, x = rng.integers(30, 60, 2)
    refined[y : y + 25, x : x + 25] = False
    return given, np.where(refined, 0.85, 0.15).astype(np.float32), truth


def test_the_guard_learns_what_goes_wrong(recipe) -> None:
    weights = recipe.fit_guard([scene(i) for i in range(30)], 1.0)
    given, probability, truth = scene(99)
    result, kept = keep_better(given, probability, tuple(weights))
    np.testing.assert_array_equal(result > 0.5, truth)
    assert [k.pixels for k in kept] == [625]
    assert kept[0].trust < 0.1


def discs(bias: float, radius: float = 90.0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Discs whose edges lie where the logit is ``bias``."""
    y, x = np.mgrid[:300, :300] - 150
    inside = [radius + k - np.hypot(y, x) for k in range(4)]
    given = [distance + 5 > 0 for distance in inside]
    raw = [(1 / (1 + np.exp(-0.3 * d - bias))).astype(np.float32) for d in inside]
    return [(g, p, d > 0) for g, p, d in zip(given, raw, inside, strict=True)]


@pytest.mark.parametrize("bias", [-0.3, 0.0, 0.4])
def test_the_bias_of_simulated_edges_is_found(recipe, bias: float) -> None:
    assert recipe.fit_bias([discs(bias), discs(9.0, 20)]) == pytest.approx(bias, abs=0.1)
    [(given, probability, truth), *_] = discs(bias)
    found = recipe.unbiased(given, probability, bias)
    np.testing.assert_array_equal(found > 0.5, truth)
    small, probability, _ = discs(bias, 20)[0]  # enlarged: no bias
    assert recipe.unbiased(small, probability, bias) is probability
    assert recipe.fit_bias([discs(bias, 20)]) == 0


def test_the_weights_file_gets_both(recipe, tmp_path, monkeypatch, capsys) -> None:
    path, output = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    half = (0.5,) * 3
    module = build("cascadepsp-lite")
    save_weights(
        path, module, architecture="cascadepsp-lite", mean=half, std=half, metadata={"step": "7"}
    )
    rng = np.random.default_rng(0)
    for part, suffix in (("images", "jpg"), ("coarse", "png"), ("truth", "png")):
        folder = tmp_path / "set" / part
        folder.mkdir(parents=True)
        for i in range(2):
            pixels = np.zeros((96, 96, 3), np.uint8)
            pixels[20 : 60 + len(part), 30:70] = 255
            if part == "images":
                pixels = rng.integers(0, 255, pixels.shape).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.{suffix}")
    # A random network may leave nothing to judge: its results count for their form alone.
    found = list(recipe.refined(load_model(path), tmp_path / "set"))
    assert [(g.shape, p.dtype, t.sum()) for g, p, t in found] == [
        ((96, 96), np.float32, 45 * 40)
    ] * 2
    monkeypatch.setattr(recipe, "refined", lambda _model, _folder: [scene(i) for i in range(9)])
    words = ["fit", str(path), "--cases", str(tmp_path / "set"), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", words)
    recipe.main()
    assert "expected calibration error, calibrated" in capsys.readouterr().out
    before, after = load_model(path), load_model(output)
    fitted = Calibration.from_metadata(after.metadata)
    assert fitted.guard is not None
    assert len(fitted.guard) == len(FEATURES)
    assert "bias" in after.metadata
    assert after.metadata["step"] == "7"
    assert before.metadata.get("guard") is None
    for key, value in before.module.state_dict().items():
        assert (after.module.state_dict()[key] == value).all()
