import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from PIL import Image

from crispseg.data.cache import CacheWriter, PixelCache
from crispseg.data.pairs import is_test
from crispseg.types import InputError

RECIPE = Path(__file__).parents[2] / "recipes" / "prepare_lite_data.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_lite_data", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Textured pixels with many colours."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def cutout(pixels: np.ndarray) -> np.ndarray:
    alpha = np.zeros(pixels.shape[:2], np.uint8)
    alpha[10:-10, 20:-20] = 255
    return np.dstack([pixels, alpha])


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_photographs_are_told_from_drawings(recipe: ModuleType) -> None:
    drawing = np.full((100, 120, 3), 200, np.uint8)
    drawing[40:60] = (10, 10, 200)
    ghost = cutout(photo(100, 120))
    ghost[..., 3] //= 2
    assert recipe.is_photographic(cutout(photo(100, 120)))
    assert not recipe.is_photographic(cutout(drawing))
    assert not recipe.is_photographic(ghost)
    assert not recipe.is_photographic(cutout(photo(40, 60)))  # too small


def test_trim_leaves_two_transparent_pixels(recipe: ModuleType) -> None:
    trimmed = recipe.trim(cutout(photo(100, 120)))
    assert trimmed.shape == (84, 84, 4)
    assert (trimmed[2:-2, 2:-2, 3] == 255).all()
    assert trimmed[[0, 1, -2, -1], :, 3].max() == 0
    whole = cutout(photo(30, 50))
    whole[..., 3] = 255  # touches every border
    assert recipe.trim(whole).shape == (34, 54, 4)


def test_whole_preparation(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "stamps" / "animals" / "cow.png", cutout(photo(90, 900)))
    save(tmp_path / "stamps" / "cartoon" / "pig.png", cutout(photo(90, 120)))
    save(tmp_path / "walls" / "Sea" / "contents" / "images" / "800x600.jpg", photo(600, 800))
    save(tmp_path / "walls" / "Sea" / "contents" / "images" / "400x360.jpg", photo(360, 400))
    save(tmp_path / "walls" / "Sea" / "contents" / "screenshot.jpg", photo(360, 400))
    save(tmp_path / "walls" / "icon.png", photo(64, 64))
    for name in ("parkour_00001", "blackswan_00002"):
        save(tmp_path / "davis" / "images" / f"{name}.jpg", photo(48, 80))
        save(tmp_path / "davis" / "masks" / f"{name}.png", photo(48, 80)[..., 0])
    save(tmp_path / "streets" / "images" / "x.png", photo(60, 80))
    save(tmp_path / "streets" / "labels" / "x.png", boxes_of_labels())
    folders = [str(tmp_path / n) for n in ("stamps", "walls", "davis", "streets", "out")]
    names = ("--stamps", "--backgrounds", "--frames", "--labels", "--out")
    words = [word for pair in zip(names, folders, strict=True) for word in pair]
    monkeypatch.setattr(sys, "argv", ["prepare", *words, "--classes", "2,3", "--void", "9"])
    recipe.main()
    items = PixelCache(tmp_path / "out").items
    assert [(i.kind, i.name, i.group, i.source) for i in items] == [
        ("cutout", "cow.png", "cow.png", ""),
        ("background", "800x600.jpg", "Sea", ""),
        ("pair", "blackswan_00002.jpg", "blackswan", "davis"),
        ("pair", "parkour_00001.jpg", "parkour", "davis"),
        ("pair", "x-0.png", "x", "streets"),
        ("pair", "x-1.png", "x", "streets"),
    ]
    assert max(items[0].height, items[0].width) <= recipe.LARGEST_CUTOUT
    for item in items[:-2]:
        expected = is_test(item.group) or (item.kind == "background" and is_test(item.name))
        assert item.split == ("test" if expected else "train")


def test_label_maps_without_classes_are_refused(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare", "--out", "x", "--labels", "y"])
    with pytest.raises(SystemExit):
        recipe.main()
    assert "--labels needs --classes" in capsys.readouterr().err


def disc(radius: float, at: tuple[float, float] = (100, 100), side: int = 200) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return (np.hypot(y - at[0], x - at[1]) <= radius).astype(np.uint8) * 255


def picture_of(mask: np.ndarray) -> np.ndarray:
    """A dark object on a bright ground, both a little noisy."""
    noise = np.random.default_rng(0).integers(0, 12, (*mask.shape, 3))
    colour = np.where(mask[..., None] > 0, (60, 40, 80), (170, 180, 150))
    return (colour + noise).astype(np.uint8)


def test_edge_fit_knows_exact_masks_from_loose_ones(recipe: ModuleType) -> None:
    truth = disc(60)
    rgb = picture_of(truth)
    assert recipe.edge_fit(rgb, truth) > 0.97
    assert recipe.edge_fit(rgb, disc(63)) < 0.05
    assert recipe.edge_fit(rgb, disc(57)) < 0.05
    # moved to the right by 3 px its edge is off by 3 cos(angle): within a pixel and a half, which
    # is what can count, for a third of the angles
    assert 0.15 < recipe.edge_fit(rgb, disc(60, (100, 103))) < 0.4
    square = np.zeros((200, 200), np.uint8)
    square[50:150, 50:150] = 255
    assert recipe.edge_fit(picture_of(square), square) > 0.97
    assert recipe.edge_fit(picture_of(square), np.roll(square, (3, 3), (0, 1))) < 0.05


def test_edge_fit_of_a_loose_polygon_is_low(recipe: ModuleType) -> None:
    truth = disc(60)
    angles = np.linspace(0, 2 * np.pi, 6, endpoint=False)  # corners outside, sides inside
    corners = 100 + 65 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    polygon = cv2.fillPoly(np.zeros_like(truth), [np.rint(corners).astype(np.int32)], 255)
    assert recipe.edge_fit(picture_of(truth), polygon) < recipe.MIN_EDGE_FIT - 0.1


def test_edge_fit_without_an_edge_is_zero(recipe: ModuleType) -> None:
    rgb = photo(60, 60)
    for mask in (np.zeros((60, 60), np.uint8), np.full((60, 60), 255, np.uint8)):
        assert recipe.edge_fit(rgb, mask) == 0


def write_cache(folder: Path, add: Callable[[CacheWriter], Counter[str]]) -> PixelCache:
    with CacheWriter(folder) as writer:
        counts = add(writer)
    cache = PixelCache(folder)
    stored = sum(n for what, n in counts.items() if "left out" not in what)
    assert stored == len(cache.items)
    return cache


def test_loose_and_unequal_pairs_are_left_out(recipe: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name, mask in (("exact", disc(60)), ("loose", disc(64)), ("small", disc(60)[:150])):
        save(folder / "images" / f"{name}.png", picture_of(disc(60)))
        save(folder / "masks" / f"{name}.png", mask)
    strict = write_cache(
        tmp_path / "a", lambda w: recipe.add_pairs(w, folder, min_edge_fit=recipe.MIN_EDGE_FIT)
    )
    assert [(i.name, i.group, i.source) for i in strict.items] == [
        ("exact.png", "exact.png", "photos")
    ]
    assert np.array_equal(strict.pixels(strict.items[0])[..., 3], disc(60))
    every = write_cache(tmp_path / "b", lambda w: recipe.add_pairs(w, folder))
    assert [i.name for i in every.items] == ["exact.png", "loose.png"]


def test_split_goes_by_the_name_or_by_the_sequence(recipe: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    for name in [f"{s}_{n:05d}" for s in ("parkour", "camel") for n in range(12)]:
        save(folder / "images" / f"{name}.png", photo(8, 9))
        save(folder / "masks" / f"{name}.png", photo(8, 9)[..., 0])
    alone = write_cache(tmp_path / "a", lambda w: recipe.add_pairs(w, folder)).items
    assert [i.split for i in alone] == ["test" if is_test(i.name) else "train" for i in alone]
    assert {i.split for i in alone} == {"test", "train"}
    assert all(i.group == i.name for i in alone)
    video = write_cache(tmp_path / "b", lambda w: recipe.add_pairs(w, folder, sequences=True)).items
    assert {(i.group, i.split) for i in video} == {("parkour", "test"), ("camel", "train")}


def test_classes_with_the_same_file_names_are_different_groups(
    recipe: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "fss"
    for name in ("abacus", "zebra"):
        save(folder / name / "1.jpg", photo(8, 9))
        save(folder / name / "1.png", photo(8, 9)[..., 0])
    items = write_cache(tmp_path / "a", lambda w: recipe.add_pairs(w, folder)).items
    assert [(i.name, i.group) for i in items] == [(f"{n}/1.jpg",) * 2 for n in ("abacus", "zebra")]


def test_masks_are_read_as_what_they_mean(recipe: ModuleType, tmp_path: Path) -> None:
    """0 and 1, a colour palette, an alpha channel, soft values: one stored alpha."""
    folder, truth = tmp_path / "set", disc(12, (20, 20), 40)
    palette = Image.fromarray((truth > 0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])  # red, as in DAVIS and PASCAL VOC
    kinds = {
        "alpha": Image.fromarray(np.dstack([photo(40, 40), truth])),
        "bilevel": Image.fromarray(truth > 0),
        "ones": Image.fromarray(truth // 255),
        "palette": palette,
        "plain": Image.fromarray(truth),
        "rgb": Image.fromarray(np.dstack([truth] * 3)),
        "upper": Image.fromarray(truth),
    }
    for name, mask in kinds.items():
        save(folder / "images" / f"{name}.jpg", photo(40, 40))
        (folder / "masks").mkdir(exist_ok=True)
        mask.save(folder / "masks" / f"{name}.{'PNG' if name == 'upper' else 'png'}")
    soft = np.arange(1600, dtype=np.uint16).reshape(40, 40).astype(np.uint8)
    save(folder / "images" / "zsoft.jpg", photo(40, 40))
    save(folder / "masks" / "zsoft.png", soft)
    cache = write_cache(tmp_path / "a", lambda w: recipe.add_pairs(w, folder))
    assert [i.name for i in cache.items] == [*(f"{n}.jpg" for n in kinds), "zsoft.jpg"]
    for item in cache.items[:-1]:
        assert np.array_equal(cache.pixels(item)[..., 3], truth), item.name
    assert np.array_equal(cache.pixels(cache.items[-1])[..., 3], soft)


def boxes_of_labels() -> np.ndarray:
    """60 x 80: class 2 at the left, class 3 at the right, two pixels of void around the first."""
    labels = np.zeros((60, 80), np.uint8)
    labels[8:32, 8:32] = 9
    labels[10:30, 10:30] = 2
    labels[10:30, 50:70] = 3
    labels[50:55, 50:55] = 3  # smaller than MIN_OBJECT_AREA
    return labels


@pytest.mark.parametrize("with_palette", [False, True])
def test_objects_of_label_maps(recipe: ModuleType, tmp_path: Path, *, with_palette: bool) -> None:
    name = next(f"{i}.jpg" for i in range(200) if is_test(f"{i}.jpg"))
    folder, labels = tmp_path / "city", Image.fromarray(boxes_of_labels())
    if with_palette:
        labels = Image.fromarray(boxes_of_labels(), "P")
        labels.putpalette(np.random.default_rng(0).integers(0, 256, 30).tolist())
    for stem in ("streets", Path(name).stem):
        save(folder / "images" / f"{stem}.jpg", photo(60, 80))
        (folder / "labels").mkdir(exist_ok=True)
        labels.save(folder / "labels" / f"{stem}.png")
    cache = write_cache(tmp_path / "a", lambda w: recipe.add_labelled(w, folder, (3, 2), 9))
    stem = Path(name).stem
    assert [(i.name, i.group, i.split, i.source) for i in cache.items] == [
        (f"{stem}-0.png", stem, "test", "city"),
        (f"{stem}-1.png", stem, "test", "city"),
        ("streets-0.png", "streets", "train", "city"),
        ("streets-1.png", "streets", "train", "city"),
    ]
    third, second = (cache.pixels(i)[..., 3] for i in cache.items[2:])
    # class 3: 20 x 20, grown by 48 and cut at the image; class 2 wins the nearer void line
    assert third.shape == (60, 80 - 2)
    assert third.sum() / 255 == 400
    assert second.sum() / 255 == 22 * 22


def test_camvid_is_label_maps_of_its_classes_all_for_training(
    recipe: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "train"
    for i in range(40):
        save(folder / "images" / f"{i}.jpg", photo(20, 30))
        save(folder / "labels" / f"{i}.png", np.full((20, 30), i % 12, np.uint8))
    items = write_cache(tmp_path / "a", lambda w: recipe.add_camvid(w, folder)).items
    assert {i.split for i in items} == {"train"}
    assert {i.source for i in items} == {"camvid"}
    expected = {i for i in range(40) if i % 12 in (1, 2, 5, 6, 7, 8, 9, 10)}  # no road, sky, void
    assert {int(i.group) for i in items} == expected


@pytest.mark.parametrize(
    "labels", [np.zeros((20, 30, 3), np.uint8), np.zeros((20, 31), np.uint8)], ids=["rgb", "size"]
)
def test_wrong_label_maps_are_named(recipe: ModuleType, tmp_path: Path, labels: np.ndarray) -> None:
    save(tmp_path / "images" / "a.jpg", photo(20, 30))
    save(tmp_path / "labels" / "a.png", labels)
    with pytest.raises(InputError, match=r"a\.png is .* expected one byte a pixel"):
        write_cache(tmp_path / "x", lambda w: recipe.add_labelled(w, tmp_path, (1,), None))
