"""MATLAB's files: what SciPy writes, as plain lists and dictionaries."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from crispseg.io.matlab import read_matlab
from crispseg.types import InputError


@pytest.mark.parametrize("compressed", [False, True])
def test_numbers_keep_shape_and_type(compressed, tmp_path) -> None:
    rng = np.random.default_rng(0)
    kinds = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
    given = {f"a{kind}": rng.integers(0, 100, (3, 5)).astype(kind) for kind in kinds}
    given |= {"one": np.array([[7]], np.uint8), "deep": rng.random((2, 3, 4))}
    given |= {"empty": np.zeros((0, 3)), "long": rng.integers(0, 255, (500, 375), np.uint8)}
    savemat(tmp_path / "a.mat", given, do_compression=compressed)
    for name, array in given.items():
        found = read_matlab(tmp_path / "a.mat", name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert read_matlab(tmp_path / "a.mat", "none") is None


@pytest.mark.parametrize("compressed", [False, True])
def test_structures_cells_and_text(compressed, tmp_path) -> None:
    cell = np.empty((2, 1), object)
    cell[:, 0] = [csc_matrix(np.eye(3)), np.arange(3)]
    people = np.zeros((2,), [("name", object), ("mask", object)])
    people[0] = ("Grüße", np.ones((2, 2), np.uint8))
    people[1] = ("", np.zeros((1, 2), np.uint8))
    content = {"Segmentation": np.eye(4, dtype=np.uint8), "Boundaries": cell}
    given = {"GTcls": content, "people": people}
    savemat(tmp_path / "a.mat", given, do_compression=compressed)
    (found,) = read_matlab(tmp_path / "a.mat", "GTcls")
    np.testing.assert_array_equal(found["Segmentation"], np.eye(4))
    sparse, dense = found["Boundaries"]
    assert sparse is None
    np.testing.assert_array_equal(dense, [[0, 1, 2]])
    found = read_matlab(tmp_path / "a.mat", "people")
    assert [one["name"] for one in found] == ["Grüße", ""]
    np.testing.assert_array_equal(found[0]["mask"], np.ones((2, 2)))


def test_cells_and_structures_are_in_matlabs_order(tmp_path) -> None:
    """Column after column."""
    cell = np.empty((2, 2), object)
    cell[:] = [["a", "b"], ["c", "d"]]
    records = np.zeros((2, 2), [("n", object)])
    records["n"] = [[1, 2], [3, 4]]
    savemat(tmp_path / "a.mat", {"cell": cell, "records": records})
    assert read_matlab(tmp_path / "a.mat", "cell") == ["a", "c", "b", "d"]
    found = read_matlab(tmp_path / "a.mat", "records")
    assert [one["n"].item() for one in found] == [1, 3, 2, 4]


def test_the_other_order_of_bytes(tmp_path) -> None:
    """By hand, from the description of the format: a 1x2 uint16 array called x, big-endian."""
    array = struct.pack(">IIII", 6, 8, 11, 0) + struct.pack(">IIii", 5, 8, 1, 2)
    array += struct.pack(">HH4s", 1, 1, b"x\0\0\0") + struct.pack(">HHHH", 4, 4, 258, 3)
    file = b"MATLAB 5.0".ljust(124) + b"\1\0MI" + struct.pack(">II", 14, len(array)) + array
    (tmp_path / "a.mat").write_bytes(file)
    np.testing.assert_array_equal(read_matlab(tmp_path / "a.mat", "x"), [[258, 3]])


def test_what_cannot_be_read_is_one_line(tmp_path) -> None:
    whole = tmp_path / "a.mat"
    savemat(whole, {"x": np.arange(1000)})
    bad = tmp_path / "bad.mat"

    def complaint(content: bytes) -> str:
        bad.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_matlab(bad, "x")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "damaged" in complaint(whole.read_bytes()[:-10])
    assert "not a MATLAB file" in complaint(b"nothing")
    assert "-v7" in complaint(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(500))
    with pytest.raises(InputError, match="cannot read"):
        read_matlab(Path("nowhere.mat"), "x")
