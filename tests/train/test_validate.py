"""Validation against scores counted by hand, and what is kept of it."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import Discs, recipe, write_cache
from torch import nn
from torch.utils.data import Dataset

from crispseg.data.samples import RefinerSamples, Sample
from crispseg.metrics.boundary import mean_boundary_accuracy
from crispseg.models.weights import load_model
from crispseg.train.distributed import Group
from crispseg.train.loop import train
from crispseg.train.refining import Refining, validation_samples
from crispseg.train.run import Run


class Bands(Dataset[Sample]):
    """Truth: rows 0-7 of 16. Coarse: rows 0-5. The third sample has no edge at all."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        truth, coarse = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
        truth[:, :8] = 1
        coarse[:, :6] = 1
        if index == 2:
            truth, coarse = torch.ones(1, 16, 16), torch.ones(1, 16, 16)
        return Sample(torch.full((3, 16, 16), 9, dtype=torch.uint8), coarse, truth)


def test_scores_by_hand(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Refining, "predict", lambda _task, _module, sample: sample.truth * 0.9)
    run = Run(recipe(tmp_path, validate_count=3))
    scores = run.task.validate(run.average, run.task.held_out(Bands()))
    truth, coarse = Bands()[0].truth[0].numpy() > 0.5, Bands()[0].coarse[0].numpy() > 0.5
    assert scores == pytest.approx(
        {
            "iou_before": (6 / 8 + 6 / 8 + 1) / 3,
            "iou_after": 1.0,
            "mba_before": mean_boundary_accuracy(coarse, truth),
            "mba_after": 1.0,
        }
    )
    assert scores["mba_before"] < 1


def test_fewer_given_samples_than_the_recipe_asks_for_are_all_used(tmp_path) -> None:
    run = Run(recipe(tmp_path, validate_count=50, batch_size=2))
    assert [len(batch.image) for batch in run.task.held_out(Bands())] == [2, 1]


def test_the_shares_of_all_processes_are_the_samples_once_each(tmp_path) -> None:
    run = Run(recipe(tmp_path, validate_count=5, batch_size=2))
    whole = torch.cat([batch.image for batch in run.task.held_out(Discs())])
    parts = []
    for rank in (0, 1):
        run.task.group = Group(rank=rank, size=2)
        parts.append(torch.cat([batch.image for batch in run.task.held_out(Discs())]))
    assert [len(part) for part in parts] == [3, 2]
    assert torch.equal(whole[0::2], parts[0])
    assert torch.equal(whole[1::2], parts[1])


def test_samples_are_the_test_splits_and_stay(tmp_path) -> None:
    write_cache(tmp_path)
    config = recipe(tmp_path, data=str(tmp_path), validate_count=4, validate_crop_size=64)
    first, again = validation_samples(config), validation_samples(config)
    assert len(first) == 4
    assert first[3].image.shape == (3, 64, 64)
    assert torch.equal(first[3].image, again[3].image)
    other = RefinerSamples(tmp_path, crop_size=64, seed=1, split="train")
    assert not torch.equal(first[3].image, other[3].image)


def test_the_best_is_kept_with_its_figures_over_a_resumed_run(tmp_path, monkeypatch) -> None:
    scores = iter([0.6, 0.9, 0.8, 0.7])

    def scored(_task: Refining, _module: nn.Module, _batches: list[Sample]) -> dict[str, float]:
        return {"iou_before": 0.5, "iou_after": 0.5, "mba_before": 0.5, "mba_after": next(scores)}

    monkeypatch.setattr(Refining, "validate", scored)
    config = {"validate_every": 1, "validate_count": 2}
    said: list[str] = []
    for iterations in (2, 4):
        keys = config | {"iterations": iterations}
        train(recipe(tmp_path, **keys), samples=Discs(), validation=Discs(), say=said.append)
    best = load_model(tmp_path / "tiny-best.safetensors")
    assert best.metadata["step"] == "2"
    assert best.metadata["validation/mba_after"] == "0.900000"
    assert sum("best so far" in line for line in said) == 2
    lines = [json.loads(x) for x in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [x["validation/mba_after"] for x in lines if "loss" not in x] == [0.6, 0.9, 0.8, 0.7]
    assert load_model(tmp_path / "tiny.safetensors").metadata["step"] == "4"


def test_validation_changes_nothing_of_the_training(tmp_path) -> None:
    finished = []
    for every in (0, 2):
        config = recipe(tmp_path / f"{every}", validate_every=every, model="tiny-dropout")
        path = train(config, samples=Discs(), validation=Discs(), say=lambda _line: None)
        finished.append(load_model(path).module.state_dict())
    assert all(torch.equal(v, finished[1][k]) for k, v in finished[0].items())
    assert not (tmp_path / "0" / "tiny-best.safetensors").exists()


def test_pictures_stand_side_by_side(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Refining, "predict", lambda _task, _module, sample: sample.coarse * 0.25)
    run = Run(recipe(tmp_path, batch_size=3, validate_count=3))
    (batch,) = run.task.held_out(Bands())
    pixels = run.task.picture(run.average, batch, count=2)
    assert pixels.shape == (3, 2 * 16, 4 * 16)
    image, coarse, truth = Bands()[0]
    masks = [mask.expand(3, -1, -1) for mask in (coarse, coarse / 4, truth)]
    torch.testing.assert_close(pixels[:, :16], torch.cat([image / 255, *masks], dim=2))
