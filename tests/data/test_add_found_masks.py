"""The recipe that adds real networks' masks to a cache, and training samples that use them."""

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from crispseg.data.cache import CacheWriter, PixelCache
from crispseg.data.samples import RefinerSamples
from crispseg.types import InputError

RECIPES = Path(__file__).parents[2] / "recipes"
SIZE = 64


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    sys.path.insert(0, str(RECIPES))  # it imports the recipe beside it
    try:
        return importlib.import_module("add_found_masks")
    finally:
        sys.path.remove(str(RECIPES))


class LeftHalf:
    """Finds the left half of the picture's width, and nothing where there is little of it."""

    def find(self, image: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
        assert image.shape == (*truth.shape, 3)
        if truth.mean() < 0.25:
            return None
        found = np.zeros_like(truth)
        found[:, : truth.shape[1] // 2] = True
        return found


def frame(rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
    """Grey, the object red."""
    pixels = np.full((100, 160, 4), 90, np.uint8)
    pixels[..., 3] = 0
    pixels[rows, columns] = (220, 20, 20, 255)
    return pixels


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> PixelCache:
    folder = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(0)
    with CacheWriter(folder) as writer:
        for source in ("DUTS-TR", "street", "camvid"):
            for split in ("train", "test"):
                pixels = frame(columns=slice(0, 100))
                writer.add("pair", "a.png", pixels, group=split, split=split, source=source)
        little = frame(slice(0, 20), slice(0, 20))
        writer.add("pair", "b.png", little, group="b", split="train", source="street")
        cutout = rng.integers(0, 256, (300, 400, 4), np.uint8)
        cutout[..., 3] = 255
        writer.add("cutout", "c.png", cutout, group="c", split="train")
        wall = rng.integers(0, 256, (500, 600, 3), np.uint8)
        writer.add("background", "d.png", wall, group="d", split="train")
    return PixelCache(folder)


@pytest.fixture(scope="module")
def added(
    recipe: ModuleType, cache: PixelCache, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PixelCache, Counter[str]]:
    out = tmp_path_factory.mktemp("found")
    networks = {"u2net": LeftHalf(), "other": LeftHalf()}
    counts = recipe.add_found(cache, out, networks, composites=2, without=["camvid"])
    return PixelCache(out), counts


def test_everything_is_copied_and_training_pictures_get_masks(
    cache: PixelCache, added: tuple[PixelCache, Counter[str]]
) -> None:
    new, counts = added
    kept = [i for i in new.items if i.kind != "found" and i.source != "composites"]
    assert [(i.kind, i.name, i.split, i.source) for i in kept] == [
        (i.kind, i.name, i.split, i.source) for i in cache.items
    ]
    for old, item in zip(cache.items, kept, strict=True):
        np.testing.assert_array_equal(new.pixels(item), cache.pixels(old))
    found = [i for i in new.items if i.kind == "found"]
    assert {i.split for i in found} == {"train"}
    where = Counter((i.source, i.name) for i in found if i.source != "composites")
    # U2-Net was trained on DUTS; b.png holds too little; CamVid was to be left alone
    assert where == {("DUTS-TR", "a.png"): 1, ("street", "a.png"): 2}
    assert counts["pictures of street"] == 2
    assert counts["masks of street by other"] == 1
    mask = new.pixels(found[0])
    assert mask.shape == (100, 160, 1)
    np.testing.assert_array_equal(mask[..., 0], np.repeat([255, 0], 80)[None].repeat(100, 0))


def test_composites_are_pairs(added: tuple[PixelCache, Counter[str]]) -> None:
    new, counts = added
    made = [i for i in new.items if i.source == "composites" and i.kind == "pair"]
    assert len(made) == counts["pictures of composites"] == 2
    for item in made:
        pixels = new.pixels(item)
        assert pixels.shape == (1024, 1024, 4)
        assert 0.02 < (pixels[..., 3] > 127).mean() < 0.9
    assert not np.array_equal(*(new.pixels(item) for item in made))


def test_samples_take_the_share_of_found_masks_that_is_asked_for(
    added: tuple[PixelCache, Counter[str]],
) -> None:
    new, _ = added
    shares = {}
    for share in (0.0, 0.5, 1.0):
        samples = RefinerSamples(
            new.folder,
            crop_size=SIZE,
            real_fraction=1.0,
            found_share=share,
            without=["b", "00000.png", "00001.png"],
            source_factors=["street=1000000"],
        )
        shares[share] = np.mean([is_left_part(samples[i].coarse) for i in range(120)])
        again = RefinerSamples(new.folder, crop_size=SIZE, real_fraction=1.0, found_share=share)
        assert again[3].coarse.equal(again[3].coarse)
    assert shares[0.0] < 0.3
    assert shares[0.0] + 0.15 < shares[0.5] < shares[1.0] - 0.1


def is_left_part(coarse: object) -> bool:
    """Whether a mask is of whole columns of a crop, as ``LeftHalf``'s are."""
    mask = np.asarray(coarse)[0] > 0.5
    return bool((mask == mask[:1]).all())


def test_a_share_without_masks_is_an_error(cache: PixelCache) -> None:
    with pytest.raises(InputError, match="add_found_masks"):
        RefinerSamples(cache.folder, crop_size=SIZE, found_share=0.5)
