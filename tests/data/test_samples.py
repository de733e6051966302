import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from crispseg.data.cache import CacheWriter, PixelCache
from crispseg.data.perturb import blur_slightly
from crispseg.data.regions import LEAST_IOU
from crispseg.data.samples import RefinerSamples, Sample, coarsen
from crispseg.metrics.boundary import intersection_over_union
from crispseg.types import InputError

SIZE = 64


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red objects for training and green ones for testing, on grey and blue backgrounds."""
    folder = tmp_path_factory.mktemp("cache")
    with CacheWriter(folder) as writer:
        for split, colour in (("train", (220, 20, 20)), ("test", (20, 220, 20))):
            add_items(writer, split, colour)
    return folder


def add_items(writer: CacheWriter, split: str, colour: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        alpha = np.zeros((80 + 10 * number, 90), np.uint8)
        cv2.circle(alpha, (45, 40), 34, 255, -1)
        disc = np.dstack([np.full((*alpha.shape, 3), colour, np.uint8), alpha])
        writer.add("cutout", f"{split}{number}.png", disc, group=f"{split}{number}", split=split)
        grey = rng.integers(90, 130, (140, 180, 3), dtype=np.uint8)
        writer.add("background", f"{split}{number}.jpg", grey, group=split, split=split)
    for number in range(4):
        frame = np.full((120, 200, 4), 60, np.uint8)
        frame[..., 2:] = (140, 0)
        frame[30:90, 50 + number : 130] = (*colour, 255)
        sequence = f"{split}-{number % 2}"
        writer.add("pair", f"{sequence}_{number}.jpg", frame, group=sequence, split=split)


def red_and_green(samples: RefinerSamples, count: int = 30) -> tuple[float, float]:
    """How many samples have a saturated red, and a green, region."""
    red = green = 0
    for i in range(count):
        r, g, b = samples[i].image.float()
        red += bool(((r - torch.maximum(g, b)) > 60).float().mean() > 0.02)
        green += bool(((g - torch.maximum(r, b)) > 60).float().mean() > 0.02)
    return red, green


@pytest.mark.parametrize("real_fraction", [0.0, 1.0])
def test_sample_types_shapes_ranges(cache_dir: Path, real_fraction: float) -> None:
    samples = RefinerSamples(cache_dir, crop_size=SIZE, real_fraction=real_fraction)
    for i in range(20):
        image, coarse, truth = samples[i]
        assert image.shape == (3, SIZE, SIZE)
        assert image.dtype == torch.uint8
        assert coarse.shape == truth.shape == (1, SIZE, SIZE)
        assert coarse.dtype == truth.dtype == torch.float32
        assert set(coarse.unique().tolist()) <= {0.0, 1.0}
        assert truth.min() >= 0
        assert truth.max() <= 1
        assert 0.03 <= (truth > 0.5).float().mean() <= 0.97
        assert coarse.any()


def test_items_of_the_other_split_are_never_seen(cache_dir: Path) -> None:
    red, green = red_and_green(RefinerSamples(cache_dir, crop_size=SIZE, split="train"))
    assert red > 15
    assert green == 0
    red, green = red_and_green(RefinerSamples(cache_dir, crop_size=SIZE, split="test"))
    assert red == 0
    assert green > 15


def test_truth_lies_on_the_object(cache_dir: Path) -> None:
    samples = RefinerSamples(cache_dir, crop_size=SIZE, real_fraction=1.0)
    agree = []
    for i in range(20):
        image, _, truth = samples[i]
        red = image[0].float() > image[2].float() + 30
        if not red.any():  # a grey one
            continue
        agree.append((red == (truth[0] > 0.5)).float().mean().item())
    assert len(agree) > 10
    assert min(agree) > 0.9


def test_depends_on_seed_and_index_only(cache_dir: Path) -> None:
    first = RefinerSamples(cache_dir, crop_size=SIZE, seed=1)
    again = RefinerSamples(cache_dir, crop_size=SIZE, seed=1)
    other = RefinerSamples(cache_dir, crop_size=SIZE, seed=2)
    for i in (7, 3, 7):
        assert all(torch.equal(a, b) for a, b in zip(first[i], again[i], strict=True))
    assert not torch.equal(first[3].image, other[3].image)
    assert not torch.equal(first[3].image, first[4].image)


def test_any_number_of_workers_gives_the_same_batches(cache_dir: Path) -> None:
    samples = RefinerSamples(cache_dir, crop_size=SIZE, length=8)
    alone = list(DataLoader(samples, batch_size=4, num_workers=0))
    shared = list(DataLoader(samples, batch_size=4, num_workers=2))
    assert len(alone) == 2
    for a, b in zip(alone, shared, strict=True):
        assert isinstance(a, Sample)
        assert a.image.shape == (4, 3, SIZE, SIZE)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_papers_coarse_masks_are_perturb_mask_alone(cache_dir: Path, monkeypatch) -> None:
    def empty(mask: np.ndarray, _rng: np.random.Generator, **_target: float) -> np.ndarray:
        return np.zeros_like(mask)

    mixed = RefinerSamples(cache_dir, crop_size=SIZE, seed=4)
    monkeypatch.setattr("crispseg.data.samples.perturb_mask", empty)
    paper = RefinerSamples(cache_dir, crop_size=SIZE, seed=4, coarse="paper")
    for i in range(6):
        assert torch.equal(paper[i].image, mixed[i].image)
        assert torch.equal(paper[i].truth, mixed[i].truth)
        assert not paper[i].coarse.any()


def test_coarse_masks_of_networks_are_mostly_not_the_papers(cache_dir: Path, monkeypatch) -> None:
    calls = {"degrade_mask": 0, "perturb_mask": 0}

    def counted(name: str):
        def call(mask: np.ndarray, _rng: np.random.Generator, **_target: float) -> np.ndarray:
            calls[name] += 1
            return mask.copy()

        return call

    for name in calls:
        monkeypatch.setattr(f"crispseg.data.samples.{name}", counted(name))
    samples = RefinerSamples(cache_dir, crop_size=SIZE, seed=4, coarse="network")
    for i in range(60):
        samples[i]
    assert calls["degrade_mask"] > 2 * calls["perturb_mask"] > 0


def test_length_bounds_the_indices(cache_dir: Path) -> None:
    samples = RefinerSamples(cache_dir, crop_size=SIZE, length=5)
    assert len(samples) == 5
    with pytest.raises(IndexError):
        samples[5]


def test_held_out_groups_are_left_out(cache_dir: Path) -> None:
    groups = {"train-0", "train-1"}
    samples = RefinerSamples(cache_dir, crop_size=SIZE, real_fraction=1.0, without=groups)
    assert samples._pairs == []
    assert samples[0].image.shape == (3, SIZE, SIZE)  # composites take over


def test_sources_are_drawn_as_their_factors_say(tmp_path: Path) -> None:
    pixels = np.zeros((SIZE, SIZE, 4), np.uint8)
    pixels[SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4] = 255
    with CacheWriter(tmp_path) as writer:
        for source, count in (("many", 4), ("few", 1)):
            for i in range(count):
                name = f"{source}-{i}"
                writer.add("pair", name, pixels, group=name, split="train", source=source)
    plain = RefinerSamples(tmp_path, crop_size=SIZE)
    assert np.allclose(plain._source_shares, [2 / 3, 1 / 3])  # square roots of 4 and 1
    samples = RefinerSamples(tmp_path, crop_size=SIZE, source_factors=["few=6"])
    assert np.allclose(samples._source_shares, [2 / 8, 6 / 8])
    for wrong in ("fewer=2", "few", "few=0", "few=x"):
        with pytest.raises(InputError, match=r"source=factor.*sources here: few, many"):
            RefinerSamples(tmp_path, crop_size=SIZE, source_factors=[wrong])


def test_missing_and_useless_caches_say_what_to_do(cache_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prepare_lite_data"):
        RefinerSamples(tmp_path)
    with pytest.raises(InputError, match="nothing to make validation samples"):
        RefinerSamples(cache_dir, split="validation")


def test_cache_gives_back_what_was_added_and_pickles_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (9, 7 + i, 3), dtype=np.uint8) for i in range(3)]
    with CacheWriter(tmp_path) as writer:
        for i, picture in enumerate(pictures):
            writer.add("background", f"{i}.jpg", picture, group=f"{i}", split="train")
        assert not (tmp_path / "index.json").exists()  # not a cache before it is finished
    cache = PixelCache(tmp_path)
    pickled = pickle.dumps(cache)
    assert len(pickled) < 1000
    for reader in (cache, pickle.loads(pickled)):
        items = reader.select("background", "train", without=["1"])
        assert [i.name for i in items] == ["0.jpg", "2.jpg"]
        assert np.array_equal(reader.pixels(items[1]), pictures[2])


def test_failed_preparation_leaves_no_cache(tmp_path: Path) -> None:
    grey = np.zeros((5, 5, 3), np.uint8)
    with pytest.raises(InputError, match="a cutout must be"), CacheWriter(tmp_path) as writer:
        writer.add("cutout", "x.png", grey, group="x", split="train")
    assert list(tmp_path.iterdir()) == []


def test_coarse_masks_differ_from_the_truth_and_keep_the_object() -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[12:50, 15:55] = True
    reached = [
        intersection_over_union(coarsen(mask, np.random.default_rng(seed)), mask)
        for seed in range(80)
    ]
    assert min(reached) > 0.35
    assert 0.75 < np.median(reached) < 0.96
    assert sum(v < 0.8 for v in reached) > 8


def test_regions_are_mistaken_before_the_mask_is_coarsened(cache_dir: Path) -> None:
    samples = RefinerSamples(cache_dir, crop_size=SIZE, real_fraction=1.0, region_share=0.5)
    samples._coarsen = lambda mask, rng: mask  # what is left is the error of whole regions
    different = 0
    for i in range(40):
        coarse, truth = ((m[0] > 0.5).numpy() for m in samples[i][1:])
        assert intersection_over_union(coarse, truth) >= LEAST_IOU
        different += bool((coarse != truth).any())
    assert 8 <= different <= 30  # half of 40, less the masks that no region could be taken from


def test_faithful_masks_differ_by_a_pixel_or_two(cache_dir: Path) -> None:
    exact = 0
    samples = RefinerSamples(cache_dir, crop_size=SIZE, real_fraction=1.0, faithful_share=1.0)
    for i in range(40):
        coarse, truth = ((m[0] > 0.5).numpy() for m in samples[i][1:])
        wrong = (coarse != truth).astype(np.uint8)
        assert not cv2.erode(wrong, np.ones((5, 5), np.uint8)).any()
        exact += not wrong.any()
    assert 4 <= exact <= 25


def test_faithful_masks_keep_thin_objects() -> None:
    for width in (1, 2, 3, 5):
        bar = np.zeros((96, 96), bool)
        bar[8:88, 40 : 40 + width] = True
        for seed in range(60):
            coarse = blur_slightly(bar, np.random.default_rng(seed))
            assert intersection_over_union(coarse, bar) >= 0.5


def test_faded_images_have_no_contrast_and_the_same_truth(cache_dir: Path) -> None:
    plain = RefinerSamples(cache_dir, crop_size=SIZE, real_fraction=1.0)
    faded = RefinerSamples(cache_dir, crop_size=SIZE, real_fraction=1.0, faded_share=1.0)
    flat = 0
    for i in range(30):
        before, after = plain[i], faded[i]
        assert torch.equal(before.truth, after.truth)
        assert torch.equal(before.coarse, after.coarse)
        assert after.image.dtype == torch.uint8
        flat += float(after.image.float().std(dim=(1, 2)).max()) < 1
    assert flat > 4
