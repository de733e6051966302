"""One step of a run: what the recipe's keys do to it."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from tiny import Discs, recipe, tiny
from torch import nn
from torch.utils.data import default_collate

from crispseg.models.build import build
from crispseg.models.resnet import ResNet
from crispseg.train.distributed import Group
from crispseg.train.refining import OWN_FACTORS, batch_errors, own_coarse, soften
from crispseg.train.run import Run
from crispseg.train.trunk import load_torchvision, start_trunk
from crispseg.types import InputError

BATCH = default_collate([Discs()[i] for i in range(2)])


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_optimisers_as_the_formulas_have_them(optimiser, tmp_path) -> None:
    """Kingma & Ba with L2 in the gradient (adam), Loshchilov & Hutter (adamw); first step."""
    decay, lr = 0.3, 1e-2
    config = recipe(
        tmp_path,
        model="tiny-plain",
        optimiser=optimiser,
        weight_decay=decay,
        learning_rate=lr,
        warmup=0,
        gradient_clip=0.0,
        trunk_factor=0.5,
    )
    run = Run(config)
    before = {name: p.detach().clone() for name, p in run.module.named_parameters()}
    run.advance(BATCH)
    for name, p in run.module.named_parameters():
        rate = lr * (0.5 if name.startswith("trunk.") else 1)
        w, g = before[name], p.grad
        if optimiser == "adam":
            g = g + decay * w
        else:
            w = w * (1 - rate * decay)
        # The first step's corrected moments are g and g^2.
        torch.testing.assert_close(p.detach(), w - rate * g / (g.abs() + 1e-8))


def test_gradients_are_clipped_or_not(tmp_path) -> None:
    def total(run: Run) -> float:
        return math.sqrt(sum(float((p.grad**2).sum()) for p in run.module.parameters()))

    free = Run(recipe(tmp_path, gradient_clip=0.0))
    norm = free.advance(BATCH)["gradient_norm"]
    assert norm == pytest.approx(total(free), rel=1e-5)
    clipped = Run(recipe(tmp_path, gradient_clip=norm / 3))
    assert clipped.advance(BATCH)["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert total(clipped) == pytest.approx(norm / 3, rel=1e-4)


def test_bfloat16_stays_close_and_its_loss_is_float32(tmp_path) -> None:
    exact, short = (Run(recipe(tmp_path, precision=p)) for p in ("float32", "bfloat16"))
    logits = short.forward(BATCH)
    assert all(x is None or x.dtype == torch.float32 for x in logits)
    assert not torch.equal(logits.s1, exact.forward(BATCH).s1)  # it really is shorter
    first, second = exact.advance(BATCH), short.advance(BATCH)
    # bfloat16 has 8 bits: 0.4 % a rounding, some dozen layers.
    assert second["loss"] == pytest.approx(first["loss"], rel=0.05)
    assert {p.dtype for p in short.module.parameters()} == {torch.float32}


def test_frozen_norms_of_a_refiner_are_those_of_its_average(tmp_path) -> None:
    run = Run(recipe(tmp_path, freeze_bn=True))
    norms = {k for k in run.module.state_dict() if "running" in k}
    before = {k: v.clone() for k, v in run.module.state_dict().items()}
    assert norms
    for _ in range(2):
        run.advance(BATCH)
    after = run.module.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in norms)
    # nothing about the batch decides what comes out: in evaluation mode it is the same
    inputs = run.task.inputs(run.module, BATCH, 0)
    trained = run.module(*inputs).s1
    torch.testing.assert_close(run.module.eval()(*inputs).s1, trained)
    run.average.load_state_dict(run.module.state_dict())
    torch.testing.assert_close(run.average(*inputs).s1, trained)


def test_memory_layout_changes_nothing_but_the_layout(tmp_path) -> None:
    last, first = (Run(recipe(tmp_path, channels_last=v)) for v in (True, False))
    weights = [run.module.trunk.layers[0].weight for run in (last, first)]
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
    assert weights[1].is_contiguous()
    torch.testing.assert_close(last.forward(BATCH).s1, first.forward(BATCH).s1)


@pytest.mark.parametrize(("decay", "share"), [(0.0, 1.0), (0.5, 0.9), (0.05, 0.95)])
def test_the_average_begins_fast_and_ends_at_its_decay(decay, share, tmp_path) -> None:
    run = Run(recipe(tmp_path, model="tiny-plain", ema_decay=decay))
    before = [p.clone() for p in run.average.parameters()]
    run.advance(BATCH)
    for old, mine, new in zip(
        before, run.average.parameters(), run.module.parameters(), strict=True
    ):
        # After one step it keeps min(decay, 1 / 10) of itself.
        torch.testing.assert_close(mine, (1 - share) * old + share * new.detach())


def test_the_average_is_tried_in_evaluation_mode(tmp_path) -> None:
    run = Run(recipe(tmp_path, model="tiny-dropout"))
    assert torch.equal(run.task.predict(run.average, BATCH), run.task.predict(run.average, BATCH))
    assert not run.average.training
    assert run.module.training
    both = run.task.predict(run.average, BATCH)
    one = run.task.predict(run.average, type(BATCH)(*(x[:1] for x in BATCH)))
    torch.testing.assert_close(both[:1], one)
    assert both.min() >= 0
    assert both.max() <= 1


def test_a_trunk_starts_from_torchvisions_file(tmp_path) -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    path = tmp_path / "resnet18.pth"
    torch.save(theirs.state_dict(), path)
    trunk = ResNet(18, in_channels=6)
    load_torchvision(trunk, path)
    image = torch.randn(1, 3, 64, 64)
    masks = torch.randn(1, 3, 64, 64)
    deep = trunk.eval()(torch.cat([image, masks], dim=1))[-1]  # blind to the masks so far
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        x = layer(x)
    torch.testing.assert_close(deep, x)
    with pytest.raises(InputError, match=r"does not fit the trunk: \d+ tensors differ"):
        load_torchvision(ResNet(34, in_channels=6), path)
    with pytest.raises(InputError, match="cannot read"):
        load_torchvision(trunk, tmp_path / "none.pth")


@pytest.mark.parametrize("key", ["imagenet_trunk", "trunk_weights"])
def test_weights_for_another_kind_of_trunk_are_refused(key, tmp_path) -> None:
    config = recipe(tmp_path, **{key: True if key == "imagenet_trunk" else "file.pth"})
    with pytest.raises(InputError, match=key):
        start_trunk(config, nn.Identity())


def test_a_run_may_start_from_weights_of_the_whole_network(tmp_path) -> None:
    first = Run(recipe(tmp_path, seed=1))
    path = tmp_path / "weights.pth"
    torch.save(first.module.state_dict(), path)
    second = Run(recipe(tmp_path, seed=2, start_from=str(path)))
    for module in (second.module, second.average):
        for name, tensor in first.module.state_dict().items():
            assert torch.equal(module.state_dict()[name], tensor), name
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"start_from = .* does not fit tiny"):
        Run(recipe(tmp_path, start_from=str(path)))


def test_sync_bn_over_cpu_processes_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="sync_bn needs CUDA"):
        Run(recipe(tmp_path, sync_bn=True), Group(size=2))
    Run(recipe(tmp_path, sync_bn=True)).advance(BATCH)  # alone there is nothing to share


def test_errors_are_those_of_the_whole_batch() -> None:
    truth = torch.zeros(2, 1, 4, 4)
    truth[:, :, :2] = 1
    coarse = torch.zeros(2, 1, 4, 4)
    coarse[0, :, :2] = 1
    sample = type(BATCH)(BATCH.image, coarse, truth)
    errors = batch_errors(truth * 2 - 1, sample)
    assert float(errors["error_before"]) == 0.5
    assert float(errors["error_after"]) == 0


def test_softened_masks_keep_flat_places_and_blur_edges() -> None:
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., 10:] = 1
    soft = soften(mask, 2)
    assert soft.shape == mask.shape
    assert (soft[..., :5] == 0).all()
    torch.testing.assert_close(soft[..., 15:], torch.ones(1, 1, 20, 5))
    assert (soft[..., 9] < 0.5).all()
    assert (soft[..., 10] > 0.5).all()


@pytest.mark.parametrize("network", [tiny, lambda: build("cascadepsp-lite")], ids=["full", "lite"])
def test_own_coarse_masks_of_crops_that_no_stride_divides(network) -> None:
    """A third of 64 px is 21: the published network takes multiples of 8 only."""
    module, draw = network().train(), torch.Generator().manual_seed(0)
    image, rough = torch.rand(1, 3, 64, 64), (torch.rand(1, 1, 64, 64) > 0.5).float()
    for _ in range(4 * len(OWN_FACTORS)):
        final, stride4 = own_coarse(module, image, rough, draw)
        assert final.shape == stride4.shape == rough.shape
        is_hard = bool(((final == 1) | (final == -1)).all())
        assert is_hard == (not module.takes_soft)
        assert (final.abs() <= 1).all()
        assert (stride4.abs() <= 1).all()
    assert module.training
