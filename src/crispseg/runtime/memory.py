"""What a run needs of memory, and how to hold no more than that."""

from __future__ import annotations

import ctypes
import re
import sys

from crispseg.types import InputError, Size

MIB = 1 << 20
BASE_BYTES = 560 * MIB
"""Python, torch and the libraries, without weights."""
TILE_BYTES_PER_PX = {"cascadepsp-lite": 450, "cascadepsp-resnet50": 2600}
"""What one pass of a network holds for each pixel of its tile, on a CPU; the first measured with
tiles of 900 px, the second a guess."""
ENGINE_BYTES = 48 * MIB
"""Windows, caches and blocks on their way to disk: calculated, to be measured on large images."""
BYTES_PER_COLUMN = 4096
"""What grows with an image's width: the tiles that reach into the next strip, a row of blocks."""
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str) -> int:
    """Bytes from "2G", "800M", "1.5GB" or "2GiB"; the letters are powers of 1024.

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InputError(f"{text!r} is no amount of memory; write 2G or 800M")
    return int(float(match[1]) * UNITS[match[2].upper()])


def needed_bytes(architecture: str, parameters: int, tile_size: int, size: Size) -> int:
    """About how much memory a streaming run takes at most, the whole process, on a CPU."""
    each = TILE_BYTES_PER_PX.get(architecture, TILE_BYTES_PER_PX["cascadepsp-resnet50"])
    network = 4 * parameters + each * tile_size**2
    return BASE_BYTES + network + ENGINE_BYTES + BYTES_PER_COLUMN * size.width


def check_budget(
    budget: int, architecture: str, parameters: int, tile_size: int, size: Size
) -> None:
    """Refuse a run that cannot keep to its budget, before it starts.

    Raises:
        InputError: says what would fit.
    """
    needed = needed_bytes(architecture, parameters, tile_size, size)
    if needed <= budget:
        return
    fitting = [
        side
        for side in range(128, tile_size, 4)
        if needed_bytes(architecture, parameters, side, size) <= budget
    ]
    or_tiles = f", or --tile-size {fitting[-1]} (sees less context)" if fitting else ""
    raise InputError(
        f"--memory {_text(budget)} is not enough: an image {size.width} pixels wide in tiles of "
        f"{tile_size} takes about {_text(needed)}; give --memory {_text(needed)}{or_tiles}"
    )


def give_back_at_once() -> None:
    """Let glibc return large arrays to the system when they are freed.

    Otherwise it keeps them for later, in pieces that do not fit, and a process that runs a network
    over and over holds a fifth more than it uses. Elsewhere this does nothing.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):  # another C library
            return
        mallopt(M_MMAP_THRESHOLD, 1 << 20)
        mallopt(M_ARENA_MAX, 2)


def _text(amount: int) -> str:
    return f"{-(-amount // MIB)}M"
