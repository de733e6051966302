"""MATLAB's files of version 5 to 7 -> arrays: what older data sets keep their labels in.

The layout is that of MathWorks' "MAT-file format" (level 5): elements of a tag of 8 bytes and data
that fills a multiple of 8; an array is an element of elements, and may be deflated as a whole.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crispseg.io.atomic import StrPath
from crispseg.io.labels import Labels
from crispseg.types import InputError

Order = Literal["<", ">"]

HEADER = 128
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, OBJECT, CHAR = 1, 2, 3, 4
NUMBERS = {8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"} | {
    6: "f8",
    7: "f4",
}


def read_matlab(path: StrPath, fields: Collection[str] | None = None) -> dict[str, Any]:
    """The variables of a .mat file.

    Args:
        path: written by MATLAB 5 to 7.2, or by a later one with ``-v7``; compressed or not.
        fields: of structures, those that are wanted; others are None, and cost nothing.

    Returns:
        Name -> value: numbers as (...) arrays in the shape MATLAB has; text as str; a cell array
        as a list; an array of structures as a list of name -> value, one by one in MATLAB's order;
        None for what is none of these, such as sparse arrays.

    Raises:
        InputError: missing, damaged, or of another version.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if data[:10] == b"MATLAB 7.3":
        raise InputError(f"{path} is of version 7.3 (HDF5); save it in MATLAB with -v7")
    orders: dict[bytes, Order] = {b"IM": "<", b"MI": ">"}
    order = orders.get(data[HEADER - 2 : HEADER])
    if order is None:
        raise InputError(f"{path} is not a MATLAB file of version 5 to 7")
    found = {}
    try:
        for element in _elements(memoryview(data)[HEADER:], order):
            kind, content = _inflated(element, order)
            if kind == MATRIX:
                name, value = _array(content, order, fields)
                found[name] = value
    except (ValueError, IndexError, KeyError, struct.error, zlib.error, UnicodeDecodeError):
        raise InputError(f"{path} is damaged, or holds what only MATLAB can read") from None
    return found


def read_matlab_labels(path: StrPath, *places: str) -> Labels:
    """A label map in a .mat file.

    Args:
        path: as for ``read_matlab``.
        places: name of the variable, then of the field within, and so on.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        InputError: as ``read_matlab``; nothing of that name, or no numbers from 0 to 65535.
    """
    value: Any = read_matlab(path)
    for place in places:
        value = value[0] if isinstance(value, list) and value else value
        if not isinstance(value, dict) or place not in value:
            raise InputError(f"{path} holds no {'.'.join(places)}")
        value = value[place]
    return class_numbers(value, f"{path}: {'.'.join(places)}")


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


def _elements(data: memoryview, order: Order) -> list[tuple[int, memoryview]]:
    """(type, data) of the elements that lie one behind the other."""
    found, at = [], 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # of 4 bytes at most: type, size and data within the tag
            found.append((kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]))
            at += 8
            continue
        if at + 8 + size > len(data):
            raise ValueError("cut short")
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + (size if kind == COMPRESSED else -(-size // 8) * 8)
    return found


def _inflated(element: tuple[int, memoryview], order: Order) -> tuple[int, memoryview]:
    kind, content = element
    if kind != COMPRESSED:
        return element
    return _elements(memoryview(zlib.decompress(content)), order)[0]


def _array(
    content: memoryview, order: Order, fields: Collection[str] | None = None
) -> tuple[str, Any]:
    """Name and value of an array."""
    if not content:
        return "", np.zeros((0, 0))
    flags, dimensions, name, *parts = _elements(content, order)
    kind = struct.unpack_from(f"{order}I", flags[1])[0] & 0xFF
    shape = tuple(int(n) for n in _numbers(dimensions, order))
    return bytes(name[1]).decode("ascii"), _value(kind, shape, parts, order, fields)


def _value(
    kind: int,
    shape: tuple[int, ...],
    parts: list[tuple[int, memoryview]],
    order: Order,
    wanted: Collection[str] | None,
) -> Any:
    if kind in NUMBERS:
        return _numbers(parts[0], order).astype(NUMBERS[kind]).reshape(shape, order="F")
    if kind == CHAR:
        return _text(parts[0], order) if parts else ""
    if kind == CELL:
        return [_array(content, order)[1] for _, content in parts]
    if kind not in (STRUCT, OBJECT):
        return None
    if kind == OBJECT:
        parts = parts[1:]  # the name of its class
    length = int(_numbers(parts[0], order)[0])
    joined = bytes(parts[1][1])
    names = [joined[i : i + length].split(b"\0")[0] for i in range(0, len(joined), length)]
    fields = [name.decode("ascii") for name in names]
    if len(parts) - 2 != math.prod(shape) * len(fields):
        raise ValueError("cut short")
    values = [
        _array(content, order, wanted)[1] if wanted is None or field in wanted else None
        for (_, content), field in zip(parts[2:], cycle(fields), strict=False)
    ]
    starts = range(0, len(values), max(len(fields), 1))
    return [dict(zip(fields, values[i : i + len(fields)], strict=True)) for i in starts]


def _numbers(part: tuple[int, memoryview], order: Order) -> np.ndarray[Any, Any]:
    kind, content = part
    return np.frombuffer(content, np.dtype(TYPES[kind]).newbyteorder(order))


def _text(part: tuple[int, memoryview], order: Order) -> str:
    kind, content = part
    if kind in TEXTS:
        ending = {"utf-8": "", "utf-16": "-le", "utf-32": "-le"}[TEXTS[kind]]
        coding = TEXTS[kind] + (ending if order == "<" else ending.replace("le", "be"))
        return bytes(content).decode(coding)
    return "".join(map(chr, _numbers(part, order).tolist()))
