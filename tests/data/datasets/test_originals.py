"""Data sets in the files in which their authors distribute them, made tiny."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.io import savemat

from crispseg.data.datasets import nyudv2, open_dataset, person_part
from crispseg.types import InputError

SHAPE = (4, 6)


def photo(path: Path, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.full((*SHAPE, 3), value, np.uint8)).save(path)


def names(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def structs(*records: tuple, fields: tuple[str, ...]) -> np.ndarray:
    """(1, N) structure array, as MATLAB's ``x(1) = ...; x(2) = ...`` makes it."""
    out = np.empty((1, len(records)), [(field, object) for field in fields])
    for place, record in enumerate(records):
        out[0, place] = record
    return out


def square(y: int, x: int, size: int = 2) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[y : y + size, x : x + size] = 1
    return mask


def annotation(path: Path, *objects: tuple[str, list[tuple[str, np.ndarray]]]) -> None:
    """A file of PASCAL-Part: (class, [(part, mask)]) of each object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = []
    for kind, parts in objects:
        found = structs(*parts, fields=("part_name", "mask")) if parts else np.zeros((0, 0))
        records.append((kind, 15, np.ones(SHAPE, np.uint8), found))
    fields = ("class", "class_ind", "mask", "parts")
    anno = {"imname": path.stem, "objects": structs(*records, fields=fields)}
    savemat(path, {"anno": anno}, do_compression=True)


def parts_tree(root: Path) -> None:
    """Three images: a person with parts beside a dog, a person without, a dog only."""
    for name in ("2008_000001", "2008_000002", "2008_000003"):
        photo(root / f"JPEGImages/{name}.jpg")
    parts = [("head", square(0, 0)), ("leye", square(0, 0, 1)), ("rlarm", square(1, 1))]
    parts += [("lfoot", square(2, 4)), ("neck", square(3, 0, 1))]
    folder = root / "Annotations_Part"
    dog = ("dog", [("head", square(0, 4)), ("muzzle", square(0, 4))])
    annotation(folder / "2008_000001.mat", dog, ("person", parts), ("chair", []))
    annotation(folder / "2008_000002.mat", ("person", []))
    annotation(folder / "2008_000003.mat", dog)
    names(root / "ImageSets/Main/val.txt", "2008_000001", "2008_000002", "2008_000003")


def test_parts_of_people_are_merged_to_six(tmp_path) -> None:
    """Later parts lie over earlier ones; parts of a dog and what has no part are background."""
    parts_tree(tmp_path)
    data = open_dataset("person-part", tmp_path, "val")
    assert [item.name for item in data] == ["2008_000001"]  # the only one of people with parts
    expected = [[1, 1, 0, 0, 0, 0], [1, 4, 4, 0, 0, 0], [0, 4, 4, 0, 6, 6], [2, 0, 0, 0, 6, 6]]
    labels = pickle.loads(pickle.dumps(data))[0].read_labels()
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)
    assert data[0].read_image().shape == (*SHAPE, 3)
    assert person_part.read_parts(tmp_path / "Annotations_Part/2008_000003.mat").max() == 0


def test_every_part_of_a_person_has_a_class(tmp_path) -> None:
    """The 24 names of PASCAL-Part, by what the six are called in the paper."""
    sides = {"head": "eye ear ebrow", "lower arms": "larm hand", "upper arms": "uarm"}
    sides |= {"lower legs": "lleg foot", "upper legs": "uleg"}
    whole = {"head": "head hair nose mouth", "torso": "torso neck"}
    found = {f"{side}{part}": kind for kind, of in sides.items() for part in of.split()
             for side in "lr"}  # fmt: skip
    found |= {part: kind for kind, of in whole.items() for part in of.split()}
    assert len(found) == 24
    assert {
        part: person_part.CLASSES[number] for part, number in person_part.PARTS.items()
    } == found


def test_lists_of_person_part_are_taken_as_they_are(tmp_path) -> None:
    parts_tree(tmp_path)
    names(tmp_path / "pascal_person_part_trainval_list/val.txt", "2008_000002")
    data = open_dataset("person-part", tmp_path, "val")
    assert [item.name for item in data] == ["2008_000002"]
    assert data[0].read_labels().max() == 0


def test_label_maps_that_were_made_of_parts_come_first(tmp_path) -> None:
    parts_tree(tmp_path)
    names(tmp_path / "pascal_person_part_trainval_list/val.txt", "2008_000002")
    (tmp_path / "pascal_person_part_gt").mkdir()
    made = Pillow.fromarray(np.full(SHAPE, 5, np.uint8))
    made.save(tmp_path / "pascal_person_part_gt/2008_000002.png")
    assert open_dataset("person-part", tmp_path, "val")[0].read_labels().min() == 5


def test_what_is_wrong_with_parts_is_said(tmp_path) -> None:
    parts_tree(tmp_path)
    file = tmp_path / "Annotations_Part/2008_000001.mat"
    annotation(file, ("person", [("tail", square(0, 0))]))
    with pytest.raises(InputError, match=r"2008_000001\.mat: 'tail' is no part of a person"):
        open_dataset("person-part", tmp_path, "val")[0].read_labels()
    annotation(file, ("person", [("head", np.zeros((2, 2), np.uint8))]))
    with pytest.raises(InputError, match="'head' is no part of a person with a mask"):
        person_part.read_parts(file)
    savemat(file, {"anno": np.zeros(3)})
    with pytest.raises(InputError, match=r"holds no anno\.objects"):
        open_dataset("person-part", tmp_path, "val")
    file.unlink()
    with pytest.raises(InputError, match=r"cannot read .*2008_000001\.mat"):
        open_dataset("person-part", tmp_path, "val")
    names(tmp_path / "ImageSets/Main/train.txt", "2008_000003")
    with pytest.raises(InputError, match="no people with parts among the images of"):
        open_dataset("person-part", tmp_path, "train")


def rooms(root: Path, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The original NYUDv2 with five photos of 894 classes; gives them as MATLAB has them."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (*SHAPE, 3, count), np.uint8)
    labels = rng.integers(0, 895, (*SHAPE, count)).astype(np.uint16)
    labels[0, :3, 0] = (0, 1, 894)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        chunks = (1, *images.T.shape[1:])
        file.create_dataset("images", data=images.T, chunks=chunks, compression="gzip")
        file.create_dataset("labels", data=labels.T, compression="gzip")
        file.create_group("#refs#")
    with (root / "nyu_depth_v2_labeled.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")  # as MATLAB does
    splits = {"trainNdxs": np.array([[1.0], [4.0], [5.0]]), "testNdxs": np.array([[2.0], [3.0]])}
    savemat(root / "splits.mat", splits)
    return images, labels


def table_of_classes() -> np.ndarray:
    """(1, 894) the 40 that the classes are, from 1."""
    return np.random.default_rng(1).integers(1, 41, (1, 894)).astype(np.uint8)


def test_nyu_is_read_as_distributed(tmp_path) -> None:
    images, labels = rooms(tmp_path)
    table = table_of_classes()
    savemat(tmp_path / "classMapping40.mat", {"mapClass": table, "className": "x"})
    data = open_dataset("nyudv2", tmp_path, "train")
    assert [item.name for item in data] == ["0001", "0004", "0005"]
    again = pickle.loads(pickle.dumps(data))  # as workers get it
    for item, place in zip(again, (0, 3, 4), strict=True):
        photo = item.read_image()
        assert photo.dtype == np.uint8
        np.testing.assert_array_equal(photo, images[..., place])
        expected = [[nyudv2.VOID if n == 0 else table[0, n - 1] - 1 for n in row]
                    for row in labels[..., place]]  # fmt: skip
        read = item.read_labels()
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, expected)
    assert [item.name for item in open_dataset("nyudv2", tmp_path, "test")] == ["0002", "0003"]


def test_label_maps_of_40_do_instead_of_the_table(tmp_path) -> None:
    images, _ = rooms(tmp_path)
    labels = np.random.default_rng(2).integers(0, 41, (*SHAPE, 5)).astype(np.uint8)
    savemat(tmp_path / "labels40.mat", {"labels40": labels}, do_compression=True)
    data = open_dataset("nyudv2", tmp_path, "test")
    np.testing.assert_array_equal(data[0].read_image(), images[..., 1])
    expected = np.where(labels[..., 1] == 0, 255, labels[..., 1].astype(int) - 1)
    np.testing.assert_array_equal(data[0].read_labels(), expected)
    savemat(tmp_path / "labels40.mat", {"labels40": labels[..., :1]})
    nyudv2._pages.cache_clear()
    with pytest.raises(InputError, match="labels40 has no image 2"):
        data[0].read_labels()
    savemat(tmp_path / "labels40.mat", {"labels40": labels + 1})
    nyudv2._pages.cache_clear()
    with pytest.raises(InputError, match="label 41 is none of"):
        [item.read_labels() for item in data]


def test_what_is_wrong_with_the_original_nyu_is_said(tmp_path) -> None:
    rooms(tmp_path)
    with pytest.raises(InputError, match=r"no classMapping40\.mat; expected:\nROOT/"):
        open_dataset("nyudv2", tmp_path, "test")
    savemat(tmp_path / "classMapping40.mat", {"mapClass": np.ones((1, 10))})
    with pytest.raises(InputError, match=r"labeled\.mat: label \d+ is none of"):
        open_dataset("nyudv2", tmp_path, "test")[0].read_labels()
    savemat(tmp_path / "classMapping40.mat", {"mapClass": np.full((1, 894), 41)})
    with pytest.raises(InputError, match="mapClass must be whole numbers from 0 to 40"):
        open_dataset("nyudv2", tmp_path, "test")
    savemat(tmp_path / "classMapping40.mat", {"mapClass": table_of_classes()})
    savemat(tmp_path / "splits.mat", {"testNdxs": np.array([[6]])})
    with pytest.raises(InputError, match="testNdxs must be whole numbers from 1 to 5"):
        open_dataset("nyudv2", tmp_path, "test")
    with pytest.raises(InputError, match="holds no trainNdxs"):
        open_dataset("nyudv2", tmp_path, "train")
    (tmp_path / "splits.mat").unlink()
    with pytest.raises(InputError, match=r"no splits\.mat"):
        open_dataset("nyudv2", tmp_path, "train")


HOME = "/n/fs/sun3d/data/SUNRGBD"  # as the toolbox has it
PLACES = ("kv2/kinect2data/000002_2014-05-26_rgbf000103-resize", "xtion/sun3ddata/a/b/0001",
          "kv1/NYUdata/NYU0001")  # fmt: skip


def sun(root: Path, labels: list[np.ndarray]) -> None:
    """The original SUN-RGBD: two photos that train and, between them, one to test."""
    h5py = pytest.importorskip("h5py")
    metadata, lists = root / "SUNRGBDtoolbox/Metadata", root / "SUNRGBDtoolbox/traintestSUNRGBD"
    metadata.mkdir(parents=True)
    lists.mkdir(parents=True)
    with h5py.File(metadata / "SUNRGBD2Dseg.mat", "w") as file:
        refs = file.create_dataset("SUNRGBD2Dseg/seglabel", (3, 1), h5py.ref_dtype)
        for number, one in enumerate(labels):
            refs[number, 0] = file.create_dataset(f"#refs#/{number}", data=one.T).ref
    records = []
    for number, place in enumerate(PLACES):
        photo(root / f"SUNRGBD/{place}/image/{number}.jpg", 50 * number)
        path = f"{HOME}//{place}/image/{number}.jpg" if number else f"{HOME}/{place}/image/0.jpg"
        records.append((place, path, f"{number}.jpg"))
    meta = structs(*records, fields=("sequenceName", "rgbpath", "rgbname"))
    savemat(metadata / "SUNRGBDMeta.mat", {"SUNRGBDMeta": meta}, do_compression=True)
    allsplit(lists / "allsplit.mat", [2, 0], [1])


def allsplit(path: Path, train: list[int], test: list[int]) -> None:
    cells = {}
    for name, numbers in (("alltrain", train), ("alltest", test)):
        cells[name] = np.empty((1, len(numbers)), object)
        cells[name][0] = [f"{HOME}/{PLACES[number]}" for number in numbers]
    savemat(path, cells)


def test_sun_is_read_as_distributed(tmp_path) -> None:
    """In the order of the photos, whatever that of the lists; a path of theirs has two slashes."""
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 38, SHAPE).astype(kind) for kind in (np.uint8, np.uint16, float)]
    sun(tmp_path, labels)
    data = pickle.loads(pickle.dumps(open_dataset("sunrgbd", tmp_path, "train")))
    assert [item.name for item in data] == [PLACES[0], PLACES[2]]
    for item, number in zip(data, (0, 2), strict=True):
        read = item.read_labels()
        assert read.dtype == np.uint8
        expected = np.where(labels[number] == 0, 255, labels[number].astype(int) - 1)
        np.testing.assert_array_equal(read, expected)
        assert abs(int(item.read_image()[0, 0, 0]) - 50 * number) <= 2  # JPEG
    data = open_dataset("sunrgbd", tmp_path, "test")
    assert [item.name for item in data] == [PLACES[1]]
    expected = np.where(labels[1] == 0, 255, labels[1].astype(int) - 1)
    np.testing.assert_array_equal(data[0].read_labels(), expected)


def test_what_is_wrong_with_the_original_sun_is_said(tmp_path) -> None:
    sun(tmp_path, [np.full(SHAPE, 38, np.uint8)] * 3)
    with pytest.raises(InputError, match=r"2Dseg\.mat: label 38 is none of"):
        open_dataset("sunrgbd", tmp_path, "test")[0].read_labels()
    (tmp_path / f"SUNRGBD/{PLACES[1]}/image/1.jpg").unlink()
    with pytest.raises(InputError, match=r"no image .*1\.jpg, which is listed"):
        open_dataset("sunrgbd", tmp_path, "test")
    toolbox = tmp_path / "SUNRGBDtoolbox"
    records = structs((PLACES[0], f"{HOME}/{PLACES[0]}/image/0.jpg"), fields=("name", "rgbpath"))
    savemat(toolbox / "Metadata/SUNRGBDMeta.mat", {"SUNRGBDMeta": np.tile(records, 2)})
    with pytest.raises(InputError, match=r"has 3 label maps, .* 2 photos"):
        open_dataset("sunrgbd", tmp_path, "train")
    savemat(toolbox / "Metadata/SUNRGBDMeta.mat", {"SUNRGBDMeta": np.tile(records, 3)})
    with pytest.raises(InputError, match=r"lacks 1 photos of .*allsplit\.mat, alltrain"):
        open_dataset("sunrgbd", tmp_path, "train")
    found = np.empty((1, 1), object)
    found[0, 0] = "/elsewhere/kv1"
    savemat(toolbox / "traintestSUNRGBD/allsplit.mat", {"alltrain": found})
    with pytest.raises(InputError, match="'/elsewhere/kv1', which is no path below SUNRGBD"):
        open_dataset("sunrgbd", tmp_path, "train")
    with pytest.raises(InputError, match="holds no list alltest"):
        open_dataset("sunrgbd", tmp_path, "test")
    (toolbox / "Metadata/SUNRGBD2Dseg.mat").unlink()
    with pytest.raises(InputError, match=r"no SUNRGBDtoolbox/.*2Dseg\.mat; expected"):
        open_dataset("sunrgbd", tmp_path, "test")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch) -> None:
    for name in ("nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr("crispseg.io.windows.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs h5py, .*; pip install 'crispseg\[datasets\]'"):
        open_dataset("nyudv2", tmp_path, "test")
