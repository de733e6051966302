"""MATLAB's files of version 4 to 7 -> arrays: what older data sets keep their labels in.

SciPy reads them (extra ``datasets``); here its arrays of arrays become lists and dictionaries.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from crispseg.io.atomic import StrPath
from crispseg.io.labels import Labels
from crispseg.io.windows import needs_extra
from crispseg.types import InputError


def read_matlab(path: StrPath, name: str) -> Any:
    """A variable of a .mat file.

    Args:
        path: written by MATLAB 4 to 7.2, or by a later one with ``-v7``; compressed or not.
        name: of the variable; others are not read.

    Returns:
        Numbers as (...) arrays of MATLAB's type and shape; text as str; a cell array as a list; an
        array of structures as a list of name -> value, one by one in MATLAB's order; None for what
        is none of these, such as sparse arrays, and where there is no such variable.

    Raises:
        InputError: SciPy is missing, or the file is: missing, damaged, or of another version.
    """
    needs_extra("scipy", "datasets", path)
    from scipy.io import loadmat  # noqa: PLC0415

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    try:
        return _plain(loadmat(BytesIO(data), mat_dtype=True, variable_names=[name]).get(name))
    except NotImplementedError:
        raise InputError(f"{path} is of version 7.3 (HDF5); save it in MATLAB with -v7") from None
    except Exception as error:  # damage ends in anything, from zlib.error to UnboundLocalError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} is damaged, or not a MATLAB file of version 4 to 7 ({reason})"
        ) from None


def _plain(value: Any) -> Any:
    """Arrays of numbers as they are; SciPy's other arrays as lists, dictionaries and text."""
    from scipy.io.matlab import MatlabFunction, MatlabOpaque  # noqa: PLC0415

    if not isinstance(value, np.ndarray) or isinstance(value, MatlabFunction | MatlabOpaque):
        return None
    if value.dtype.names is not None:
        names = value.dtype.names
        return [{name: _plain(one[name]) for name in names} for one in value.ravel(order="F")]
    if value.dtype == object:
        return [_plain(one) for one in value.ravel(order="F")]
    return "".join(value.ravel().tolist()) if value.dtype.kind == "U" else value


def read_matlab_labels(path: StrPath, name: str, *fields: str) -> Labels:
    """A label map in a .mat file.

    Args:
        path: as for ``read_matlab``.
        name: of the variable.
        fields: where it is a structure, name of the field within, and so on.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        InputError: as ``read_matlab``; nothing of that name, or no numbers from 0 to 65535.
    """
    place, value = ".".join([name, *fields]), read_matlab(path, name)
    for field in fields:
        value = value[0] if isinstance(value, list) and value else value
        value = value.get(field) if isinstance(value, dict) else None
    if value is None:
        raise InputError(f"{path} holds no {place}")
    return class_numbers(value, f"{path}: {place}")


def class_numbers(value: Any, what: str) -> Labels:
    """A label map of numbers of any type.

    Args:
        value: what may be one.
        what: it is, for the error.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        InputError: it is none: no (H, W) array of whole numbers from 0 to 65535.
    """
    whole = isinstance(value, np.ndarray) and value.ndim == 2 and value.size > 0
    if not whole or not (value.min() >= 0 and value.max() <= 65535) or (value % 1).any():
        raise InputError(f"{what} is no map of class numbers")
    return np.asarray(value, np.uint8 if value.max() <= 255 else np.uint16)
