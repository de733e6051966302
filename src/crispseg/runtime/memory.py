"""What a run needs of memory, and how to hold no more than that."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from crispseg.types import InputError

MIB = 1 << 20
BASE_BYTES = 580 * MIB
"""Python, torch (a CUDA build) and the libraries, without weights: VmRSS in /proc/self/status after
``import crispseg.large, rasterio, shapely; crispseg.load_refiner()``, less the weights."""
TILE_BYTES_PER_PX = {"cascadepsp-lite": 450, "cascadepsp-resnet50": 1000}
"""What one pass of a network holds for each pixel of its tile, on a CPU, in float32: measured with
tiles of 900 px (``benchmarks/large_memory.py --megapixels 16``), the second 810 there, but not as
``precision="plain"``, which holds several times as much."""
OTHER_BYTES_PER_PX = 2600
"""The same of any other network: a guess."""
KEPT = 1.55
"""How much more that is where freed memory is kept: 1207 MiB were held in all by
``benchmarks/large_memory.py --radius 60 --dense --memory 2G --megapixels 1024``."""
COMPILED_BYTES = {"cascadepsp-resnet50": 510 * MIB}
"""The weights once more, as ``runtime.compiled`` has them."""
WINDOW_BYTES_PER_PX = 40
"""What judging and writing hold for each pixel of the rows in work: calculated."""
BYTES_PER_COLUMN = 1024
"""A band of 512 rows on its way to the output, and the same read back: calculated."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
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


@dataclass(frozen=True)
class Need:
    """What a run's memory depends on.

    Attributes:
        architecture: of the network.
        parameters: how many it has.
        tile_size: side of a tile in pixels.
        width: of the image in pixels.
    """

    architecture: str
    parameters: int
    tile_size: int
    width: int


@dataclass(frozen=True)
class Plan:
    """What a run may hold at a time. Nothing here changes its result.

    Attributes:
        at_once: tiles that are run at the same time.
        window_px: pixels of the rows that are judged and written at a time.
        cache_bytes: of the files that are read, and half as much of what is on disk already.
        keeps_freed: whether freed memory is used again (``keep_freed_memory``), which is quicker.
    """

    at_once: int = 1
    window_px: int = 1 << 21
    cache_bytes: int = 64 * MIB
    keeps_freed: bool = True

    def bytes_for(self, need: Need) -> int:
        """About how much memory a run takes at most, the whole process, on a CPU."""
        each = TILE_BYTES_PER_PX.get(need.architecture, OTHER_BYTES_PER_PX)
        running = self.at_once * each * need.tile_size**2
        running = round(running * KEPT) if self.keeps_freed else running
        rows = max(self.window_px, need.width)
        writing = WINDOW_BYTES_PER_PX * rows + BYTES_PER_COLUMN * need.width
        weights = 4 * need.parameters + COMPILED_BYTES.get(need.architecture, 0)
        held = BASE_BYTES + weights + self.cache_bytes * 3 // 2
        return held + max(running, writing)


LEAN = Plan(window_px=1 << 19, cache_bytes=8 * MIB, keeps_freed=False)
"""What takes the least memory."""


def plan_run(budget: int | None, need: Need, at_once: int) -> Plan:
    """The quickest plan that keeps to a budget.

    Args:
        budget: in bytes, for the whole process; None: no limit.
        need: what the run's memory depends on.
        at_once: most tiles to run at the same time.

    Raises:
        InputError: nothing fits; says what would.
    """
    if budget is None:
        return Plan(at_once)
    for keeps, tiles, held in product((True, False), range(at_once, 0, -1), (Plan(), LEAN)):
        plan = replace(held, at_once=tiles, keeps_freed=keeps)
        if plan.bytes_for(need) <= budget:
            return plan
    needed = LEAN.bytes_for(need)
    fitting = [
        side
        for side in range(128, need.tile_size, 4)
        if LEAN.bytes_for(replace(need, tile_size=side)) <= budget
    ]
    or_tiles = f", or --tile-size {fitting[-1]} (sees less context)" if fitting else ""
    raise InputError(
        f"--memory {_text(budget)} is not enough: an image {need.width} pixels wide in tiles of "
        f"{need.tile_size} takes about {_text(needed)}; give --memory {_text(needed)}{or_tiles}"
    )


def peak_mib() -> float:
    """Most resident memory that this process has held, in MiB."""
    try:
        # getrusage counts what the parent held when it started this process, and never forgets
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    except (OSError, IndexError, ValueError):  # not Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def forget_peak() -> bool:
    """Let ``peak_mib`` begin anew with what is held now; Linux only.

    Returns:
        Whether it does.
    """
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # proc_pid_clear_refs(5)
    except OSError:
        return False
    return True


def keep_freed_memory() -> None:
    """Let this process use again what it has freed, up to a quarter of a gigabyte.

    glibc gives each large array back to the system when it is freed; the next one is made of pages
    that the system clears first. A network whose layers are quickly computed can spend half of its
    time waiting for them. The ``crispseg`` command does this; a program of your own may. It holds
    for the whole process. Without glibc it does nothing.
    """
    _tell_glibc({M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: 256 * MIB, M_ARENA_MAX: 1})


def give_back_freed_memory() -> None:
    """Let this process give large arrays back when they are freed, which is slow.

    Kept for later, they are pieces that do not fit: a process that runs a network over and over
    then holds more than it uses (``KEPT``). It holds for the whole process, as above.
    """
    _tell_glibc({M_MMAP_THRESHOLD: MIB, M_TRIM_THRESHOLD: MIB // 8, M_ARENA_MAX: 2})


def give_back_unused_memory() -> None:
    """Give back what was freed and kept, once; nothing if there is no glibc.

    Over hours it becomes pieces that do not fit, and the process grows. After each run of a network
    this costs a fifth of the time, where handing back at once costs seven tenths.
    """
    glibc = _glibc()
    if glibc:
        glibc.malloc_trim(0)


def _tell_glibc(options: dict[int, int]) -> None:
    glibc = _glibc()
    if glibc:
        for name, value in options.items():
            glibc.mallopt(name, value)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
    except OSError:  # a program without shared libraries
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def _text(amount: int) -> str:
    return f"{-(-amount // MIB)}M" if amount >= MIB else f"{amount} bytes"
