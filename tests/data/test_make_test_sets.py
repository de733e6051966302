"""The recipe that makes the test sets: what it takes and writes; training has no part in it."""

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from crispseg.data.pairs import is_test
from crispseg.io import read_image, read_mask
from crispseg.metrics.boundary import intersection_over_union

RECIPES = Path(__file__).parents[2] / "recipes"
GREEN, RED = (30, 190, 40), (190, 30, 40)


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    sys.path.insert(0, str(RECIPES))  # it imports the recipe beside it
    try:
        return importlib.import_module("make_test_sets")
    finally:
        sys.path.remove(str(RECIPES))


def textured(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-30, 30, (height, width, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def names(split: str, suffix: str, count: int) -> list[str]:
    """File names that fall into a split."""
    wanted = split == "test"
    return [n for n in (f"{i}.{suffix}" for i in range(999)) if is_test(n) == wanted][:count]


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Green discs for testing, red ones for training, and a drawing."""
    folder = tmp_path_factory.mktemp("stamps")
    y, x = np.mgrid[:80, :90]
    alpha = ((np.hypot(y - 40, x - 45) < 36) * 255).astype(np.uint8)
    for split, colour in (("test", GREEN), ("train", RED)):
        for name in names(split, "png", 3):
            save(folder / "things" / name, np.dstack([textured(80, 90, colour), alpha]))
            save(folder / "cartoon" / name, np.dstack([textured(80, 90, RED), alpha]))
    return folder


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey photographs for testing, red ones for training, and an icon."""
    folder = tmp_path_factory.mktemp("walls")
    for split, colour in (("test", (120, 120, 120)), ("train", RED)):
        for name in names(split, "jpg", 3):
            save(folder / name, textured(400, 420, colour))
    save(folder / names("test", "jpg", 4)[-1], textured(64, 64, RED))
    return folder


def test_only_photographs_of_the_test_split_are_taken(
    recipe: ModuleType, stamps: Path, walls: Path
) -> None:
    cutouts = list(recipe.cutouts_of(stamps, test=True))
    assert len(cutouts) == 3
    for rgba in cutouts:
        red, green, _ = rgba[rgba[..., 3] > 0][:, :3].mean(axis=0)
        assert green > red + 100
        assert rgba.shape == (75, 75, 4)  # 71 px and two transparent ones around
    found = list(recipe.backgrounds_of(walls, test=True))
    assert sorted(p.name for p in found) == sorted(names("test", "jpg", 3))


def test_composites_hold_test_objects_and_their_truth(
    recipe: ModuleType, stamps: Path, walls: Path
) -> None:
    cutouts, grounds = (
        list(recipe.cutouts_of(stamps, test=True)),
        list(recipe.backgrounds_of(walls, test=True)),
    )
    image, truth = recipe.composite(cutouts, grounds, np.random.default_rng(3), 96)
    assert image.shape == (96, 96, 3)
    assert truth.shape == (96, 96)
    assert truth.dtype == np.bool_
    assert 0.02 < truth.mean() < 0.9
    again, _ = recipe.composite(cutouts, grounds, np.random.default_rng(3), 96)
    assert np.array_equal(image, again)
    red, green, _ = image[truth].mean(axis=0)
    assert green > red + 50


def test_perturbed_masks_fall_below_the_papers_range_of_iou(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "PERTURBED_AT", 80)
    y, x = np.mgrid[:240, :240]
    truth = np.hypot(y - 120, x - 120) < 80
    ious = [
        intersection_over_union(recipe.perturbed(truth, np.random.default_rng(s)), truth)
        for s in range(24)
    ]
    assert min(ious) > 0.6
    assert max(ious) < 0.96  # enlarged again a mask may gain a little
    assert np.ptp(ious) > 0.1


def test_low_resolution_is_the_mean_of_cells_enlarged(recipe: ModuleType) -> None:
    truth = np.zeros((48, 64), bool)
    truth[16:32, 16:48] = True
    coarse = recipe.low_resolution(truth, 16)  # 3 x 4 cells, one row of two is set
    # bilinear between centres at 7.5, 23.5, ...: half way to the next cell it is 0.5
    assert coarse[24, 16:48].all()
    assert not coarse[24, :16].any()
    assert not coarse[16, 16]  # 0.5 x 0.5 at the corner
    thin = np.zeros((48, 64), bool)
    thin[:, 30:33] = True
    assert not recipe.low_resolution(thin, 16).any()
    assert recipe.low_resolution(np.ones((5, 5), bool), 16).all()  # never less than one cell


def test_camvid_objects_are_named_by_picture_class_and_number(
    recipe: ModuleType, tmp_path: Path
) -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[5:30, 5:30] = 8
    labels[5:30, 40:70] = 8
    labels[40:60, 10:40] = 9
    labels[40:45, 50:55] = 9  # too small
    labels[32:38, :] = 3  # road is no object
    for i in range(7):
        save(tmp_path / "images" / f"p{i}.jpg", textured(60, 80, RED))
        save(tmp_path / "labels" / f"p{i}.png", labels)
    found = list(recipe.camvid_objects(tmp_path))
    per_picture = [("8", 0, 625), ("8", 1, 750), ("9", 2, 600)]
    assert [(name, int(mask.sum())) for name, _, mask in found] == [
        (f"p{i}-{label}-{number}", area) for i in (0, 5) for label, number, area in per_picture
    ]
    names = [name for name, *_ in recipe.camvid_objects(tmp_path, *recipe.CAMVID_VALIDATION)]
    assert names == [f"p2-{label}-{number}" for label, number, _ in per_picture]


def test_all_sets_are_folders_for_evaluate(
    recipe: ModuleType,
    stamps: Path,
    walls: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, size in (("SMALLEST", 96), ("LARGEST", 160), ("PERTURBED_AT", 80)):
        monkeypatch.setattr(recipe, name, size)
    mask = np.zeros((64, 96), np.uint8)
    mask[10:50, 20:70] = 1  # 0 and 1
    labels = np.zeros((60, 80), np.uint8)
    labels[5:50, 5:60] = 8
    for i in range(9):
        save(tmp_path / "davis" / "images" / f"cow_{i:05d}.jpg", textured(64, 96, RED))
        save(tmp_path / "davis" / "masks" / f"cow_{i:05d}.png", mask)
        save(tmp_path / "camvid" / "images" / f"{i}.jpg", textured(60, 80, RED))
        save(tmp_path / "camvid" / "labels" / f"{i}.png", labels)
    out = tmp_path / "out"
    words = ["--out", out, "--stamps", stamps, "--backgrounds", walls, "--count", 3]
    words += ["--davis", tmp_path / "davis", "--camvid", tmp_path / "camvid"]
    photos = [f"{i}.jpg" for i in range(100) if is_test(f"{i}.jpg")][:4]
    for name in photos:
        save(tmp_path / "stills" / "images" / name, textured(60, 80, RED))
        save(tmp_path / "stills" / "masks" / name.replace("jpg", "png"), mask[:60, :80])
    words += ["--pairs", tmp_path / "stills"]
    monkeypatch.setattr(sys, "argv", ["make", *map(str, words)])
    recipe.main()
    expected = {
        "composites": ["000", "001", "002"],
        "davis16": ["cow_00000", "cow_00008"],
        "camvid": ["0-8-0", "5-8-0"],
        "camvid6": ["0-8-0", "5-8-0"],
        "photos": ["000", "001"],
    }
    assert sorted(p.name for p in out.iterdir()) == sorted(expected)
    for folder, cases in expected.items():
        for part, suffix in (("images", "jpg"), ("coarse", "png"), ("truth", "png")):
            found = sorted(p.name for p in (out / folder / part).iterdir())
            assert found == [f"{case}.{suffix}" for case in cases]
        for case in cases:
            coarse, truth = (
                read_mask(out / folder / part / f"{case}.png") for part in ("coarse", "truth")
            )
            assert set(np.unique(truth)) == {0.0, 1.0}
            assert 0.3 < intersection_over_union(coarse > 0.5, truth > 0.5) <= 1
            pixels = np.array(Image.open(out / folder / "images" / f"{case}.jpg"), np.float32)
            assert pixels.shape[:2] == truth.shape
            if folder == "composites":  # nothing red: no object, no photograph of training
                r, g, b = np.moveaxis(pixels, -1, 0)
                assert ((r - np.maximum(g, b)) > 70).mean() < 0.01


def test_validation_shares_no_picture_with_the_test_sets(
    recipe: ModuleType, stamps: Path, walls: Path, tmp_path: Path
) -> None:
    chosen = {
        test: [c.tobytes() for c in recipe.cutouts_of(stamps, test=test)] for test in (True, False)
    }
    assert not set(chosen[True]) & set(chosen[False])
    names = [f"{i}.jpg" for i in range(100) if is_test(f"{i}.jpg")][:5]
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 20:60] = 255
    for k, name in enumerate(names):
        image = textured(60, 80, RED)
        image[:10] = 40 * k  # tells the pictures apart
        save(tmp_path / "stills" / "images" / name, image)
        save(tmp_path / "stills" / "masks" / name.replace("jpg", "png"), mask)
    seen: dict[bool, set[int]] = {}
    for validation in (True, False):
        options = argparse.Namespace(
            pairs=[tmp_path / "stills"],
            validation=validation,
            photos=9,
            seed=0,
            out=tmp_path / str(validation),
        )
        recipe.write_photos(options, {})
        found = sorted((options.out / "photos" / "images").iterdir())
        seen[validation] = {round(float(read_image(p)[:6].mean()) / 40) for p in found}
    assert len(seen[True]) == 2
    assert seen[True] | seen[False] == set(range(5))
    assert not seen[True] & seen[False]


class GreenIsSalient:
    """Stands for an ONNX session: sure of what is more green than red, in values of its own."""

    scale, least = 1.0, 0.0

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert names == ["found"]
        pixels = feed["pixels"]
        assert pixels.shape == (1, 3, 512, 640)
        assert -0.5 <= pixels.min() < pixels.max() <= 0.5
        found = (pixels[:, 1:2] > pixels[:, :1]).astype(np.float32)
        return [found * self.scale + self.least]


def test_a_saliency_network_finds_the_object_at_low_resolution(recipe: ModuleType) -> None:
    kind = importlib.import_module("coarse_networks").Saliency  # loaded with the recipe
    network = kind.__new__(kind)
    session = GreenIsSalient()
    network.session, network.output, network.stretched = session, "found", False
    network.mean, network.std = np.float32([128] * 3), np.float32([256] * 3)
    network.input = argparse.Namespace(name="pixels", shape=[1, 3, 512, 640])
    y, x = np.mgrid[:700, :900]
    truth = np.hypot(y - 300, x - 500) < 200
    image = np.where(truth[..., None], GREEN, RED).astype(np.uint8)
    found = network.find(image, truth)
    assert 0.97 < intersection_over_union(found, truth) < 1
    assert network.find(image, ~truth) is None
    session.scale, session.least = 0.125, 0.25  # never above a half
    assert network.find(image, truth) is None
    network.stretched = True
    np.testing.assert_array_equal(network.find(image, truth), found)
