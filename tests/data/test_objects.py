"""Label maps turned into objects, against slow loops over all pixels."""

import numpy as np
import pytest

from crispseg.data.objects import fill_void, objects_of
from crispseg.types import Box, InputError

VOID = 11


def random_labels(seed: int, shape: tuple[int, int] = (23, 31)) -> np.ndarray:
    """Blocks of four classes with lines and specks of void."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 4, (shape[0] // 5 + 1, shape[1] // 5 + 1))
    labels = np.kron(blocks, np.ones((5, 5), int))[: shape[0], : shape[1]].astype(np.uint8)
    labels[rng.random(shape) < 0.15] = VOID
    labels[:, 12:17] = VOID
    return labels


def flood(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Components of 8 neighbours, in the order of their first pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        component, heap = set(), [start]
        left.discard(start)
        while heap:
            y, x = heap.pop()
            component.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            heap += near
        found.append(component)
    return found


@pytest.mark.parametrize("reach", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_void_gets_the_nearest_label_within_reach(seed: int, reach: int) -> None:
    labels = random_labels(seed)
    before = labels.copy()
    filled = fill_void(labels, VOID, reach)
    assert np.array_equal(labels, before)
    known = np.argwhere(labels != VOID)
    assert np.array_equal(filled[labels != VOID], labels[labels != VOID])
    for y, x in np.argwhere(labels == VOID):
        distance = np.hypot(*(known - (y, x)).T)
        if distance.min() > reach:
            assert filled[y, x] == VOID
        else:  # several may be equally near
            nearest = known[distance <= distance.min() + 1e-6]
            assert filled[y, x] in {labels[a, b] for a, b in nearest}


def test_the_edge_lies_in_the_middle_of_a_void_line() -> None:
    labels = np.full((6, 10), 1, np.uint8)
    labels[:, 5:] = 2
    labels[:, 3:7] = VOID
    assert fill_void(labels, VOID, reach=2).tolist() == [[1] * 5 + [2] * 5] * 6
    assert fill_void(labels, VOID, reach=1)[0].tolist() == [1] * 4 + [VOID] * 2 + [2] * 4


def test_nothing_to_fill_and_nothing_to_fill_with() -> None:
    for labels in (np.full((4, 5), VOID, np.uint8), np.full((4, 5), 3, np.uint8)):
        filled = fill_void(labels, VOID, reach=9)
        assert np.array_equal(filled, labels)
        assert filled is not labels


@pytest.mark.parametrize("min_area", [1, 6, 30])
@pytest.mark.parametrize("seed", range(4))
def test_objects_are_what_flooding_finds(seed: int, min_area: int) -> None:
    labels = random_labels(seed)
    found = objects_of(labels, (2, 1), min_area=min_area)
    expected = [
        (label, component)
        for label in (2, 1)
        for component in flood(labels == label)
        if len(component) >= min_area
    ]
    as_sets = [(t.label, {(int(y), int(x)) for y, x in np.argwhere(t.mask)}) for t in found]
    assert [label for label, _ in as_sets] == [label for label, _ in expected]  # class by class
    assert sorted(map(repr_of, as_sets)) == sorted(map(repr_of, expected))
    for thing in found:
        rows, columns = np.nonzero(thing.mask)
        box = Box(rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        assert thing.box == box
        assert thing.mask.shape == labels.shape


def repr_of(thing: tuple[int, set[tuple[int, int]]]) -> tuple[int, list[tuple[int, int]]]:
    return thing[0], sorted(thing[1])


def test_order_is_by_class_as_given_and_then_from_the_top() -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[1, 6], labels[3, 1], labels[7, 4] = 5, 5, 5
    labels[0, 0] = 4
    found = objects_of(labels, (5, 4), min_area=1)
    assert [(t.label, t.box.y0, t.box.x0) for t in found] == [
        (5, 1, 6),
        (5, 3, 1),
        (5, 7, 4),
        (4, 0, 0),
    ]


def test_pixels_that_touch_at_a_corner_are_one_object() -> None:
    labels = np.eye(5, dtype=np.uint8)
    (thing,) = objects_of(labels, [1], min_area=5)
    assert thing.mask.sum() == 5
    assert objects_of(labels, [1], min_area=6) == []
    assert objects_of(labels, [7], min_area=1) == []


def test_class_zero_is_a_class_like_others() -> None:
    labels = np.ones((4, 4), np.uint8)
    labels[:2] = 0
    (thing,) = objects_of(labels, [0], min_area=1)
    assert np.array_equal(thing.mask, labels == 0)


@pytest.mark.parametrize("bad", [np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), np.int64)])
def test_other_arrays_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="a label map must be"):
        objects_of(bad, [1], min_area=1)
