from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crispseg.evaluation.cases import Case, check_cases, find_cases
from crispseg.types import InputError


def fill(folder: Path, *names: str, size: tuple[int, int] = (8, 10)) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros(size, np.uint8)).save(folder / name)
    return folder


def test_three_folders_are_matched_by_stem(tmp_path) -> None:
    images = fill(tmp_path / "i", "b.jpg", "a.JPG", "c.x.png")
    coarse = fill(tmp_path / "c", "a.png", "b.png", "c.x.bmp", ".hidden.png")
    truth = fill(tmp_path / "t", "a.png", "b.tif", "c.x.png")
    (truth / "notes.txt").write_text("not an image")
    (truth / "more").mkdir()
    cases, skips = find_cases(images, coarse, truth)
    assert cases == [
        Case("a", images / "a.JPG", coarse / "a.png", truth / "a.png"),
        Case("b", images / "b.jpg", coarse / "b.png", truth / "b.tif"),
        Case("c.x", images / "c.x.png", coarse / "c.x.bmp", truth / "c.x.png"),
    ]
    assert skips == []


def test_the_layout_of_big_in_one_folder(tmp_path) -> None:
    names = [f"{n}_{kind}" for n in ("a", "b_1") for kind in ("im.jpg", "seg.png", "gt.png")]
    folder = fill(tmp_path / "big", *names, "a_refined.png", "b_1_refined.png", "loose.png")
    cases, skips = find_cases(folder, folder, tmp_path / "big", folder)
    assert [case.name for case in cases] == ["a", "b_1"]
    assert cases[1].files() == {
        "image": folder / "b_1_im.jpg",
        "coarse": folder / "b_1_seg.png",
        "truth": folder / "b_1_gt.png",
        "refined": folder / "b_1_refined.png",
    }
    assert skips == []


def test_big_with_coarse_masks_elsewhere(tmp_path) -> None:
    folder = fill(tmp_path / "big", "a_im.jpg", "a_gt.png", "b_im.jpg", "b_gt.png")
    coarse = fill(tmp_path / "deeplab", "a_seg.png", "b.png")
    cases, skips = find_cases(folder, coarse, folder)
    assert [case.coarse.name for case in cases] == ["a_seg.png", "b.png"]
    assert skips == []


def test_what_lacks_a_partner_is_named_with_what_it_lacks(tmp_path) -> None:
    images = fill(tmp_path / "i", "a.jpg", "b.jpg", "c.jpg")
    coarse = fill(tmp_path / "c", "a.png", "c.png", "d.png")
    truth = fill(tmp_path / "t", "a.png", "d.png")
    cases, skips = find_cases(images, coarse, truth)
    assert [case.name for case in cases] == ["a"]
    assert {skip.name: skip.reason for skip in skips} == {
        "b": f"has no coarse file in {coarse} and truth file in {truth}",
        "c": f"has no truth file in {truth}",
        "d": f"has no image file in {images}",
    }


def test_folders_that_cannot_be_used(tmp_path) -> None:
    images = fill(tmp_path / "i", "a.jpg")
    truth, empty = fill(tmp_path / "t0", "a.png"), fill(tmp_path / "e")
    with pytest.raises(InputError, match=r"e has no coarse files$"):
        find_cases(images, empty, truth)
    with pytest.raises(InputError, match=r"cannot list the folder .*nowhere: No such file"):
        find_cases(images, tmp_path / "nowhere", truth)
    with pytest.raises(InputError, match=r"no image files named like name_im\.png"):
        find_cases(images, images, images)
    with pytest.raises(InputError, match="nothing belongs together: 'a' has no coarse file"):
        find_cases(images, fill(tmp_path / "c", "b.png"), fill(tmp_path / "t", "b.png"))
    twice = fill(tmp_path / "twice", "a.png", "a.tif")
    with pytest.raises(InputError, match=r"two truth files for 'a': a\.png and a\.tif"):
        find_cases(images, fill(tmp_path / "c2", "a.png"), twice)


def test_sizes_are_compared_and_a_turned_photo_is_turned(tmp_path) -> None:
    names = ("a.png", "b.png", "c.png", "d.png")
    images, coarse, truth = (fill(tmp_path / folder, *names) for folder in "ict")
    fill(images, "a.png", size=(8, 11))
    fill(coarse, "b.png", size=(10, 8))
    (truth / "c.png").write_bytes(b"not a PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    (images / "d.png").unlink()
    Image.fromarray(np.zeros((10, 8), np.uint8)).save(images / "d.jpg", exif=exif)
    good, skips = check_cases(find_cases(images, coarse, truth)[0])
    assert [case.name for case in good] == ["d"]
    assert [skip.name for skip in skips] == ["a", "b", "c"]
    assert "a.png is 11x8 but" in skips[0].reason
    assert "b.png is 8x10 but" in skips[1].reason
    assert "c.png" in skips[2].reason
