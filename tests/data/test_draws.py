"""What RefinerSamples draws, and how often. Seeds are fixed; each tolerance is four sigma."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from crispseg.data.cache import CacheWriter, PixelCache
from crispseg.data.samples import RefinerSamples, _box_at_boundary, _resized, coarsen

COLOURS = {"big": (200, 30, 30), "small": (30, 200, 30), "single": (30, 30, 200)}
GROUPS = {"big": 16, "small": 4, "single": 1}


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources of 16, 4 and 1 groups, told apart by colour; groups have 1 to 3 frames."""
    folder = tmp_path_factory.mktemp("sources")
    with CacheWriter(folder) as writer:
        for source, groups in GROUPS.items():
            for group in range(groups):
                for number in range(1 + group % 3):
                    frame = np.full((40, 44, 4), 0, np.uint8)
                    frame[..., :3] = COLOURS[source]
                    frame[10:30, 12:34, 3] = 255
                    name = f"{source}{group}"
                    writer.add("pair", f"{name}_{number}.png", frame, group=name, split="train",
                               source=source)  # fmt: skip
    return folder


def four_sigma(share: float, count: int) -> float:
    return 4 * float(np.sqrt(share * (1 - share) / count))


def test_sources_are_drawn_by_the_square_root_of_their_groups(cache_dir: Path) -> None:
    samples = RefinerSamples(cache_dir, crop_size=32, real_fraction=1.0, seed=4)
    seen: Counter[str] = Counter()
    for i in range(700):
        mean = samples[i].image.float().mean((1, 2))
        if mean.max() - mean.min() > 40:  # a tenth is grey
            seen[list(COLOURS)[int(mean.argmax())]] += 1
    count = sum(seen.values())
    assert pytest.approx(count / 700, abs=four_sigma(0.9, 700)) == 0.9
    for source, groups in GROUPS.items():
        share = np.sqrt(groups) / 7  # 4 + 2 + 1
        assert seen[source] / count == pytest.approx(share, abs=four_sigma(share, count))


def test_groups_of_a_source_are_drawn_alike_whatever_their_length(cache_dir: Path) -> None:
    samples = RefinerSamples(cache_dir)
    rng = np.random.default_rng(0)
    drawn = [samples._frame(rng) for _ in range(3000)]
    big = [item.group for item in drawn if item.source == "big"]
    counts = np.array([big.count(f"big{n}") for n in range(16)])
    assert counts.min() > 0
    assert np.abs(counts / len(big) - 1 / 16).max() < four_sigma(1 / 16, len(big))


def test_the_cache_says_where_items_come_from(cache_dir: Path) -> None:
    cache = PixelCache(cache_dir)
    assert {i.source for i in cache.items} == set(GROUPS)
    assert all(i.group.startswith(i.source) for i in cache.items)


def test_caches_from_before_sources_can_be_read(cache_dir: Path, tmp_path: Path) -> None:
    index = json.loads((cache_dir / "index.json").read_text())
    for item in index["items"]:
        del item["source"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    (tmp_path / "pixels.bin").symlink_to(cache_dir / "pixels.bin")
    samples = RefinerSamples(tmp_path, crop_size=32)
    assert {i.source for i in PixelCache(tmp_path).items} == {""}
    assert len(samples._pairs) == 1  # one source of 21 groups
    assert samples[0].image.shape == (3, 32, 32)


def test_six_of_a_hundred_masks_are_the_truth_itself() -> None:
    mask = np.zeros((48, 48), bool)
    mask[10:38, 12:36] = True
    chosen, others = [], []
    for seed in range(1500):
        same = bool(np.array_equal(coarsen(mask, np.random.default_rng(seed)), mask))
        exempt = np.random.default_rng(seed).random() < 0.06  # the first number drawn
        (chosen if exempt else others).append(same)
    assert all(chosen)
    assert len(chosen) / 1500 == pytest.approx(0.06, abs=four_sigma(0.06, 1500))
    assert np.mean(others) < 0.04  # a shift by less than half a pixel, nothing thin to lose


def crop_of(frame: np.ndarray, seed: int, size: int) -> np.ndarray:
    box = _box_at_boundary(frame[..., 3], np.random.default_rng(seed), size)
    return _resized(frame[box], size)


def test_a_third_of_the_crops_are_pixels_as_they_are() -> None:
    """Every pixel of the frame holds its place, so a crop tells where it was cut."""
    size = 64
    y, x = np.mgrid[:300, :260]
    alpha = (np.hypot(y - 150, x - 130) < 90) * 255
    frame = np.dstack([y % 256, x % 256, (y // 256) * 16 + x // 256, alpha]).astype(np.uint8)
    untouched = 0
    for seed in range(600):
        crop = crop_of(frame, seed, size)
        assert crop.shape == (size, size, 4)
        top = int(crop[0, 0, 0]) + 256 * (int(crop[0, 0, 2]) // 16)
        left = int(crop[0, 0, 1]) + 256 * (int(crop[0, 0, 2]) % 16)
        there = frame[top : top + size, left : left + size]
        untouched += there.shape == crop.shape and np.array_equal(there, crop)
    # a resized crop has the same scale by accident once in 120
    assert untouched / 600 == pytest.approx(1 / 3, abs=four_sigma(1 / 3, 600) + 1 / 120)


def test_crops_lie_at_the_boundary() -> None:
    """The boundary point is at most 0.35 sides from the middle, unless the border is nearer."""
    frame = np.zeros((400, 400, 4), np.uint8)
    frame[180:220, 180:220, 3] = 255
    for seed in range(60):
        crop = crop_of(frame, seed, 32)[..., 3] > 127
        assert crop.any()
        assert not crop.all()


def test_frames_smaller_than_the_crop_are_enlarged_whole() -> None:
    frame = np.zeros((20, 31, 4), np.uint8)
    frame[5:15, 10:20, 3] = 255
    for seed in range(20):
        assert crop_of(frame, seed, 64).shape == (64, 64, 4)
