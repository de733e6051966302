"""Which points and tiles are chosen: by hand, by brute force, and against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crispseg.refiners.select import (
    BestPoints,
    median_blur,
    most_uncertain,
    points_to_take,
    top_k,
    uncertainty,
)
from crispseg.types import InputError


def test_uncertainty_by_hand() -> None:
    columns = [[0.5, 0.5, 0], [1, 0, 0], [0.2, 0.3, 0.5], [0.6, 0.1, 0.3], [0.25, 0.5, 0.25]]
    probabilities = np.array(columns, np.float32).T[:, None]  # (3, 1, 5)
    assert np.allclose(uncertainty(probabilities), [[1, 0, 0.8, 0.7, 0.75]], atol=1e-6)


@pytest.mark.parametrize("size", [3, 5])
def test_median_is_opencvs(size: int) -> None:
    values = np.random.default_rng(0).random((37, 51), np.float32)
    assert np.array_equal(median_blur(values, size), cv2.medianBlur(values, size))


def test_a_large_median_is_opencvs_on_bytes() -> None:
    values = np.random.default_rng(1).integers(0, 256, (40, 33), dtype=np.uint8)
    assert np.array_equal(median_blur(values.astype(np.float32), 11), cv2.medianBlur(values, 11))


def test_median_wants_a_middle() -> None:
    with pytest.raises(InputError, match="odd"):
        median_blur(np.zeros((4, 4), np.float32), 16)


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(0, 35))
def test_top_k_is_a_stable_sort(scores: list[int], k: int) -> None:
    expected = sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k])
    assert top_k(np.array(scores, np.float32), k).tolist() == expected


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 45), st.data())
def test_points_in_parts_are_those_of_the_whole(scores: list[int], k: int, data) -> None:
    cut = data.draw(st.integers(0, len(scores)))
    best = BestPoints(k, 1, np.float32)
    values = np.array(scores, np.float32)
    for start, stop in ((0, cut), (cut, len(scores))):
        positions = np.arange(start, stop)
        best.add(positions, values[start:stop], positions[:, None].astype(np.float32))
    positions, carried = best.taken()
    assert positions.tolist() == top_k(values, k).tolist()
    assert carried[:, 0].tolist() == positions.tolist()


def test_points_are_a_count_or_a_share() -> None:
    assert points_to_take(100, 1000) == 100
    assert points_to_take(100, 30) == 30
    assert points_to_take(0.75, 1000) == 750
    assert points_to_take(1.0, 30) == 30
    assert points_to_take(1, 30) == 1


def test_the_most_uncertain_tiles_come_first() -> None:
    assert most_uncertain([0.1, 0.9, 0.5, 0.9]) == [1, 3, 2, 0]
