"""What it gives to use freed memory again, instead of handing it back to the system.

    .venv/bin/python benchmarks/freed_memory.py [--size 2000x1500] [--rounds 3]

Refines the demo's photo, enlarged, with the bundled model: as a Python program that leaves the
allocator alone, as one that calls ``keep_freed_memory`` (the command line does), and as one that
hands everything back (what a tight ``--memory`` asks for). The allocator is one for the whole
process, so each is a process of its own; they take turns, and each refines twice and times the
second. Prints medians of processor seconds, the share that the system took of them, and the peak;
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

WAYS = ("as glibc has it", "kept", "handed back")


def child(way: str, size: tuple[int, int]) -> None:
    from published_speed import photo

    from crispseg import load_refiner
    from crispseg.runtime.memory import give_back_freed_memory, keep_freed_memory, peak_mib

    if way != WAYS[0]:
        (keep_freed_memory if way == WAYS[1] else give_back_freed_memory)()
    refiner = load_refiner(device="cpu")
    image, mask = photo(size)
    for _ in range(2):
        before = os.times()
        refiner.run(image, mask)
        after = os.times()
    system = after.system - before.system
    print(json.dumps([after.user - before.user + system, system, peak_mib()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="2000x1500", help="width x height of the photo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    width, _, height = options.size.partition("x")
    if options.child:
        child(options.child, (int(width), int(height)))
        return
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--size", options.size, "--child", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for way, runs in found.items():
        seconds, system, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        rows.append(
            {
                "way": way,
                "cpu_s": round(seconds, 2),
                "share_of_system": round(system / seconds, 2),
                "peak_mib": round(peak),
                "times_less": round(statistics.median(r[0] for r in found[WAYS[0]]) / seconds, 2),
            }
        )
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    print(json.dumps({"size": options.size, "rows": rows}))


if __name__ == "__main__":
    main()
