"""Data sets in the files in which their authors distribute them, made tiny."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.io import savemat

from crispseg.data.datasets import open_dataset, person_part
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
