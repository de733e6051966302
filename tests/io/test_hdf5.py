"""MATLAB's files of version 7.3: axes, cells, and what is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crispseg.io.hdf5 import read_cell, read_page, stored_shape
from crispseg.types import InputError

h5py = pytest.importorskip("h5py")


def cells(path: Path, *arrays: np.ndarray) -> None:
    """A file with S.cells, a (1, N) cell array of arrays, and an array ``whole`` of (3, 4, 5)."""
    with h5py.File(path, "w") as file:
        file["whole"] = np.arange(60).reshape(5, 4, 3)
        refs = file.create_dataset("S/cells", (len(arrays), 1), h5py.ref_dtype)
        for place, array in enumerate(arrays):
            refs[place, 0] = file.create_dataset(f"#refs#/{place}", data=array.T).ref


def test_axes_are_those_of_matlab(tmp_path) -> None:
    first, second = np.arange(6).reshape(2, 3), np.arange(20, dtype=np.uint8).reshape(4, 5)
    cells(tmp_path / "a.mat", first, second)
    assert stored_shape(tmp_path / "a.mat", "whole") == (3, 4, 5)
    assert stored_shape(tmp_path / "a.mat", "S/cells") == (1, 2)
    page = read_page(tmp_path / "a.mat", "whole", 2)
    assert page.flags.c_contiguous
    np.testing.assert_array_equal(page, np.arange(24, 36).reshape(4, 3).T)
    for place, array in enumerate((first, second)):
        found = read_cell(tmp_path / "a.mat", "S/cells", place)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_what_is_not_there_is_one_line(tmp_path) -> None:
    path = tmp_path / "a.mat"
    with pytest.raises(InputError, match=r"cannot read .*a\.mat: missing, damaged, or not of"):
        stored_shape(path, "whole")
    path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(500))
    with pytest.raises(InputError, match=r"not of version 7\.3$"):
        read_page(path, "whole", 0)
    cells(path, np.eye(2))
    for name in ("S", "other", "S/other"):
        with pytest.raises(InputError, match=f"holds no array {name}$"):
            read_page(path, name, 0)
    for page in (-1, 5):
        with pytest.raises(InputError, match=f"whole has no page {page}"):
            read_page(path, "whole", page)
    for cell in (-1, 1):
        with pytest.raises(InputError, match=f"cells has no cell {cell}"):
            read_cell(path, "S/cells", cell)
    with pytest.raises(InputError, match="cannot read"):
        read_cell(path, "whole", 0)  # numbers, no references
