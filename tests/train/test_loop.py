"""The loop on samples that need no data: it learns, and a killed run goes on bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from crispseg.data.samples import Sample
from crispseg.models.weights import load_model
from crispseg.train.config import TrainConfig, read_config
from crispseg.train.loop import rate, soften, train
from crispseg.types import CrispsegError, InputError

RECIPES = Path(__file__).parents[2] / "recipes"


class Discs(Dataset[Sample]):
    """Bright discs on grey, with a coarse mask that is off; sample i depends on i alone."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        y, x = (torch.rand(2, generator=generator) * 20 + 14).tolist()
        rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
        truth = ((rows - y).hypot(columns - x) < 12).float()[None]
        image = (60 + 150 * truth + torch.randn(3, 48, 48, generator=generator) * 9).clamp(0, 255)
        return Sample(image.to(torch.uint8), truth.roll((3, -4), (1, 2)), truth)


class Interrupting(Discs):
    def __init__(self, at: int) -> None:
        self.at = at

    def __getitem__(self, index: int) -> Sample:
        if index >= self.at:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def config(folder: Path, **changes: object) -> TrainConfig:
    base = TrainConfig(
        model="cascadepsp-lite",
        data="none",
        output=str(folder),
        crop_size=48,
        batch_size=2,
        iterations=6,
        workers=0,
        threads=1,
        warmup=2,
        seed=7,
    )
    return replace(base, **changes)


def test_killed_and_resumed_equals_straight_through(tmp_path) -> None:
    straight = train(config(tmp_path / "a"), samples=Discs(), say=lambda _line: None)
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "b"), samples=Interrupting(at=6), say=lambda _line: None)
    assert (tmp_path / "b" / "checkpoint.pt").exists()
    said: list[str] = []
    resumed = train(config(tmp_path / "b"), samples=Discs(), say=said.append)
    assert "resumed at step 3" in said[0]
    expected, state = (load_model(p).module.state_dict() for p in (straight, resumed))
    for key, value in expected.items():
        assert torch.equal(state[key], value), key


def test_it_learns(tmp_path) -> None:
    weights = train(
        config(tmp_path, iterations=40, learning_rate=3e-3, ema_decay=0.5),
        samples=Discs(),
        say=lambda _line: None,
    )
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    loaded = load_model(weights)
    assert loaded.metadata["step"] == "40"
    assert loaded.metadata["learning_rate"] == "0.003"
    assert "output" not in loaded.metadata


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path) -> None:
    with pytest.raises(CrispsegError, match="lower the rate"):
        train(
            config(tmp_path, iterations=30, learning_rate=1e12, warmup=1),
            samples=Discs(),
            say=lambda _line: None,
        )


def test_a_damaged_checkpoint_is_refused(tmp_path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="damaged"):
        train(config(tmp_path), samples=Discs(), say=lambda _line: None)


def test_learning_rate_by_hand() -> None:
    assert rate(0, 100, 0.0) == pytest.approx(0.01)
    assert rate(99, 100, 0.0) == pytest.approx(1)
    assert rate(1000, 100, 0.5) == pytest.approx(0.505)
    assert rate(1000, 100, 1.0) == pytest.approx(0.01)


def test_softened_masks_keep_flat_places_and_blur_edges() -> None:
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., 10:] = 1
    soft = soften(mask, 2)
    assert soft.shape == mask.shape
    assert (soft[..., :5] == 0).all()
    torch.testing.assert_close(soft[..., 15:], torch.ones(1, 1, 20, 5))
    assert (soft[..., 9] < 0.5).all()
    assert (soft[..., 10] > 0.5).all()


def test_every_recipe_can_be_read() -> None:
    recipes = sorted(RECIPES.glob("*.toml"))
    assert recipes
    for path in recipes:
        assert read_config(path).model


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("batch_size = 0", "line 4: batch_size = 0 is out of range"),
        ("crop_size = 100", "line 4: crop_size = 100 is out of range"),
        ('batch_size = "2"', "line 4: batch_size must be of type int, not '2'"),
        ("batch_size = true", "must be of type int"),
        ("mean = [1.0, 2.0]", "three numbers"),
        ("batch = 3", "line 4: unknown key 'batch'"),
        ("batch_size = ", "not a valid TOML"),
    ],
)
def test_mistakes_in_recipes_name_the_line(line, message, tmp_path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'model = "m"\ndata = "d"\noutput = "o"\n{line}\n')
    with pytest.raises(InputError, match=message):
        read_config(recipe)


def test_a_recipe_needs_an_end_and_its_keys(tmp_path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('model = "m"\ndata = "d"\noutput = "o"\n')
    with pytest.raises(InputError, match="iterations"):
        read_config(recipe)
    recipe.write_text("iterations = 5\n")
    with pytest.raises(InputError, match="missing key 'model'"):
        read_config(recipe)
    with pytest.raises(InputError, match="cannot read recipe"):
        read_config(tmp_path / "none.toml")
