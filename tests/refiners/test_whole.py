"""The global step: how often it looks, and at what."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from crispseg.refiners.network import CascadeNetwork
from crispseg.refiners.whole import MUCH, look_at_whole

SIDE = 64


class Finds:
    """Returns what it was told to, one answer after the other, and keeps what it was given."""

    takes_soft = True

    def __init__(self, *answers: np.ndarray) -> None:
        self.answers, self.given = list(answers), []

    def probabilities(self, images: Any, masks: Any, channels: int) -> list[np.ndarray]:
        assert images == [IMAGE]
        [[mask, *first]] = masks
        assert len(first) == len(self.given)  # the second time it stands for the first run as well
        assert all((x is mask) == self.takes_soft for x in first)
        self.given.append(mask)
        return [self.answers.pop(0)[None].repeat(channels, axis=0)]


IMAGE = torch.zeros(1, 3, SIDE, SIDE)


def rows(count: int, value: float = 1.0) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[:count] = value
    return mask


def looked(*answers: np.ndarray, channels: int = 2) -> tuple[np.ndarray, Finds, int]:
    network, runs = Finds(*answers), []
    found = look_at_whole(
        cast(CascadeNetwork, network), IMAGE, rows(50), channels, after_run=lambda: runs.append(1)
    )
    return found, network, len(runs)


@pytest.mark.parametrize("left", [43, 50, 58])
def test_what_changes_little_is_looked_at_once(left: int) -> None:
    found, network, runs = looked(rows(left, 0.75))
    assert min(left, 50) / max(left, 50) > MUCH
    np.testing.assert_array_equal(found, np.stack([rows(left, 0.75)] * 2))
    np.testing.assert_array_equal(network.given, [rows(50) * 2 - 1])
    assert runs == 1


@pytest.mark.parametrize("left", [42, 60])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_changes_much_is_looked_at_again_as_it_was_found(left: int, channels: int) -> None:
    found, network, runs = looked(rows(left, 0.75), rows(left - 2, 0.9), channels=channels)
    np.testing.assert_array_equal(found, np.stack([rows(left - 2, 0.9)] * channels))
    np.testing.assert_array_equal(network.given, [rows(50) * 2 - 1, rows(left, 0.75) * 2 - 1])
    assert runs == 2 == len(network.given)


def test_both_looks_stay_within_reach_of_what_was_given() -> None:
    small = np.zeros((SIDE, SIDE), np.float32)
    small[2:10, 2:10] = 1
    first, second = np.where(small, 0.9, 0).astype(np.float32), small.copy()
    first[:14, :8] = second[:14, :8] = 0.9
    first[50:, 50:] = second[50:, 40:] = 0.7  # far away
    network = Finds(first, second)
    found = look_at_whole(cast(CascadeNetwork, network), IMAGE, small, 1, after_run=lambda: None)
    assert network.given[1][50:, 50:].max() == -1
    assert found[0, 30:, 30:].max() == 0
    np.testing.assert_array_equal(found[0, :20, :20], second[:20, :20])


def test_an_empty_mask_is_looked_at_once() -> None:
    network = Finds(rows(0))
    found = look_at_whole(cast(CascadeNetwork, network), IMAGE, rows(0), 1, after_run=lambda: None)
    assert not found.any()


def test_the_published_network_gets_what_its_local_step_gets() -> None:
    network = Finds(rows(40, 0.75), rows(39))
    network.takes_soft = False
    look_at_whole(cast(CascadeNetwork, network), IMAGE, rows(50), 2, after_run=lambda: None)
    np.testing.assert_array_equal(network.given[1], rows(40) * 2 - 1)
