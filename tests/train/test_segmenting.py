"""Segmentation networks in the same trainer: loss, schedule, validation, resuming, processes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_classes import NETWORKS, recipe, write_camvid
from torch.nn import functional as F
from torch.utils.data import default_collate

from crispseg.data.datasets import open_dataset
from crispseg.layers.norm import FrozenNorm
from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.models.build import SEGMENTATION_BUILDERS
from crispseg.models.segmentation import ClassLogits
from crispseg.models.statefile import read_state
from crispseg.train.distributed import Group
from crispseg.train.loop import train, try_out
from crispseg.train.run import Run
from crispseg.types import InputError


@pytest.fixture(autouse=True)
def _tiny_networks(monkeypatch):
    for name, builder in NETWORKS.items():
        monkeypatch.setitem(SEGMENTATION_BUILDERS, name, builder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("camvid")
    write_camvid(folder)
    return folder


def quiet(_line: str) -> None:
    pass


def batch_of(run: Run, count: int):
    samples = run.task.samples(count)
    return default_collate([samples[i] for i in range(count)])


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_it_learns_and_its_weights_say_how_to_use_them(data, tmp_path) -> None:
    said: list[str] = []
    config = recipe(tmp_path, data, iterations=60, validate_every=30, ema_decay=0.9)
    path = train(config, say=said.append)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    scores = [line["validation/mean_iou"] for line in log if "validation/mean_iou" in line]
    assert scores[-1] > 0.6  # colours tell the three classes apart; a third at chance
    assert any("mIoU" in line and "best so far" in line for line in said)
    state, metadata = read_state(path)
    assert metadata["num_classes"] == "11"
    names, colours = (json.loads(metadata[key]) for key in ("class_names", "colours"))
    assert names[8] == "car"
    assert colours[8] == [64, 0, 128]
    assert metadata["architecture"] == "tiny-classes"
    assert metadata["dataset"] == "camvid"
    assert json.loads(metadata["mean"]) == [0.5, 0.5, 0.5]
    assert not {"data", "coarse", "local_step_share"} & set(metadata)
    NETWORKS["tiny-classes"](11).load_state_dict(state)
    best, metadata = read_state(tmp_path / "tiny-classes-best.safetensors")
    assert float(metadata["validation/mean_iou"]) == pytest.approx(max(scores), abs=1e-6)
    assert best.keys() == state.keys()


@pytest.mark.parametrize("weights", [(), tuple(range(1, 12))])
def test_the_loss_is_the_mean_over_valid_pixels_with_the_auxiliary_head(
    weights, data, tmp_path
) -> None:
    run = Run(recipe(tmp_path, data, class_weights=weights, aux_weight=0.4))
    batch = batch_of(run, 2)
    assert (batch.labels == 255).any()
    outputs = run.forward(batch)
    loss, parts = run.task.loss(outputs, batch)
    kinds = torch.tensor(weights, dtype=torch.float) if weights else None
    main, aux = (
        F.cross_entropy(x, batch.labels.long(), kinds, ignore_index=255)
        for x in (outputs.logits, outputs.aux)
    )
    torch.testing.assert_close(parts["cross_entropy"], main)
    torch.testing.assert_close(loss, main + 0.4 * aux)
    valid = batch.labels != 255
    right = outputs.logits.argmax(1)[valid] == batch.labels[valid]
    torch.testing.assert_close(parts["pixel_accuracy"], right.float().mean())


def test_a_batch_that_is_all_void_teaches_nothing(data, tmp_path) -> None:
    run = Run(recipe(tmp_path, data, weight_decay=0.0, optimiser="sgd"))
    batch = batch_of(run, 2)
    values = run.advance(batch._replace(labels=torch.full_like(batch.labels, 255)))
    assert values["loss"] == 0
    assert values["gradient_norm"] == 0


def test_halves_of_a_batch_add_up_to_it(data, tmp_path) -> None:
    """Two processes with unlike numbers of valid pixels: their mean is the whole batch's loss."""
    config = recipe(tmp_path, data, model="tiny-classes-plain", batch_size=2)
    run = Run(config)
    batch = batch_of(run, 2)
    batch.labels[0, :20] = 255
    run.advance(batch)
    expected = {name: p.grad for name, p in run.module.named_parameters()}
    total = float((batch.labels != 255).sum())
    shares = []
    for rank in (0, 1):
        half = Run(replace(config, batch_size=1), Group(rank=rank, size=2))
        half.task.group = type("Both", (), {"add": lambda _self, _n: [total], "size": 2})()
        part = type(batch)(*(x[rank : rank + 1] for x in batch))
        loss, _ = half.task.loss(half.forward(part), part)
        loss.backward()
        shares.append({name: p.grad for name, p in half.module.named_parameters()})
    for name, gradient in expected.items():
        mean = (shares[0][name] + shares[1][name]) / 2
        clipped = 5.0 / max(5.0, float(torch.stack([g.norm() for g in expected.values()]).norm()))
        torch.testing.assert_close(mean * clipped, gradient, rtol=1e-4, atol=1e-6)


def test_sgd_with_momentum_poly_and_a_slower_trunk(data, tmp_path) -> None:
    """Two steps by hand: v = 0.9 v + g + decay w; w -= lr v; lr of poly, a tenth for the trunk."""
    lr, decay = 0.05, 1e-2
    config = recipe(
        tmp_path,
        data,
        model="tiny-classes-plain",
        optimiser="sgd",
        schedule="poly",
        learning_rate=lr,
        trunk_factor=0.1,
        weight_decay=decay,
        gradient_clip=0.0,
        iterations=4,
    )
    run = Run(config)
    weights = {name: p.detach().clone() for name, p in run.module.named_parameters()}
    speed = dict.fromkeys(weights, 0.0)
    for step in range(2):
        run.advance(batch_of(run, 2))
        for name, p in run.module.named_parameters():
            rate = lr * (1 - step / 4) ** 0.9 * (0.1 if name.startswith("trunk.") else 1)
            speed[name] = 0.9 * speed[name] + p.grad + decay * weights[name]
            weights[name] = weights[name] - rate * speed[name]
            torch.testing.assert_close(p.detach(), weights[name])


def test_frozen_norms_stay_and_everything_else_moves(data, tmp_path) -> None:
    run = Run(recipe(tmp_path, data, freeze_bn=True, optimiser="sgd"))
    before = {k: v.clone() for k, v in run.module.state_dict().items()}
    for _ in range(2):
        run.advance(batch_of(run, 2))
    for key, value in run.module.state_dict().items():
        assert torch.equal(value, before[key]) == (".norm." in key), key
    assert isinstance(run.module.trunk.norm, FrozenNorm)
    assert run.module.training


def test_output_stride_is_the_recipes_or_refused(data, tmp_path) -> None:
    Run(recipe(tmp_path, data, output_stride=4))
    with pytest.raises(InputError, match=r"output_stride = 8: output_stride must be 4"):
        Run(recipe(tmp_path, data, output_stride=8))


def test_scores_are_those_of_whole_images_over_all_processes(data, tmp_path) -> None:
    run = Run(recipe(tmp_path, data))
    held = run.task.held_out(None)
    assert len(held) == 3
    matrix = ConfusionMatrix(11)
    for item in open_dataset("camvid", data, "val"):
        image = torch.from_numpy(item.read_image()).permute(2, 0, 1)[None].float() / 255
        logits = run.average((image - 0.5) / 0.5).logits[0]
        matrix.add(logits.argmax(0).numpy(), item.read_labels())
    scores = run.task.validate(run.average, held)
    assert scores == {
        "mean_iou": matrix.mean_iou(),
        "pixel_accuracy": matrix.pixel_accuracy(),
        "mean_accuracy": matrix.mean_accuracy(),
    }
    parts = []
    for rank in (0, 1):
        run.task.group = Group(rank=rank, size=2)
        parts += [which for _, which in run.task.held_out(None)]
    assert sorted(parts) == [0, 1, 2]


def test_the_picture_shows_image_found_and_true_classes(data, tmp_path) -> None:
    run = Run(recipe(tmp_path, data))
    batch = batch_of(run, 2)
    pixels = run.task.picture(run.average, batch)
    assert pixels.shape == (3, 2 * 32, 3 * 48)
    torch.testing.assert_close(pixels[:, :32, :48], batch.image[0] / 255)
    colours = np.array(open_dataset("camvid", data, "train").colours) / 255
    truth = batch.labels[0].numpy()
    expected = np.where((truth < 11)[..., None], colours[np.minimum(truth, 10)], 0)
    np.testing.assert_allclose(pixels[:, :32, 96:].permute(1, 2, 0), expected, atol=1e-6)


def test_stopped_and_resumed_it_is_the_same_run(data, tmp_path) -> None:
    keys = {"rotation": 10.0, "blur": True, "sampling": "balanced", "schedule": "poly"}
    config = recipe(tmp_path / "a", data, optimiser="sgd", iterations=6, **keys)
    straight = train(config, say=quiet)
    half = replace(config, output=str(tmp_path / "b"))

    class Enough(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("step 3"):
            raise Enough

    with pytest.raises(Enough):
        train(replace(half, checkpoint_minutes=0.0), say=stop)
    resumed = train(replace(half, workers=1), say=quiet)
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    for key, value in read_state(straight)[0].items():
        assert torch.equal(read_state(resumed)[0][key], value), key


def test_check_makes_a_step_and_mistakes_are_one_line(data, tmp_path) -> None:
    said: list[str] = []
    try_out(recipe(tmp_path / "out", data), say=said.append)
    assert 'dataset = "camvid"' in said[0]
    assert "coarse" not in said[0]
    assert "one step: loss" in said[-1]
    assert math.isfinite(float(said[-1].split("loss ")[1].split(";")[0]))
    mistakes = {
        "unknown segmentation network 'tiny'": {"model": "tiny"},
        "class_weights has 2 values, but camvid has 11": {"class_weights": (1.0, 2.0)},
        "unknown data set 'camvit'": {"dataset": "camvit"},
    }
    for message, changes in mistakes.items():
        with pytest.raises(InputError, match=message):
            Run(recipe(tmp_path, data, **changes))
    with pytest.raises(InputError, match="tiny-classes is no refiner; the recipe needs a dataset"):
        Run(recipe(tmp_path, data, dataset=""))


def test_outputs_without_an_auxiliary_head_have_one_loss(data, tmp_path) -> None:
    run = Run(recipe(tmp_path, data))
    batch = batch_of(run, 2)
    outputs = ClassLogits(run.forward(batch).logits)
    loss, parts = run.task.loss(outputs, batch)
    assert "aux" not in parts
    assert loss is parts["cross_entropy"]
