"""MATLAB's files of version 7.3, which are HDF5 -> arrays, a piece at a time; extra ``datasets``.

HDF5 lists the axes of MATLAB's arrays the other way round; what these functions return has them as
in MATLAB. A cell array is an array of references to arrays that lie elsewhere in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.atomic import StrPath
from crispseg.io.windows import needs_extra
from crispseg.types import InputError


def stored_shape(path: StrPath, name: str) -> tuple[int, ...]:
    """Shape of an array or cell array as MATLAB has it; nothing of it is read.

    Args:
        path: of a file of version 7.3.
        name: of the variable; fields of structures behind slashes.

    Raises:
        InputError: h5py is missing, or the file or the array in it.
    """
    with _array(path, name) as (_, found):
        return tuple(reversed(found.shape))


def read_page(path: StrPath, name: str, page: int) -> NDArray[Any]:
    """A part of an array: what has the number ``page``, from 0, on MATLAB's last axis.

    Args:
        path: of a file of version 7.3.
        name: of the variable; fields of structures behind slashes.
        page: of (..., n) numbers, 0 to n - 1.

    Returns:
        (...) numbers, without the last axis.

    Raises:
        InputError: h5py is missing, the file or the array in it, or it has no such page.
    """
    with _array(path, name) as (_, found):
        if not found.ndim or not 0 <= page < found.shape[0]:
            raise InputError(f"{path}: {name} has no page {page}")
        return np.ascontiguousarray(np.transpose(found[page]))


def read_cell(path: StrPath, name: str, cell: int) -> NDArray[Any]:
    """What a cell holds, if it is an array.

    Args:
        path: of a file of version 7.3.
        name: of the cell array; fields of structures behind slashes.
        cell: its number in MATLAB's order, from 0.

    Returns:
        (...) numbers.

    Raises:
        InputError: h5py is missing, the file or the cell array in it, or it has no such cell.
    """
    with _array(path, name) as (file, found):
        if not 0 <= cell < found.size:
            raise InputError(f"{path}: {name} has no cell {cell}")
        reference = found[np.unravel_index(cell, found.shape)]
        return np.ascontiguousarray(np.transpose(file[reference][()]))


@contextmanager
def _array(path: StrPath, name: str) -> Iterator[tuple[Any, Any]]:
    """The open file, and an array in it."""
    needs_extra("h5py", "datasets", path)
    import h5py  # noqa: PLC0415

    try:
        with h5py.File(path, "r") as file:
            if not isinstance(found := file.get(name), h5py.Dataset):
                raise InputError(f"{path} holds no array {name}")
            yield file, found
    except InputError:  # a ValueError as well
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError):
        raise InputError(f"cannot read {path}: missing, damaged, or not of version 7.3") from None
