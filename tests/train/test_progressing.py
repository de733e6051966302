"""Training MagNet's refinement module: samples, chains of stages, loss, and a whole run."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_classes import NETWORKS, recipe, write_camvid
from torch.nn import functional as F
from torch.utils.data import default_collate

from crispseg.data.datasets import open_dataset
from crispseg.data.views import StageSamples, chain_of_tiles
from crispseg.models.build import SEGMENTATION_BUILDERS
from crispseg.models.magnet import load_magnet
from crispseg.models.segmentation import ClassLogits
from crispseg.train.config import TrainConfig, read_config
from crispseg.train.loop import train
from crispseg.train.losses import hard_class_loss
from crispseg.train.progressing import Progressing, cut_out, replace_points
from crispseg.train.run import Run
from crispseg.types import InputError, Size


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("camvid")
    write_camvid(folder, size=(80, 112))
    return folder


@pytest.fixture(autouse=True)
def _tiny_networks(monkeypatch):
    for name, builder in NETWORKS.items():
        monkeypatch.setitem(SEGMENTATION_BUILDERS, name, builder)


@pytest.fixture(scope="module")
def segmenter(data, tmp_path_factory) -> Path:
    """Weights of a network that tells the three colours apart, more or less."""
    folder = tmp_path_factory.mktemp("segmenter")
    with pytest.MonkeyPatch.context() as patch:
        for name, builder in NETWORKS.items():
            patch.setitem(SEGMENTATION_BUILDERS, name, builder)
        return train(recipe(folder, data, iterations=20), say=lambda line: None)


def magnet_recipe(folder: Path, data: Path, segmenter: Path, **changes: object) -> TrainConfig:
    settings = {"model": "magnet", "segmenter": str(segmenter), "stage_sides": (48, 80, 0)}
    return recipe(folder, data, **(settings | {"hard_least": 0} | changes))


def test_chains_are_nested_and_cover_the_image_first() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        chain = chain_of_tiles(Size(80, 112), (48, 80, 0), Size(32, 48), rng)
        assert chain[0] == (0, 0, 1, 1)
        for outer, inner in pairwise(chain):
            assert outer[0] - 1e-9 <= inner[0] < inner[2] <= outer[2] + 1e-9
            assert outer[1] - 1e-9 <= inner[1] < inner[3] <= outer[3] + 1e-9
        y0, x0, y1, x1 = chain[-1]
        assert (y1 - y0) * 80 == pytest.approx(32)
        assert (x1 - x0) * 112 == pytest.approx(48)


def test_a_sample_shows_one_place_at_every_size(data) -> None:
    dataset = open_dataset("camvid", data, "train")
    samples = StageSamples(dataset, (48, 80, 0), Size(32, 48), seed=1, length=20)
    for i in range(20):
        images, boxes, labels = samples[i]
        assert images.shape == (3, 3, 32, 48) and labels.shape == (3, 32, 48)
        assert torch.equal(samples[i].images, images)
        # Sky is blue, road is grey: the labels moved with the pixels, mirrored or not.
        red, blue = images[2, 0].int(), images[2, 2].int()
        sky = labels[2] == 0
        assert ((blue - red > 90) == sky)[labels[2] < 8].float().mean() > 0.97
        assert (boxes[0] == torch.tensor([0.0, 0, 1, 1])).all()


@pytest.mark.parametrize("sides", [(48,), (80, 48), (0, 48)])
def test_stages_must_rise(data, sides) -> None:
    with pytest.raises(InputError, match="rising"):
        StageSamples(open_dataset("camvid", data, "train"), sides, Size(32, 48))


def test_cut_out_is_a_window_of_the_enlarged_map() -> None:
    maps = torch.rand(1, 2, 8, 12)
    outer, inner = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    large = F.interpolate(maps, (16, 24), mode="bilinear", align_corners=False)
    assert torch.allclose(cut_out(maps, outer, inner), large[:, :, 4:12, 12:], atol=1e-5)
    assert torch.allclose(cut_out(maps, inner, inner), maps, atol=1e-5)


def test_points_that_are_replaced_by_hand() -> None:
    coarse = torch.tensor([[[[0.5, 0.9, 0.6, 1.0]], [[0.5, 0.1, 0.4, 0.0]]]])
    refined = torch.tensor([[[[0.9, 0.5, 0.0, 0.0]], [[0.1, 0.5, 1.0, 1.0]]]])
    # Scores: 1 x 0.8, 0.2 x 0, 0.8 x 1, 0 x 1.
    found = replace_points(coarse, refined, 0.5)
    assert torch.allclose(found[0, 0, 0], torch.tensor([0.9, 0.9, 0.0, 1.0]))


def test_hard_loss_by_hand() -> None:
    probability = torch.tensor([0.9, 0.6, 0.2, 0.8])
    logits = torch.stack([probability, 1 - probability]).log()[None, :, None]  # (1, 2, 1, 4)
    labels = torch.tensor([[[0, 0, 0, 255]]])
    each = [-math.log(p) for p in (0.9, 0.6, 0.2)]
    for least, expected in ((0, sum(each) / 3), (1, (each[1] + each[2]) / 2), (9, sum(each) / 3)):
        assert float(hard_class_loss(logits, labels, 0.7, least)) == pytest.approx(expected)
    # None is hard enough, but at least one counts.
    assert float(hard_class_loss(logits, labels, 0.1, 1)) == pytest.approx(each[2])
    assert float(hard_class_loss(logits, torch.full((1, 1, 4), 255), 0.7, 0)) == 0
    weights, mixed = torch.tensor([2.0, 0.5]), torch.tensor([[[0, 1, 1, 255]]])
    each = [2 * each[0], -0.5 * math.log(0.4), -0.5 * math.log(0.8)]
    assert float(hard_class_loss(logits, mixed, 0.7, 0, weights)) == pytest.approx(sum(each) / 3)
    assert float(hard_class_loss(logits, mixed, 0.7, 1, weights)) == pytest.approx(each[1] / 0.5)


class Echo(torch.nn.Module):
    """Returns the finer probabilities."""

    def forward(self, coarse, fine):
        return ClassLogits(fine.clamp(min=1e-6).log())


def test_a_stage_is_given_what_the_stage_before_made(data, tmp_path, segmenter) -> None:
    run = Run(magnet_recipe(tmp_path, data, segmenter, point_share=1.0))
    task = run.task
    assert isinstance(task, Progressing)
    batch = default_collate([task.samples(2)[i] for i in range(2)])
    fine = task.fine(batch)
    both = task.coarse_of_path(Echo(), fine, batch.boxes, (1, 2))
    # All points are replaced by what stage 1 saw: stage 2 is given that, and not stage 0's map.
    assert torch.allclose(both[0], cut_out(fine[:, 0], batch.boxes[:, 0], batch.boxes[:, 1]))
    expected = cut_out(fine[:, 1], batch.boxes[:, 1], batch.boxes[:, 2])
    assert torch.allclose(both[1], expected, atol=1e-5)
    skipping = task.coarse_of_path(Echo(), fine, batch.boxes, (2,))
    expected = cut_out(fine[:, 0], batch.boxes[:, 0], batch.boxes[:, 2])
    assert torch.allclose(skipping[0], expected, atol=1e-5)


def test_steps_train_on_every_stage_with_the_network_frozen(data, tmp_path, segmenter) -> None:
    run = Run(magnet_recipe(tmp_path, data, segmenter))
    task = run.task
    assert isinstance(task, Progressing)
    before = [p.clone() for p in task.frozen.parameters()]
    batch = default_collate([task.samples(2)[i] for i in range(2)])
    paths = set()
    for step in range(12):
        task.inputs(run.module, batch, step)
        paths.add(task._path)
    assert {(1,), (2,), (1, 2)} == paths
    run.advance(batch)
    assert all(map(torch.equal, before, task.frozen.parameters()))
    assert not task.frozen.training


def test_a_run_learns_and_its_weights_load(data, tmp_path, segmenter) -> None:
    said: list[str] = []
    config = magnet_recipe(tmp_path / "magnet", data, segmenter, iterations=8, validate_every=8)
    path = train(config, say=said.append)
    assert any("mIoU" in line and "->" in line for line in said)
    module = load_magnet(path)
    assert module.num_classes == 11
    assert module(torch.rand(1, 11, 4, 4), torch.rand(1, 11, 4, 4)).shape == (1, 11, 4, 4)
    with pytest.raises(InputError, match="no refinement module"):
        load_magnet(segmenter)


def test_networks_that_do_not_fit_are_refused(data, tmp_path, segmenter) -> None:
    with pytest.raises(InputError, match="model = 'magnet'"):
        Run(magnet_recipe(tmp_path, data, segmenter, model="fcn-lite"))
    with pytest.raises(InputError, match="no segmentation network"):
        Run(magnet_recipe(tmp_path, data, Path("cascadepsp-lite")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rotation = 5.0", "means nothing to MagNet"),
        ("coarse = 'paper'", "means nothing to MagNet"),
        ("point_share = 1.5", "out of range"),
    ],
)
def test_keys_that_do_nothing_are_refused(tmp_path, line, message) -> None:
    path = tmp_path / "recipe.toml"
    text = "model='magnet'\ndataset='camvid'\nsegmenter='x'\ndata='.'\noutput='.'\niterations=1\n"
    path.write_text(text + "stage_sides=[32, 0]\n" + line)
    with pytest.raises(InputError, match=message):
        read_config(path)


def test_magnets_keys_want_a_segmenter(tmp_path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("model='fcn-lite'\ndataset='camvid'\ndata='.'\noutput='.'\npoint_share=0.5\n")
    with pytest.raises(InputError, match="such a recipe has a segmenter"):
        read_config(path)
