"""Objects of label maps, against OpenCV and by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from crispseg.refiners.objects import (
    Borders,
    borders,
    colour,
    connected,
    connected_8,
    dilate,
    disc_reaches,
    erode,
    nearest_within,
)


def blobs(seed: int, height: int = 40, width: int = 53) -> np.ndarray:
    noise = np.random.default_rng(seed).random((height, width), np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 1.5) > 0.52


@pytest.mark.parametrize("diameter", [3, 7, 10, 11])
def test_morphology_is_opencvs(diameter: int) -> None:
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
    rows = disc_reaches(diameter)
    drawn = np.zeros((diameter, diameter), np.uint8)
    for dy, first, last in rows:
        middle = diameter // 2
        drawn[middle + dy, middle + first : middle + last + 1] = 1
    assert np.array_equal(drawn, element)
    for seed in range(3):
        mask = blobs(seed)
        pixels = mask.view(np.uint8)
        assert np.array_equal(dilate(mask, rows), cv2.dilate(pixels, element) > 0)
        assert np.array_equal(erode(mask, rows), cv2.erode(pixels, element) > 0)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.mark.parametrize("seed", range(4))
def test_pieces_are_opencvs(seed: int) -> None:
    mask = np.random.default_rng(seed).random((30, 41)) < 0.4
    _, expected = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    assert same_partition(connected_8(mask), expected)
    _, four = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    assert same_partition(connected(mask.astype(np.uint8))[mask], four[mask])


def test_borders_by_hand() -> None:
    pieces = np.array([[0, 0, 1], [0, 2, 1], [2, 2, 1]], np.int32)
    found = borders(pieces)
    pairs = zip(found.first.tolist(), found.second.tolist(), found.length.tolist(), strict=True)
    # 0|1 above right; 0|2: below (0,1), right of (1,0), below (1,0); 1|2: two rows.
    assert sorted(pairs) == [(0, 1, 1), (0, 2, 3), (1, 2, 2)]


@pytest.mark.parametrize("count", [12, 60, 200])
def test_touching_pieces_get_different_colours(count: int) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        points = rng.integers(0, 100, (count, 2))
        y, x = np.mgrid[:100, :100]
        cells = np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in points], axis=0)
        pieces = connected(cells.astype(np.uint8))
        touching = borders(pieces)
        found = colour(np.bincount(pieces.ravel()), touching, 4)
        assert set(found.tolist()) <= {0, 1, 2, 3}
        same = found[touching.first] == found[touching.second]
        # Of very many, some few pixels of all borders may be left.
        assert touching.length[same].sum() <= (count > 100) * 0.002 * touching.length.sum()


def test_where_colours_do_not_suffice_the_shortest_border_gives_way() -> None:
    triangle = Borders(np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([9, 1, 9]))
    found = colour(np.array([3, 2, 1]), triangle, 2)
    assert found[0] == found[2] != found[1]


def test_labels_spread_only_so_far() -> None:
    labels = np.zeros((1, 9), np.uint8)
    labels[0, 4] = 7
    asked = np.ones_like(labels, bool)
    near = nearest_within(labels, labels == 7, 2, -1, asked=asked)
    assert near.tolist() == [[-1, -1, 7, 7, 7, 7, 7, -1, -1]]
    asked[0, :3] = False  # beyond those that are asked for, nothing need be found
    asked[0, 6:] = False
    near = nearest_within(labels, labels == 7, 9, -1, asked=asked)
    assert near.tolist() == [[-1, -1, -1, 7, 7, 7, -1, -1, -1]]
