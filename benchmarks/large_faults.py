"""What happens to a long run: killed, disk full, damaged or changed input, two at a time.

    .venv/bin/python benchmarks/large_faults.py --megapixels 64
    .venv/bin/python benchmarks/large_faults.py --megapixels 64 --radius 60 --bits

Refines the scene of ``large_memory.py`` without interruption, and then again with each fault. A
fault must end the run with one line and no output; when its cause is gone the same call goes on,
and the output must be that of the uninterrupted run byte by byte. The disk that fills up is a small
tmpfs where one can be mounted, else a limit on the size of files. Prints one line of JSON for each
fault and exits with 1 if any ended otherwise. --stub takes a network of three lines instead of the
bundled one. With --bits there are no faults but three kills, and the output is compared with that
of other memory budgets, of two workers, and with the refiner in memory, which sees the whole image
and a mask of its size. Needs the geo extra.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from large_memory import make, scene_of

BUDGETS = (("1G", 1), ("2G", 1), ("2G", 2), ("8G", 2))  # "8G", 1 is the uninterrupted run


def refiner(*, stub: bool, workers: int = 1):
    import crispseg

    if not stub:
        return crispseg.load_refiner(device="cpu", workers=workers)
    from torch import nn

    from crispseg.models.cascadepsp import CascadeLogits, RefinementModule
    from crispseg.models.weights import LoadedModel
    from crispseg.refiners.cascade import CascadeRefiner

    class Smooth(RefinementModule):
        def __init__(self) -> None:
            nn.Module.__init__(self)

        def forward(self, image, seg, coarse_s8=None, coarse_s4=None) -> CascadeLogits:
            logits = 60 * nn.functional.avg_pool2d(seg, 9, 1, 4) + image[:, :1]
            return CascadeLogits(logits, None, None, None, logits, logits)

    model = LoadedModel(Smooth(), (0.5,) * 3, (0.5,) * 3, "stub", "stub")
    return CascadeRefiner(model, device="cpu", workers=workers)


def run(image: Path, output: Path, options: argparse.Namespace) -> int:
    from crispseg import refine_file
    from crispseg.types import InputError

    if most_bytes := options.most_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    network = refiner(stub=options.stub, workers=options.workers)
    try:
        # the budget asks for streaming at any size
        refine_file(
            image, image.with_name("mask.tif"), output, refiner=network, memory=options.memory
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def in_memory(folder: Path, *, stub: bool) -> tuple[np.ndarray, int]:
    """What the refiner makes of the whole image, in 8 bits, and its network runs."""
    from crispseg.io import read_image, read_mask
    from crispseg.tiling.bilinear import bilinear_window
    from crispseg.types import Box, Size

    image = read_image(folder / "image.tif")
    small, size = read_mask(folder / "mask.tif"), Size(*image.shape[:2])
    mask = bilinear_window(small, size, Box(0, 0, *size))
    found = refiner(stub=stub).run(image, mask)
    return np.rint(found.mask * np.float32(255)).astype(np.uint8), found.network_runs


class Bench:
    """The scene, the uninterrupted run's output, and how to start another run."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.seed = random.Random(options.seed)
        self.failed = 0
        make(folder, scene_of(options.megapixels, options.radius, dense=False))
        started = time.monotonic()
        code, message = self.finish(self.start("whole.tif"))
        if code:
            raise SystemExit(f"the uninterrupted run ended with {code}: {message}")
        self.seconds = time.monotonic() - started
        self.expected = self.digest("whole.tif")

    def start(
        self,
        output: str,
        *,
        image: str = "image.tif",
        most_bytes: int = 0,
        memory: str = "8G",
        workers: int = 1,
    ):
        command = [sys.executable, "-W", "ignore", __file__, "--run", str(self.folder / image)]
        command += [str(self.folder / output), "--most-bytes", str(most_bytes)]
        command += ["--memory", memory, "--workers", str(workers)]
        command += ["--stub"] if self.options.stub else []
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def finish(self, process) -> tuple[int, str]:
        _, message = process.communicate()
        return process.returncode, message.strip()

    def after_strips(self, output: str, process, count: int) -> None:
        """Wait until a run has put so many strips on disk."""
        run_folder = self.folder / f"{output}.crispseg"
        while process.poll() is None and len(list(run_folder.rglob("*.strip"))) < count:
            time.sleep(0.02)

    def digest(self, output: str) -> str:
        return hashlib.sha256((self.folder / output).read_bytes()).hexdigest()

    def report(self, fault: str, output: str, *, code: int, message: str, **more: object) -> None:
        """A fault has ended a run: was it with one line, without output; then go on."""
        said = code == 2 and message.count("\n") == 0
        wrong = (self.folder / output).exists() and self.digest(output) != self.expected
        honest = not wrong and (said or code == -signal.SIGKILL)
        again, why = self.finish(self.start(output))
        same = again == 0 and self.digest(output) == self.expected
        self.failed += not (honest and same)
        row = {"fault": fault, "code": code, "no_wrong_output": honest, "same_bytes_after": same}
        print(json.dumps(row | {"message": message or why} | more), flush=True)
        (self.folder / output).unlink(missing_ok=True)

    def kills(self) -> None:
        for number in range(3):
            process = self.start("killed.tif")
            after = self.seed.uniform(0.1, 0.33) * self.seconds  # three: it cannot end before
            time.sleep(after)
            process.kill()
            code, _ = self.finish(process)
            strips = len(list((self.folder / "killed.tif.crispseg").rglob("*.strip")))
            row = {"kill": number, "after_s": round(after, 1), "strips": strips, "code": code}
            print(json.dumps(row), flush=True)
        self.report("killed three times", "killed.tif", code=code, message="")

    def budgets(self) -> None:
        for memory, workers in BUDGETS:
            started = time.monotonic()
            code, message = self.finish(self.start("bits.tif", memory=memory, workers=workers))
            same = code == 0 and self.digest("bits.tif") == self.expected
            self.failed += not same
            row = {"memory": memory, "workers": workers, "same_bytes": same, "message": message}
            row |= {"wall_s": round(time.monotonic() - started, 1)}
            print(json.dumps(row), flush=True)
            (self.folder / "bits.tif").unlink(missing_ok=True)

    def whole(self) -> None:
        import rasterio

        expected, runs = in_memory(self.folder, stub=self.options.stub)
        with rasterio.open(self.folder / "whole.tif") as file:
            found = file.read(1)
        same = bool((found == expected).all())
        self.failed += not same
        between = int(((expected > 0) & (expected < 255)).sum())
        row = {"in_memory": f"{len(found)}x{found.shape[1]}", "same_pixels": same}
        print(json.dumps(row | {"network_runs": runs, "pixels_between": between}), flush=True)

    def full_disk(self) -> None:
        from crispseg.refiners.cascade import MAX_RATIO, TILE_SIZE
        from crispseg.tiling.grid import magnifications

        size = scene_of(self.options.megapixels, 1, dense=False).size
        _, height, *_ = (s.height for s in magnifications(size, TILE_SIZE, MAX_RATIO))
        room = 12 * height**2 + (3 << 20)  # the second magnification's image, and a few strips
        small = self.folder / "full.tif.crispseg"
        small.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "none", str(small)]
        if subprocess.run(mount, check=False, capture_output=True).returncode == 0:
            code, message = self.finish(self.start("full.tif"))
            kept = self.folder / "kept"
            shutil.copytree(small, kept)  # what a larger disk would hold
            subprocess.run(["umount", str(small)], check=True)
            small.rmdir()
            kept.rename(small)
            self.report("disk full (tmpfs)", "full.tif", code=code, message=message)
            return
        small.rmdir()
        code, message = self.finish(self.start("full.tif", most_bytes=1 << 19))
        self.report("files limited to 512 KiB", "full.tif", code=code, message=message)

    def damaged_tile(self) -> None:
        import tifffile

        whole = (self.folder / "image.tif").read_bytes()
        with tifffile.TiffFile(self.folder / "image.tif") as file:
            offsets = file.pages[0].dataoffsets
        at = offsets[len(offsets) // 2]
        path = self.folder / "damaged.tif"
        path.write_bytes(whole[:at] + b"x" * 60 + whole[at + 60 :])
        code, message = self.finish(self.start("of_damaged.tif", image="damaged.tif"))
        shutil.rmtree(self.folder / "of_damaged.tif.crispseg", ignore_errors=True)
        self.report("a damaged tile", "of_damaged.tif", code=code, message=message)

    def changed_image(self) -> None:
        path = self.folder / "changing.tif"
        shutil.copy(self.folder / "image.tif", path)
        process = self.start("of_changed.tif", image="changing.tif")
        self.after_strips("of_changed.tif", process, 2)
        with open(path, "r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"another image")
        code, message = self.finish(process)
        shutil.rmtree(self.folder / "of_changed.tif.crispseg", ignore_errors=True)
        self.report("an image that changes", "of_changed.tif", code=code, message=message)

    def two_at_once(self) -> None:
        first = self.start("shared.tif")
        self.after_strips("shared.tif", first, 1)
        code, message = self.finish(self.start("shared.tif"))
        first_code, _ = self.finish(first)
        same = first_code == 0 and self.digest("shared.tif") == self.expected
        self.failed += not (same and code == 2 and message.count("\n") == 0)
        row = {"fault": "two processes", "code": code, "message": message, "first_same": same}
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--radius", type=float, default=250, help="of the scene's three discs")
    parser.add_argument("--stub", action="store_true")
    parser.add_argument("--bits", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--run", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--most-bytes", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--memory", default="8G", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        sys.exit(run(*options.run, options))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        bench = Bench(Path(name), options)
        print(json.dumps({"uninterrupted_s": round(bench.seconds, 1)}), flush=True)
        bench.kills()
        if options.bits:
            bench.budgets()
            bench.whole()
            sys.exit(1 if bench.failed else 0)
        bench.full_disk()
        bench.damaged_tile()
        bench.changed_image()
        bench.two_at_once()
    sys.exit(1 if bench.failed else 0)


if __name__ == "__main__":
    main()
