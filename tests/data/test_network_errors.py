"""Each named error does what its name says, and the stream of random numbers stays what it was."""

import cv2
import numpy as np
import pytest

from crispseg.data.perturb import (
    ERROR_SHARES,
    NETWORK_ERRORS,
    degrade_mask,
    draw_polygon,
    intersection_over_union,
    lose_thin_parts,
    lower_resolution,
    round_corners,
    shift_mask,
)
from crispseg.types import InputError

SIZE = 192
SEEDS = range(24)


def disc(radius: int = 50, at: tuple[int, int] = (96, 96)) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.hypot(y - at[0], x - at[1]) <= radius


def square(low: int = 50, high: int = 140) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[low:high, low:high] = True
    return mask


def legs(width: int) -> np.ndarray:
    """Two lines that leave the disc downwards."""
    mask = np.zeros((SIZE, SIZE), bool)
    for x in (80, 110):
        mask[150:180, x : x + width] = True
    return mask


def distance_to_edge(mask: np.ndarray) -> np.ndarray:
    """Of every pixel to the nearest pixel of the other kind; 1 beside the edge."""
    inside, outside = (
        cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for m in (mask, ~mask)
    )
    return np.maximum(inside, outside)


def farthest_wrong(coarse: np.ndarray, mask: np.ndarray) -> float:
    return float(distance_to_edge(mask)[coarse != mask].max(initial=0))


def made(name: str, mask: np.ndarray, severity: float = 1.0) -> list[np.ndarray]:
    return [NETWORK_ERRORS[name](mask, np.random.default_rng(s), severity) for s in SEEDS]


@pytest.mark.parametrize("name", NETWORK_ERRORS)
def test_every_error_costs_something_and_less_when_it_is_less_severe(name: str) -> None:
    mask = square() | legs(5) | disc(20, (40, 150))
    before = mask.copy()
    means = []
    for severity in (1.0, 0.5, 0.25):
        coarse = made(name, mask, severity)
        assert all(c.dtype == np.bool_ and c.shape == mask.shape for c in coarse)
        means.append(np.mean([intersection_over_union(c, mask) for c in coarse]))
        assert 0.5 < means[-1] < 1
    assert means == sorted(means)
    assert np.array_equal(mask, before)


@pytest.mark.parametrize("name", NETWORK_ERRORS)
def test_every_error_takes_empty_full_tiny_and_strided_masks(name: str) -> None:
    empty = np.zeros((23, 40), bool)
    for seed in range(6):
        make = NETWORK_ERRORS[name]
        assert not make(empty, np.random.default_rng(seed)).any()
        assert make(~empty, np.random.default_rng(seed)).mean() > 0.8
        assert make(np.ones((1, 1), bool), np.random.default_rng(seed)).shape == (1, 1)
        views = (disc()[::2, ::3], np.ascontiguousarray(disc()[::2, ::3]))
        first, second = (make(v, np.random.default_rng(seed)) for v in views)
        assert np.array_equal(first, second)


def test_thin_parts_vanish_and_thick_ones_stay() -> None:
    body = disc()
    slit = np.zeros_like(body)
    slit[80:110, 95:97] = True
    filled = 0
    for seed in SEEDS:
        coarse = lose_thin_parts((body & ~slit) | legs(2), np.random.default_rng(seed))
        assert not (coarse & legs(2)).any()
        assert (coarse & body).sum() > 0.9 * body.sum()
        filled += bool(coarse[slit].all())
    assert 4 <= filled <= 20  # a coin decides; 12 expected of 24, sigma 2.4
    gentle = lose_thin_parts(body | legs(9), np.random.default_rng(0), 0.25)  # 3 to 5 px
    assert (gentle & legs(9)).sum() > 0.9 * legs(9).sum()


def test_blobs_are_added_and_cut_away_at_the_boundary_alone() -> None:
    mask = disc()
    coarse = made("blobs", mask)
    # radius at most 0.16 of the extent, waves up to 0.7 of it, stretched by up to 1.6
    reach = 0.16 * np.sqrt(mask.sum()) * 1.7 * 1.6
    assert max(farthest_wrong(c, mask) for c in coarse) <= reach
    assert sum(bool((c & ~mask).sum() > 20) for c in coarse) > 8
    assert sum(bool((mask & ~c).sum() > 20) for c in coarse) > 8


def test_polygon_has_few_corners_and_stays_near() -> None:
    mask = disc()
    corners = []
    for seed in SEEDS:
        coarse = draw_polygon(mask, np.random.default_rng(seed))
        assert farthest_wrong(coarse, mask) < 7 + 4 * 1.5  # the outline's tolerance, four sigma
        (outline,), _ = cv2.findContours(
            coarse.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        corners.append(len(cv2.approxPolyDP(outline, 1.0, True)))
    assert max(corners) <= 20  # a disc of this radius has 32 to the same tolerance
    assert min(corners) >= 4


def test_corners_are_rounded_and_straight_edges_hardly_move() -> None:
    mask = square(50, 140)
    for seed in SEEDS:
        coarse = round_corners(mask, np.random.default_rng(seed))
        # blurred, a right angle's corner is at 0.25 (a little more half a pixel inside)
        assert not coarse[[50, 50, 139, 139], [50, 139, 50, 139]].any()
        # the level 0.35 of a blurred step lies 0.385 sigma outside, and sigma is at most 8
        assert coarse[95, 50 + 4 : 140 - 4].all()
        assert not coarse[95, : 50 - 4].any()


def test_shift_is_the_one_that_was_drawn() -> None:
    mask = disc(30) | legs(3)
    for seed in SEEDS:
        for severity in (1.0, 0.5):
            dx, dy = severity * np.random.default_rng(seed).uniform(-6, 6, size=2)
            coarse = shift_mask(mask, np.random.default_rng(seed), severity)
            if abs(dx % 1 - 0.5) > 0.01 and abs(dy % 1 - 0.5) > 0.01:  # no tie of two pixels
                assert np.array_equal(coarse, np.roll(mask, (round(dy), round(dx)), (0, 1)))


def test_low_resolution_moves_edges_by_a_cell_and_loses_what_is_smaller() -> None:
    body, line = disc(60), np.zeros((SIZE, SIZE), bool)
    line[60:130, 150] = True
    for seed in SEEDS:
        factor = np.exp(np.random.default_rng(seed).uniform(np.log(4), np.log(32)))
        # one pixel in four or more is at most 0.25 of its cell, and the level is at least 0.42
        assert not lower_resolution(line, np.random.default_rng(seed)).any()
        coarse = lower_resolution(body, np.random.default_rng(seed))
        # half a cell in each direction for the average, as much again for the interpolation
        assert farthest_wrong(coarse, body) <= np.sqrt(2) * factor + 1
    ious = [intersection_over_union(c, body) for c in made("low-resolution", body)]
    assert min(ious) > 0.65
    assert max(ious) < 0.999


def test_only_the_errors_that_are_named_are_made() -> None:
    mask = disc() | legs(2)
    for seed in SEEDS:
        coarse = degrade_mask(mask, np.random.default_rng(seed), errors=["shift"])
        assert np.array_equal(coarse, shift_mask(mask, np.random.default_rng(seed)))
        rng = np.random.default_rng(seed)
        both = degrade_mask(mask, np.random.default_rng(seed), errors=("shift", "thin-parts"))
        assert np.array_equal(both, shift_mask(lose_thin_parts(mask, rng), rng))
    assert np.array_equal(degrade_mask(mask, np.random.default_rng(0), errors=()), mask)


def test_unknown_error_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no mask error 'blob'; there are thin-parts, blobs"):
        degrade_mask(disc(), np.random.default_rng(0), errors=["blob"])


def test_errors_are_drawn_as_often_as_their_shares_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(ERROR_SHARES) == list(NETWORK_ERRORS)
    assert sum(ERROR_SHARES.values()) == pytest.approx(1)
    seen: list[str] = []

    def spy(name: str):
        def leave(mask: np.ndarray, rng: np.random.Generator, severity: float) -> np.ndarray:
            seen.append(name)
            return mask

        return leave

    for name in NETWORK_ERRORS:
        monkeypatch.setitem(NETWORK_ERRORS, name, spy(name))
    rng, counts = np.random.default_rng(0), []
    for _ in range(2000):
        before = len(seen)
        degrade_mask(np.ones((1, 1), bool), rng)
        counts.append(len(seen) - before)
    # 1.7 errors a mask; sigma of the mean of 2000 is 0.016
    assert np.mean(counts) == pytest.approx(0.45 + 2 * 0.4 + 3 * 0.15, abs=0.07)
    # the first draw has the shares, later ones even them out: the order stays
    often = [seen.count(name) for name in sorted(ERROR_SHARES, key=ERROR_SHARES.__getitem__)]
    assert often == sorted(often)


def test_masks_of_a_seed_stay_what_the_bundled_model_was_trained_on() -> None:
    """Golden: area, and the generator's next number, for seeds 0 to 15."""
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    cv2.ellipse(canvas, (96, 96), (64, 38), 0, 0, 360, 1, -1)
    cv2.circle(canvas, (96, 96), 16, 0, -1)
    for x in (64, 128):
        cv2.line(canvas, (x, 96), (x, 182), 1, 4)
    # fmt: off
    expected = [
        (7306, 912), (7260, 827), (7727, 449), (7271, 430), (7784, 543), (8434, 190), (7445, 923),
        (7237, 341), (7302, 388), (7346, 320), (7125, 331), (8018, 485), (7380, 664), (7056, 314),
        (6965, 290), (7778, 135),
    ]
    # fmt: on
    for seed, (area, following) in enumerate(expected):
        rng = np.random.default_rng(seed)
        # other builds of OpenCV round their blurs otherwise, which may turn a pixel or two
        assert abs(int(degrade_mask(canvas > 0, rng).sum()) - area) <= 4
        assert int(rng.integers(1000)) == following
