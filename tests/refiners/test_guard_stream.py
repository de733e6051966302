"""The guard over strips decides what the guard in memory decides, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

import crispseg.refiners.guard_stream as guard_stream
from crispseg.refiners.guard import keep_better
from crispseg.refiners.guard_stream import Evidence, StreamedGuard
from crispseg.refiners.stream import encode
from crispseg.tiling.pieces import PieceFinder, bounding_boxes, components, rim
from crispseg.types import Size

WEIGHTS = (-0.4, 0.3, -0.9, 1.1, 0.8)


def blobs(rng: np.random.Generator, size: tuple[int, int], grain: int) -> np.ndarray:
    """Smooth random values in [0, 1]."""
    coarse = rng.random((size[0] // grain + 2, size[1] // grain + 2))
    fine = coarse.repeat(grain, 0).repeat(grain, 1)[: size[0], : size[1]]
    for _ in range(2):
        fine = (fine + np.roll(fine, grain // 2, 0) + np.roll(fine, grain // 2, 1)) / 3
    return fine


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_same_decisions_and_bits_as_in_memory(monkeypatch, seed, rows) -> None:
    rng = np.random.default_rng(seed)
    size = Size(110, 90)
    given = blobs(rng, size, 11 + 3 * seed) > 0.55
    probability = (blobs(rng, size, 6 + seed) * 0.6 + given * 0.4).astype(np.float32)
    expected, kept = keep_better(given, probability, WEIGHTS)

    monkeypatch.setattr(guard_stream, "CELL_PX", 8)
    planes = encode(given, probability, exact=True)
    evidence = Evidence(
        size,
        lambda box: given[box.slices],
        lambda box: planes["change"][box.slices],
        int(given.sum()),
        unchanged=lambda box: not planes["change"][box.slices].any(),
        empty=lambda box: not given[box.slices].any(),
        strip_px=rows * size.width,
    )
    guard = StreamedGuard(evidence, WEIGHTS)
    result = probability.copy()
    for number, strip in guard.strips():
        undoing = guard.undoing(number, strip)
        if undoing is not None:
            back, doubted = undoing
            before = given[strip.slices]
            corrected = np.where(before, 1 - doubted, doubted)
            result[strip.slices] = np.where(back, corrected, probability[strip.slices])
    assert result.tobytes() == expected.tobytes()
    assert guard.kept == kept


def test_the_cases_above_are_worth_it() -> None:
    """Some of them undo single pieces, some whole objects."""
    outcomes = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        given = blobs(rng, (110, 90), 11 + 3 * seed) > 0.55
        probability = (blobs(rng, (110, 90), 6 + seed) * 0.6 + given * 0.4).astype(np.float32)
        _, kept = keep_better(given, probability, WEIGHTS)
        outcomes |= {place.whole_object for place in kept}
    assert outcomes == {True, False}


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_pieces_found_in_strips_are_those_of_the_whole(rows) -> None:
    rng = np.random.default_rng(rows)
    kind = rng.integers(0, 3, (40, 37), dtype=np.uint8)
    kind[5:30, 3] = kind[5:30, 20] = kind[29, 3:21] = 1  # a U that closes late
    counted = rng.integers(0, 1000, kind.shape)
    finder = PieceFinder(1, lambda pieces: pieces.pixels > 3)
    for y0 in range(0, 40, rows):
        finder.feed(y0, kind[y0 : y0 + rows], (counted[y0 : y0 + rows],))
    found = finder.finish()
    label, first = components(kind)
    pixels = np.bincount(label.ravel())[1:]
    keep = np.flatnonzero(pixels > 3)
    assert len(found) == len(keep) > 10
    np.testing.assert_array_equal(found.first, first[keep])
    np.testing.assert_array_equal(found.pixels, pixels[keep])
    np.testing.assert_array_equal(found.kind, kind.ravel()[first[keep]])
    np.testing.assert_array_equal(found.boxes, bounding_boxes(label, len(first))[keep])
    sums = np.bincount(label.ravel(), counted.ravel())[1:]
    np.testing.assert_array_equal(found.sums[:, 0], sums[keep])
    again = np.zeros(kind.shape, np.int64)  # painted from the strips' own labels
    for number, y0 in enumerate(range(0, 40, rows)):
        own, _ = components(kind[y0 : y0 + rows])
        for strip_label, which in zip(*found.in_strip(number), strict=True):
            again[y0 : y0 + rows][own == strip_label] = which + 1
    wanted = np.concatenate(([0], np.cumsum(pixels > 3) * (pixels > 3)))[label]
    np.testing.assert_array_equal(again, wanted)


def test_rim_by_hand() -> None:
    label = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 2]])
    expected = [[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    np.testing.assert_array_equal(rim(label), np.array(expected, bool))
