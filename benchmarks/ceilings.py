"""What this machine can do at most: convolutions and matrix products in each precision.

    .venv/bin/python benchmarks/ceilings.py [--threads 1]

The layers are typical of the published network at tiles of 900 px. Rows whose small form shows that
they would take minutes (bf16 and fp16 without instructions for them) are measured in that small
form only. A Winograd row counts the operations of the direct convolution, so that rows compare.
Prints GFLOP/s, 2 FLOP a multiply-add (int8: GOP/s), from processor time if one thread runs, else
from wall time; one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from crispseg.runtime.winograd import WinogradConv

CHANNELS, SIDE, SMALL = 256, 113, 16
SIZE = 1536
LEAST = 15.0  # GFLOP/s at the small size, below which that is all that is measured
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORMATS = {"first": torch.contiguous_format, "last": torch.channels_last}


def conv_rows() -> dict[str, Callable[[int], Callable[[], torch.Tensor]]]:
    rows = {}
    for name, dtype in TYPES.items():
        for where, layout in FORMATS.items():

            def make(side: int, dtype=dtype, layout=layout) -> Callable[[], torch.Tensor]:
                x = torch.ones(1, CHANNELS, side, side, dtype=dtype).to(memory_format=layout)
                w = torch.ones(CHANNELS, CHANNELS, 3, 3, dtype=dtype).to(memory_format=layout)
                return lambda: F.conv2d(x, w, None, 1, 1)

            rows[f"conv 3x3 {name}, channels {where}"] = make

    def winograd(side: int) -> Callable[[], torch.Tensor]:
        x = torch.ones(1, CHANNELS, side, side).to(memory_format=torch.channels_last)
        conv = WinogradConv(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1))
        return lambda: conv(x)

    return rows | {"conv 3x3 fp32, Winograd": winograd}


def product_rows() -> dict[str, Callable[[int], Callable[[], torch.Tensor]]]:
    rows = {}
    for name, dtype in TYPES.items():

        def make(size: int, dtype=dtype) -> Callable[[], torch.Tensor]:
            a, b = torch.ones(2, size, size, dtype=dtype)
            return lambda: a @ b

        rows[f"product {name}"] = make

    def integers(size: int) -> Callable[[], torch.Tensor]:
        a, b = torch.ones(2, size, size, dtype=torch.int8)
        return lambda: torch._int_mm(a, b)

    return rows | {"product int8": integers}


def rate(run: Callable[[], torch.Tensor], operations: float, clock: Callable[[], float]) -> float:
    run()
    best = 0.0
    for _ in range(3):
        start = clock()
        run()
        best = max(best, operations / max(clock() - start, 1e-9) / 1e9)
    return best


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    found: dict[str, float | None] = {}
    for rows, small, large, operations in (
        (conv_rows(), SMALL, SIDE, lambda side: 2 * 9 * CHANNELS**2 * side**2),
        (product_rows(), SIZE // 8, SIZE, lambda size: 2 * size**3),
    ):
        for name, make in rows.items():
            try:
                first = rate(make(small), operations(small), clock)
                enough = first < LEAST
                found[name] = first if enough else rate(make(large), operations(large), clock)
            except RuntimeError:  # not on this machine
                found[name] = None
            print(f"{name}: {found[name]}", flush=True)
    print(json.dumps({"threads": options.threads, "gflops": found}))


if __name__ == "__main__":
    main()
