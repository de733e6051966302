"""In which arithmetic a network runs: chosen by name, or by measuring this machine once.

A CPU with instructions for bfloat16 or float16 runs a convolution several times sooner in them;
one without takes ten times as long, and more. Which it is, only a clock says. The measurement
takes a few seconds and is kept in the user's cache folder, for the processor, the version of
torch and the number of threads that it is true for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from crispseg.io.atomic import atomic_path
from crispseg.models.zoo import cache_folder
from crispseg.runtime.arithmetic import Arithmetic
from crispseg.runtime.device import processor_name
from crispseg.runtime.rows import PointConv
from crispseg.types import InputError

Precision = Literal["plain", "exact", "auto", "bf16", "fp16", "fp32"]

EXACT = Arithmetic()
DIRECT = Arithmetic(winograd=False)
PLANES = Arithmetic(winograd=False, channels_last=False)
FP16 = Arithmetic(torch.float16, winograd=False)
FP16_WINOGRAD = Arithmetic(torch.float16)
BF16 = Arithmetic(torch.bfloat16, winograd=False)
BF16_WINOGRAD = Arithmetic(torch.bfloat16)
HALVES = (FP16, FP16_WINOGRAD, BF16, BF16_WINOGRAD)
"""From the closest to the least close."""
CANDIDATES = (EXACT, DIRECT, PLANES, *HALVES)

CHANNELS, SIDE, SMALL_SIDE = 512, 64, 16
ROUNDS = 3
MARGIN = 0.75
"""Fewer bits must take at most so much of float32's time, or they are not worth it."""
CLOSER = 1.1
"""How much longer than the quickest of 16 bits a closer one may take."""
FORMAT = 2


def choose(precision: str, device: torch.device) -> Arithmetic | None:
    """The arithmetic called ``precision`` on a device.

    Args:
        precision: "plain": the network as it is written, None; "exact" or "fp32": rewritten, in
            float32; "bf16", "fp16"; "auto": the quickest on a CPU, fp16 with CUDA.
        device: where the network runs.

    Raises:
        InputError: another name, or half precision on a device that has none.
    """
    if precision not in get_args(Precision):
        names = ", ".join(get_args(Precision))
        raise InputError(f"precision must be one of {names}, not {precision!r}")
    if precision == "plain":
        return None
    if device.type == "mps":  # nobody has tried anything else there
        if precision in ("bf16", "fp16"):
            raise InputError(f"precision {precision} is not for device mps; use exact")
        return None
    if precision in ("bf16", "fp16"):
        return BF16 if precision == "bf16" else FP16
    if device.type == "cuda":
        return FP16 if precision == "auto" else DIRECT
    return fastest() if precision == "auto" else EXACT


def fastest(path: Path | None = None) -> Arithmetic:
    """The quickest arithmetic on this machine's CPU, measured now or before.

    Args:
        path: file of measurements; in the user's cache folder if None.
    """
    path = path or _cache_file()
    known = _read(path) if path else {}
    key = machine()
    if key not in known:
        known[key] = {str(a): ms for a, ms in measure().items()}
        if path:
            _write(path, known)
    times = known[key]
    return best({a: times[str(a)] for a in CANDIDATES if str(a) in times})


def best(milliseconds: dict[Arithmetic, float]) -> Arithmetic:
    """Which arithmetic to use, given how long each takes; the exact one if nothing is clear."""
    floats = {a: ms for a, ms in milliseconds.items() if a.dtype is torch.float32}
    chosen = min(floats, key=lambda a: floats[a], default=EXACT)
    limit = floats.get(chosen, 0.0) * MARGIN
    halves = {a: ms for a, ms in milliseconds.items() if a not in floats and ms <= limit}
    if not halves:
        return chosen
    least = CLOSER * min(halves.values())
    return next(a for a in HALVES if a in halves and halves[a] <= least)


@torch.inference_mode()
def measure() -> dict[Arithmetic, float]:
    """Milliseconds of a typical layer in each arithmetic, the least of a few rounds in turn.

    An arithmetic that a small image shows to be hopeless is left out.
    """
    layers = {a: _layer(a) for a in CANDIDATES}
    small = {a: _milliseconds(run, a.dtype, SMALL_SIDE) for a, run in layers.items()}
    limit = 4 * min(small.values())
    times = {a: float("inf") for a in CANDIDATES if small[a] <= limit}
    for _ in range(ROUNDS):
        for arithmetic, least in times.items():
            took = _milliseconds(layers[arithmetic], arithmetic.dtype, SIDE)
            times[arithmetic] = min(least, took)
    return times


def machine() -> str:
    """What a measurement is true for."""
    cpu = f"{processor_name()} {torch.backends.cpu.get_cpu_capability()}"
    threads = torch.get_num_threads()
    return f"{FORMAT}, {cpu}, torch {torch.__version__}, {threads} threads"


def _layer(arithmetic: Arithmetic) -> Callable[[Tensor], Tensor]:
    """A 3x3 and a 1x1 convolution: four fifths and a fifth, as in the published network."""
    conv = arithmetic.conv(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)).to(arithmetic.dtype)
    point = PointConv(nn.Conv2d(CHANNELS, 2 * CHANNELS, 1)).to(arithmetic.dtype)

    def run(x: Tensor) -> Tensor:
        return cast(Tensor, point(conv(x)))

    return run


def _milliseconds(run: Callable[[Tensor], Tensor], dtype: torch.dtype, side: int) -> float:
    x = torch.ones(1, CHANNELS, side, side, dtype=dtype).to(memory_format=torch.channels_last)
    if side == SMALL_SIDE:
        run(x)  # the library prepares its kernels
    start = time.perf_counter()
    run(x)
    return 1000 * (time.perf_counter() - start)


def _cache_file() -> Path | None:
    try:
        return cache_folder() / "arithmetic.json"
    except InputError:  # no home folder: every process measures for itself
        return None


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(path: Path, known: dict[str, dict[str, float]]) -> None:
    """Keep measurements; where that is not possible, the next process measures again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    except (OSError, InputError):
        return
