"""Which arithmetic is chosen, from given times; nothing here depends on how long anything takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from crispseg.models.build import build
from crispseg.models.weights import LoadedModel
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.refiners.network import CascadeNetwork
from crispseg.runtime import precision
from crispseg.runtime.compiled import Finals
from crispseg.runtime.precision import (
    BF16,
    BF16_WINOGRAD,
    DIRECT,
    EXACT,
    FP16,
    PLANES,
    best,
    choose,
    fastest,
)
from crispseg.types import Box, InputError

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({EXACT: 10, DIRECT: 20, BF16: 300, FP16: 400}, EXACT),  # no instructions for halves
        ({EXACT: 10, DIRECT: 20}, EXACT),  # given up on early
        ({EXACT: 30, DIRECT: 20, PLANES: 25}, DIRECT),
        ({EXACT: 10, DIRECT: 20, BF16: 8}, EXACT),  # quicker, but not clearly
        ({EXACT: 10, DIRECT: 20, BF16: 3, FP16: 8}, BF16),
        ({EXACT: 10, DIRECT: 20, BF16: 3, FP16: 3.2}, FP16),  # nearly as quick, and closer
        ({EXACT: 10, DIRECT: 20, BF16: 4, FP16: 3}, FP16),
        ({EXACT: 10, BF16: 3.2, BF16_WINOGRAD: 3}, BF16),
        ({EXACT: 10, BF16: 4, BF16_WINOGRAD: 3, FP16: 7}, BF16_WINOGRAD),
        ({EXACT: 10, BF16: 7.6, BF16_WINOGRAD: 7.4}, BF16_WINOGRAD),  # the other is no clear gain
    ],
)
def test_fewer_bits_only_for_a_clear_gain(times, chosen) -> None:
    assert best(times) == chosen


def test_measured_once_for_each_machine(tmp_path, monkeypatch) -> None:
    runs = []

    def measured():
        runs.append(1)
        return {EXACT: 10.0, DIRECT: 20.0, BF16: 2.0}

    monkeypatch.setattr(precision, "measure", measured)
    path = tmp_path / "folder" / "arithmetic.json"
    assert fastest(path) == fastest(path) == BF16
    assert len(runs) == 1
    monkeypatch.setattr(precision, "machine", lambda: "another")
    assert fastest(path) == BF16
    assert len(runs) == 2
    assert set(json.loads(path.read_text())) > {"another"}
    path.write_text("damaged")
    assert fastest(path) == BF16
    assert len(runs) == 3


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(precision, "measure", lambda: {EXACT: 1.0})
    (tmp_path / "file").write_text("")
    assert fastest(tmp_path / "file" / "arithmetic.json") == EXACT


def test_measuring_times_every_candidate_that_is_not_hopeless(monkeypatch) -> None:
    monkeypatch.setattr(precision, "CHANNELS", 64)
    monkeypatch.setattr(precision, "SIDE", 16)
    monkeypatch.setattr(precision, "SMALL_SIDE", 8)
    times = precision.measure()
    assert times
    assert set(times) <= set(precision.CANDIDATES)
    assert all(0 < ms < 1e5 for ms in times.values())


def test_names(monkeypatch) -> None:
    monkeypatch.setattr(precision, "fastest", lambda: BF16)
    assert choose("plain", CPU) is None
    assert choose("exact", CPU) == choose("fp32", CPU) == EXACT
    assert choose("auto", CPU) == BF16
    assert choose("bf16", CPU) == choose("bf16", CUDA) == BF16
    assert choose("fp16", CPU) == choose("auto", CUDA) == FP16
    assert choose("exact", CUDA) == DIRECT
    assert choose("auto", MPS) is choose("exact", MPS) is None
    with pytest.raises(InputError, match="not for device mps"):
        choose("fp16", MPS)
    with pytest.raises(InputError, match="one of plain, exact, auto"):
        choose("half", CPU)


def lite() -> LoadedModel:
    torch.manual_seed(0)
    module = build("cascadepsp-lite").eval()
    return LoadedModel(module, (0.5,) * 3, (0.5,) * 3, architecture="cascadepsp-lite", source="-")


def test_the_refiner_passes_it_on(monkeypatch) -> None:
    def never():
        raise AssertionError("measured for a network that is not the published one")

    monkeypatch.setattr(precision, "fastest", never)
    model = lite()
    assert CascadeRefiner(model, device="cpu").network.arithmetic == str(EXACT)
    plain = CascadeRefiner(model, device="cpu", precision="plain").network.arithmetic
    assert plain == "as written"
    half = CascadeRefiner(model, device="cpu", precision="bf16").network.arithmetic
    assert half == "bfloat16, direct"
    with pytest.raises(InputError, match="precision must be one of"):
        CascadeRefiner(model, device="cpu", precision="fp8")


@pytest.mark.parametrize(("name", "most"), [("bf16", 0.02), ("fp16", 0.003)])
def test_halves_are_near_in_the_bundled_architecture(name, most) -> None:
    model = lite()
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3)).astype(np.uint8)
    mask = np.ones((70, 90), np.float32)
    mask[20:50, 30:70] = -1
    results = []
    for each in ("plain", name):
        network = CascadeNetwork(model, CPU, published=False, precision=each)
        tensor = network.image_tensor(image, 255)
        [one] = network.probabilities([tensor], [[mask]])
        [two] = network.probabilities_of_masks(tensor, [mask], [Box(0, 0, *mask.shape)])
        results.append((one, two))
    for plain, half in zip(*results, strict=True):
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, plain, atol=most)
        assert not np.array_equal(half, plain)


def test_float16_that_overflows_is_done_again_in_float32() -> None:
    model = lite()
    with torch.no_grad():
        model.module.head_s1.weight *= 1e9
    network = CascadeNetwork(model, CPU, published=False, precision="fp16")
    plain = CascadeNetwork(model, CPU, published=False)
    image = network.image_tensor(np.full((64, 64, 3), 99, np.uint8), 255)
    mask = np.full((64, 64), -1, np.float32)
    assert not all(x.isfinite().all() for x in network._form(image, torch.zeros(1, 1, 64, 64)))
    [found], [expected] = (n.probabilities([image], [[mask]]) for n in (network, plain))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    [found] = network.probabilities_of_masks(image, [mask], [Box(0, 0, *mask.shape)])
    assert np.isfinite(found).all()
    assert isinstance(network._in_float32(image, torch.zeros(1, 1, 64, 64)), Finals)
