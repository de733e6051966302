"""CamVid and your own folders in their layouts, and what is said when they are not there."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from crispseg.data.datasets import camvid, open_dataset
from crispseg.data.datasets import folder as own
from crispseg.data.datasets.base import recode
from crispseg.types import InputError

LABELS = np.array([[0, 10, 11], [3, 4, 255]], np.uint8)


def write(path: Path, pixels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Pillow.fromarray(pixels)
    if palette:
        image = Pillow.fromarray(pixels, "P")
        image.putpalette([v for i in range(256) for v in own.default_colour(i)])
    image.save(path)


def photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (2, 3, 3), dtype=np.uint8)


@pytest.mark.parametrize(("images", "labels"), [("val/images", "val/labels"), ("val", "valannot")])
@pytest.mark.parametrize("palette", [False, True])
def test_camvid_in_both_layouts(images, labels, palette, tmp_path) -> None:
    for i, name in enumerate(("b", "a")):
        write(tmp_path / images / f"{name}.png", photo(i))
        write(tmp_path / labels / f"{name}.png", LABELS, palette=palette)
    data = open_dataset("camvid", tmp_path, "val")
    assert (len(data), data.num_classes, data.ignore_index) == (2, 11, 255)
    assert [item.name for item in data] == ["a", "b"]
    np.testing.assert_array_equal(data[1].read_image(), photo(0))
    read = data[1].read_labels()
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, [[0, 10, 255], [3, 4, 255]])
    assert len(data.colours) == len(set(data.colours)) == 11
    again = pickle.loads(pickle.dumps(data))  # as workers get it
    np.testing.assert_array_equal(again[0].read_labels(), data[0].read_labels())


def test_camvid_as_published(tmp_path) -> None:
    colours = [(128, 128, 128), (64, 192, 0), (0, 0, 64), (192, 0, 64), (128, 128, 192), (1, 2, 3)]
    colours += [(192, 192, 0), (0, 64, 64), (64, 64, 128), (128, 64, 64), (64, 128, 64), (0, 0, 0)]
    colours += [(192, 0, 192), (0, 128, 192), (255, 255, 255)]
    for i, name in enumerate(("0016E5_07959", "0001TP_006690")):
        write(tmp_path / f"701_StillsRaw_full/{name}.png", photo(i))
        pixels = np.array(colours, np.uint8).reshape(3, 5, 3)
        write(tmp_path / f"LabeledApproved_full/{name}_L.png", pixels)
    data = open_dataset("camvid", tmp_path, "all")
    assert [item.name for item in data] == ["0001TP_006690", "0016E5_07959"]
    read = data[0].read_labels()
    expected = [[0, 1, 2, 3, 4], [255, 5, 6, 7, 8], [9, 255, 10, 10, 255]]
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == np.uint8
    with pytest.raises(InputError, match=r"there is no val\.txt"):
        open_dataset("camvid", tmp_path, "val")
    (tmp_path / "val.txt").write_text("0016E5_07959.png\n", encoding="utf-8")
    assert [item.name for item in open_dataset("camvid", tmp_path, "val")] == ["0016E5_07959"]
    (tmp_path / "val.txt").write_text("0016E5_1.png\n", encoding="utf-8")
    with pytest.raises(InputError, match="lists 0016E5_1, which is not in"):
        open_dataset("camvid", tmp_path, "val")
    assert sum(map(len, camvid.ORIGINAL)) == len({c for g in camvid.ORIGINAL for c in g}) == 31


def test_hidden_files_are_no_label_maps(tmp_path) -> None:
    write(tmp_path / "train/images/a.png", photo(0))
    write(tmp_path / "train/labels/a.png", LABELS)
    for place in ("train/images", "train/labels", "train/labels/.cache"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "._a.png").write_bytes(b"no image")
    assert [item.name for item in open_dataset("camvid", tmp_path, "train")] == ["a"]
    found = own.open_label_maps(tmp_path / "train/labels", "3", tmp_path / "train/images")
    assert [item.name for item in found] == ["a"]


def test_a_wrong_root_shows_the_right_one(tmp_path) -> None:
    for name in ("camvid", "folder"):
        with pytest.raises(InputError, match="expected:\nROOT/") as caught:
            open_dataset(name, tmp_path, "train")
        assert str(tmp_path) in str(caught.value)
        assert "get it from" in str(caught.value)
    with pytest.raises(InputError, match="has no split 'trainval'; it has train, val, test"):
        open_dataset("camvid", tmp_path, "trainval")
    with pytest.raises(InputError, match="unknown data set 'camvit'; known: voc2012"):
        open_dataset("camvit", tmp_path, "train")


def test_images_and_label_maps_that_do_not_fit_are_named(tmp_path) -> None:
    write(tmp_path / "train" / "images" / "a.png", photo(0))
    write(tmp_path / "train" / "labels" / "b.png", LABELS)
    with pytest.raises(InputError, match=r"a\.png has no label map .*labels.a\.png"):
        open_dataset("camvid", tmp_path, "train")
    write(tmp_path / "train" / "labels" / "a.png", LABELS + 1)  # 12 now
    data = open_dataset("camvid", tmp_path, "train")
    with pytest.raises(InputError, match=r"a\.png: label 12 is none of this data set's"):
        data[0].read_labels()
    write(tmp_path / "train" / "labels" / "a.png", photo(1))
    with pytest.raises(InputError, match="has 3 channels"):
        data[0].read_labels()
    write(tmp_path / "train" / "labels" / "a.bmp", LABELS)
    with pytest.raises(InputError, match="two label maps of 'a'"):
        open_dataset("camvid", tmp_path, "train")


def test_your_own_folder(tmp_path) -> None:
    write(tmp_path / "images" / "x.jpg", photo(0))
    write(tmp_path / "labels" / "x.png", np.array([[0, 1, 2], [255, 0, 0]], np.uint8))
    with pytest.raises(InputError, match=r"no classes\.txt"):
        open_dataset("folder", tmp_path, "all")
    (tmp_path / "classes.txt").write_text("road 128 64 128\ntraffic light\n\nroom 12\n")
    data = open_dataset("folder", tmp_path, "all")
    assert data.class_names == ("road", "traffic light", "room 12")
    assert data.colours == ((128, 64, 128), (128, 0, 0), (0, 128, 0))
    np.testing.assert_array_equal(data[0].read_labels(), [[0, 1, 2], [255, 0, 0]])
    named = own.open_split(tmp_path, "", class_names=("a", "b"))
    with pytest.raises(InputError, match="label 2 is none"):
        named[0].read_labels()
    with pytest.raises(InputError, match="no train"):
        open_dataset("folder", tmp_path, "train")


def test_pascals_colours() -> None:
    """The first of VOC's published table."""
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
    assert [own.default_colour(i) for i in range(6)] == expected
    assert own.default_colour(20) == (0, 64, 128)
    assert own.default_colour(255) == (224, 224, 192)


def test_numbers_above_a_byte() -> None:
    labels = np.array([[0, 700]], np.uint16)
    out = recode(labels, {0: 65535, 700: 300})
    assert out.dtype == np.uint16
    np.testing.assert_array_equal(out, [[65535, 300]])
    assert recode(labels, {0: 255, 700: 1}).dtype == np.uint8
