"""Calibration and the guard: closed forms, hand-made changes, and brute force."""

from __future__ import annotations

import json
from collections import deque

import numpy as np
import pytest
import torch

from crispseg.models.build import build
from crispseg.models.weights import LoadedModel
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.refiners.guard import (
    FEATURES,
    NEGLIGIBLE,
    SMALLEST_SHARE,
    Calibration,
    calibrate,
    confidence,
    find_changes,
    is_at_a_loss,
    keep_better,
    negligible,
    sure_enough,
    trust_in,
)
from crispseg.tiling.pieces import components
from crispseg.types import Box, InputError

ALWAYS, NEVER = (50.0, 0, 0, 0, 0), (-50.0, 0, 0, 0, 0)


def test_calibration_is_the_sigmoid_of_cooled_logits_stretched() -> None:
    p = np.linspace(0, 1, 101, dtype=np.float32)[None]
    logits = np.log(p[:, 1:-1] / (1 - p[:, 1:-1],)[0])
    sigmoid = 1 / (1 + np.exp(-logits / 1.7))
    expected = np.clip((sigmoid - NEGLIGIBLE) / (1 - 2 * NEGLIGIBLE), 0, 1)
    mine = calibrate(p, 1.7)
    np.testing.assert_allclose(mine[:, 1:-1], expected, atol=1e-6)  # float32
    assert np.abs(mine[:, 1:-1] - sigmoid).max() <= NEGLIGIBLE
    assert (mine[0, 0], mine[0, 50], mine[0, 100]) == (0, 0.5, 1)
    assert ((mine > 0.5) == (p > 0.5)).all()
    assert calibrate(p, 1.0) is p


@pytest.mark.parametrize("bias", [-0.7, 0.4])
@pytest.mark.parametrize("temperature", [1.0, 3.2])
def test_a_bias_moves_the_decision(temperature: float, bias: float) -> None:
    logits = np.linspace(-8, 8, 101, dtype=np.float32)[None]
    p = (1 / (1 + np.exp(-logits))).astype(np.float32)
    mine = calibrate(p, temperature, bias)
    expected = 1 / (1 + np.exp(-(logits - bias) / temperature))
    assert np.abs(mine - expected).max() <= NEGLIGIBLE
    np.testing.assert_array_equal(mine > 0.5, logits > bias)
    ends = np.array([[0, 1]], np.float32)
    np.testing.assert_array_equal(calibrate(ends, temperature, bias), ends)


@pytest.mark.parametrize("bias", [0.0, 0.4, -0.4])
@pytest.mark.parametrize("temperature", [1.5, 3.2])
def test_what_calibrates_to_next_to_nothing_is_zero(temperature: float, bias: float) -> None:
    least = np.float32(negligible(temperature, bias))
    below, above = least * np.float32([[0.8, 1.1]]).T  # 1 - p has steps of 6e-8
    low, high = (calibrate(np.stack([p, 1 - p]), temperature, bias) for p in (below, above))
    assert low[0] == 0
    assert low[1] == 1
    assert 0 < max(high[0], 1 - high[1]) < 1e-3
    assert negligible(1.0) == 0


@pytest.mark.parametrize("bias", [0.0, 0.4, -0.4])
def test_sure_enough_holds_on_both_sides(bias: float) -> None:
    sure = sure_enough(3.2, bias, 1e-3)
    ends = np.array([[sure, 1 - sure]], np.float32)
    low, high = calibrate(ends, 3.2, bias)[0]
    assert max(low, 1 - high) <= 1e-3
    wide = np.array([[1.3 * sure, 1 - 1.3 * sure]], np.float32)
    low, high = calibrate(wide, 3.2, bias)[0]
    assert max(low, 1 - high) > 1e-3


def test_confidence_is_that_of_the_binary_mask() -> None:
    p = np.array([[0, 0.2, 0.5, 0.9, 1]], np.float32)
    np.testing.assert_array_equal(confidence(p), np.array([[1, 0.8, 0.5, 0.9, 1]], np.float32))


def pole(sure: float) -> tuple[np.ndarray, np.ndarray]:
    """A pole of 4 px, given 2 px to the left; all decisions are right with probability ``sure``."""
    given, refined = np.zeros((2, 60, 60), bool)
    given[10:50, 20:24] = refined[10:50, 22:26] = True
    return given, np.where(refined, sure, 1 - sure).astype(np.float32)


def test_a_network_at_a_loss_is_not_trusted_with_the_object() -> None:
    given, unsure = pole(0.7)
    assert is_at_a_loss(given, unsure)
    result, kept = keep_better(given, unsure, ALWAYS, seen_whole=True)
    np.testing.assert_array_equal(result > 0.5, given)
    assert sum(place.pixels for place in kept) == 160
    assert all(place.whole_object for place in kept)
    np.testing.assert_array_equal(result[:5], unsure[:5])  # what did not change stays as sure
    in_part, kept = keep_better(given, unsure, ALWAYS)
    assert in_part is unsure
    assert not kept


def test_a_network_that_is_sure_enough_is() -> None:
    given, sure = pole(0.8)
    assert not is_at_a_loss(given, sure)
    assert keep_better(given, sure, ALWAYS, seen_whole=True) == (sure, ())
    assert is_at_a_loss(given, np.zeros_like(sure))  # surely nothing: it does not see the object
    assert not is_at_a_loss(np.zeros((3, 3), bool), np.full((3, 3), 0.4, np.float32))  # no object


def brute_force_components(kind: np.ndarray) -> np.ndarray:
    label, number = np.zeros(kind.shape, int), 0
    for start in zip(*np.nonzero(kind), strict=True):
        if label[start]:
            continue
        number += 1
        label[start] = number
        queue = deque([start])
        while queue:
            y, x = queue.popleft()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= near[0] < kind.shape[0] and 0 <= near[1] < kind.shape[1]
                if inside and not label[near] and kind[near] == kind[start]:
                    label[near] = number
                    queue.append(near)
    return label


def snake(height: int, width: int) -> np.ndarray:
    """One line of one pixel's width, forth and back in every second row."""
    kind = np.zeros((height, width), np.uint8)
    kind[::2] = kind[1::4, -1] = kind[3::4, 0] = 1
    return kind


@pytest.mark.parametrize("case", ["snake", "upright", "comb", "noise", "line", "column", "none"])
def test_components_are_numbered_as_brute_force_does(case: str) -> None:
    rng = np.random.default_rng(5)
    kind = {
        "snake": snake(15, 20),
        "upright": snake(30, 23).T[:, ::-1] * 2,
        "comb": np.indices((15, 20))[1].astype(np.uint8) % 2 | (np.arange(15) == 14)[:, None],
        "noise": rng.integers(0, 4, (30, 41)).astype(np.uint16),
        "line": rng.integers(0, 3, (1, 40)).astype(np.uint8),
        "column": rng.integers(0, 3, (40, 1)).astype(np.uint8),
        "none": np.zeros((4, 5), np.uint8),
    }[case]
    label, first = components(kind)
    expected = brute_force_components(kind)
    np.testing.assert_array_equal(label, expected)
    firsts = [int(np.flatnonzero(expected == k)[0]) for k in range(1, expected.max() + 1)]
    assert first.tolist() == firsts


@pytest.mark.parametrize("seed", range(3))
def test_changes_equal_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = rng.random((24, 31)) < 0.5
    probability = np.where(rng.random((24, 31)) < 0.6, given, ~given).astype(np.float32) * 0.8 + 0.1
    changes = find_changes(given, probability)
    refined = probability > 0.5
    kind = np.where(given == refined, 0, np.where(refined, 1, 2))
    expected = brute_force_components(kind)
    pairs = set(zip(expected.ravel().tolist(), changes.label.ravel().tolist(), strict=True))
    assert len(pairs) == expected.max() + 1 == len(changes.pixels) + 1  # the same partition
    padded = np.pad(changes.label, 1, mode="edge")
    for k in range(1, len(changes.pixels) + 1):
        inside = changes.label == k
        y, x = np.nonzero(inside)
        assert changes.pixels[k - 1] == len(y)
        assert changes.boxes[k - 1].tolist() == [y.min(), x.min(), y.max() + 1, x.max() + 1]
        rim = sum(
            any(padded[i + 1 + d, j + 1 + e] != k for d, e in ((0, 1), (1, 0), (0, -1), (-1, 0)))
            for i, j in zip(y, x, strict=True)
        )
        _, share, thickness, certainty, added = changes.features[k - 1]
        assert share == pytest.approx(np.log(len(y) / given.sum()))
        assert thickness == pytest.approx(np.log(2 * len(y) / max(rim, 1)))
        assert certainty == pytest.approx(0.8, abs=1e-6)
        assert added == (kind[y[0], x[0]] == 1)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Two objects; of the first a corner is lost and a strip gained, the second grew."""
    given = np.zeros((60, 100), np.bool_)
    given[10:30, 10:30] = given[40:50, 60:80] = True
    probability = np.where(given, 0.9, 0.1).astype(np.float32)
    probability[10:14, 10:14] = 0.2
    probability[15:25, 30:32] = 0.8
    probability[50:55, 60:80] = 0.7
    return given, probability


def test_the_guard_undoes_what_is_not_trusted_and_nothing_else() -> None:
    given, probability = scene()
    unsure_of_removals = (-3.0, 0, 0, 0, 6.0)
    result, kept = keep_better(given, probability, unsure_of_removals)
    expected = probability > 0.5
    expected[10:14, 10:14] = True
    np.testing.assert_array_equal(result > 0.5, expected)
    assert [(k.box, k.pixels, k.whole_object) for k in kept] == [(Box(10, 10, 14, 14), 16, False)]
    assert kept[0].trust == pytest.approx(1 / (1 + np.exp(3)))
    untouched = np.ones(given.shape, np.bool_)
    untouched[10:14, 10:14] = False
    np.testing.assert_array_equal(result[untouched], probability[untouched])
    assert result[10, 10] == pytest.approx(1 - kept[0].trust)


def test_an_object_that_is_not_understood_goes_back_whole() -> None:
    given, probability = scene()
    probability[10:28, 10:29] = 0.2  # nearly all of the first object is lost
    result, kept = keep_better(given, probability, (-3.0, 0, 0, 0, 6.0))
    np.testing.assert_array_equal(result[:35] > 0.5, given[:35])
    assert (result[50:55, 60:80] > 0.5).all()
    assert {k.whole_object for k in kept} == {True}
    assert [k.pixels for k in kept] == [18 * 19, 20]


def test_all_or_nothing() -> None:
    given, probability = scene()
    same, kept = keep_better(given, probability, ALWAYS)
    assert same is probability
    assert kept == ()
    back, kept = keep_better(given, probability, NEVER)
    np.testing.assert_array_equal(back > 0.5, given)
    assert sum(k.pixels for k in kept) == int((given != (probability > 0.5)).sum())
    assert keep_better(given, given.astype(np.float32), NEVER)[1] == ()


def test_trust_is_logistic() -> None:
    given, probability = scene()
    changes = find_changes(given, probability)
    weights = (0.3, -0.2, 0.5, 1.5, -0.7)
    expected = 1 / (1 + np.exp(-(changes.features @ np.array(weights))))
    np.testing.assert_allclose(trust_in(changes.features, weights), expected, rtol=1e-12)


def metadata(weights: tuple[float, ...], temperature: float = 2.0) -> dict[str, str]:
    guard = json.dumps(dict(zip(FEATURES, weights, strict=True)))
    return {"temperature": str(temperature), "guard": guard}


def test_metadata_round_trip_and_damage() -> None:
    assert Calibration.from_metadata({}) == Calibration(1.0, 0.0, None)
    fitted = Calibration.from_metadata(metadata((1, 2, 3, 4, 5)))
    assert fitted == Calibration(2.0, 0.0, (1, 2, 3, 4, 5))
    for damage in ({"temperature": "warm"}, {"guard": "{}"}, {"guard": "nonsense"}, {"guard": "3"}):
        with pytest.raises(InputError, match="damaged"):
            Calibration.from_metadata(damage)
    with pytest.raises(InputError, match="temperature is 0"):
        Calibration.from_metadata({"temperature": "0"})
    for damage in ("nan", "6"):
        with pytest.raises(InputError, match="bias is"):
            Calibration.from_metadata({"bias": damage})


def test_the_refiner_uses_both_and_both_can_be_switched_off() -> None:
    torch.manual_seed(0)
    module = build("cascadepsp-lite").eval()
    model = LoadedModel(
        module, (0.5,) * 3, (0.5,) * 3, "cascadepsp-lite", "random", metadata(NEVER)
    )
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (96, 128, 3)).astype(np.uint8)
    mask = np.zeros((96, 128), np.bool_)
    mask[20:70, 30:90] = True

    def run(**options: bool) -> tuple[np.ndarray, int]:
        result = CascadeRefiner(model, device="cpu", **options).run(image, mask)
        return result.mask, len(result.kept)

    raw, _ = run(guard=False, calibrated=False)
    assert ((raw > 0.5) != mask).any()  # random weights change something
    honest, kept = run(guard=False)
    assert kept == 0
    np.testing.assert_array_equal(honest, calibrate(raw, 2.0))
    guarded, kept = run()
    assert kept > 0
    still = find_changes(mask, guarded)  # only what is too small to be judged
    assert still.pixels.max(initial=0) < SMALLEST_SHARE * mask.sum()


def test_objects_are_judged_as_a_whole_where_the_image_fits_a_tile() -> None:
    """Random weights are sure of nothing; the changes themselves are trusted here."""
    torch.manual_seed(0)
    module = build("cascadepsp-lite").eval()
    plain = ((0.5,) * 3, (0.5,) * 3, "cascadepsp-lite", "random")
    model = LoadedModel(module, *plain, metadata(ALWAYS))
    image = np.random.default_rng(0).integers(0, 255, (96, 160, 3)).astype(np.uint8)
    mask = np.zeros((96, 160), np.bool_)
    mask[20:70, 30:90] = True

    whole = CascadeRefiner(model, device="cpu").run(image, mask)
    np.testing.assert_array_equal(whole.mask > 0.5, mask)
    assert all(place.whole_object for place in whole.kept)
    parts = CascadeRefiner(model, device="cpu", tile_size=128).run(image, mask)
    assert ((parts.mask > 0.5) != mask).any()
    assert parts.kept == ()


def test_small_changes_are_not_judged() -> None:
    given, probability = scene()
    probability[10:14, 10:14] = 0.9
    probability[10, 10] = 0.2  # one pixel of 600, less than half a percent
    result, kept = keep_better(given, probability, NEVER)
    assert result[10, 10] == np.float32(0.2)
    assert [k.pixels for k in kept] == [100, 20]
