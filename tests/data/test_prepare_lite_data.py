import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from crispseg.data.cache import PixelCache
from crispseg.data.pairs import is_test

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
    folders = [str(tmp_path / n) for n in ("stamps", "walls", "davis", "out")]
    options = zip(("--stamps", "--backgrounds", "--pairs", "--out"), folders, strict=True)
    monkeypatch.setattr(sys, "argv", ["prepare", *(word for pair in options for word in pair)])
    recipe.main()
    items = PixelCache(tmp_path / "out").items
    assert [(i.kind, i.name, i.group) for i in items] == [
        ("cutout", "cow.png", "cow.png"),
        ("background", "800x600.jpg", "Sea"),
        ("pair", "blackswan_00002.jpg", "blackswan"),
        ("pair", "parkour_00001.jpg", "parkour"),
    ]
    assert max(items[0].height, items[0].width) <= recipe.LARGEST_CUTOUT
    for item in items:
        expected = is_test(item.group) or (item.kind == "background" and is_test(item.name))
        assert item.split == ("test" if expected else "train")
