"""What to expect of this machine: a short, measured answer to "how long will my photos take".

A picture is refined a few times, with a clock around every step. What was measured for each pixel
of a network run, and for each megapixel around it, gives the time of larger photos: how many tiles
those take follows from the mask's edges, by the rule of ``refiners/local.py``.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crispseg.io import write_image, write_mask
from crispseg.pipeline import read_inputs
from crispseg.refiners.cascade import MAX_RATIO, CascadeRefiner
from crispseg.refiners.local import covered, edges_of, tiling, window_around
from crispseg.refiners.network import CascadeNetwork
from crispseg.runtime.device import processor_name
from crispseg.runtime.memory import peak_mib
from crispseg.tiling.area import resize_area
from crispseg.tiling.bilinear import bilinear_window
from crispseg.tiling.grid import fit_size, magnifications, plan_tiles
from crispseg.tiling.pieces import bounding_box
from crispseg.types import Box, Image, Mask, Size

Clock = Callable[[], float]
Array = NDArray[np.float32]

STEPS = ("decode", "global step", "local tiles", "blend", "encode")
EXPECTED_MEGAPIXELS = (12, 48)
CHANNELS, SIDE = 256, 64
"""Of the convolution whose speed is the ceiling: wide, and small enough for a cache."""
HOPELESS = 4.0
"""A precision that takes so many times as long as float32 is not measured further."""


@dataclass
class Timed:
    """A CascadeNetwork with a clock around it: seconds and pixels of its two kinds of run.

    Attributes:
        network: what is timed.
        clock: in seconds.
        seconds: "global step" and "local tiles" -> seconds.
        pixels: the same -> pixels of the runs.
        tiles: how many local tiles were run.
    """

    network: CascadeNetwork
    clock: Clock
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS[1:3], 0.0))
    pixels: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STEPS[1:3], 0))
    tiles: int = 0
    _whole: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def probabilities(
        self, images: Sequence[Tensor], masks: Sequence[Sequence[Array]], channels: int = 2
    ) -> list[Array]:
        """See CascadeNetwork; the global step, of one look or two, has the first image."""
        if self._whole is None:
            self._whole = images[0]
        is_local = images[0] is not self._whole
        self.tiles += is_local * len(images)
        kind = STEPS[2] if is_local else STEPS[1]
        start = self.clock()
        answer = self.network.probabilities(images, masks, channels)
        self.seconds[kind] += self.clock() - start
        self.pixels[kind] += sum(mask[0].size for mask in masks)
        return answer


@dataclass(frozen=True)
class Measured:
    """One picture, refined from file to file.

    Attributes:
        size: of the picture.
        boundary_px: length of the given mask's edge.
        tiles_run: local tiles that the network ran, at every magnification.
        seconds: of each of ``STEPS``; "blend" is all that is not one of the others: choosing
            tiles, resizing, merging, calibration, the guard.
        pixels: of network runs, global and local.
    """

    size: Size
    boundary_px: int
    tiles_run: int
    seconds: dict[str, float]
    pixels: dict[str, int]

    @property
    def total(self) -> float:
        """Seconds from file to file."""
        return sum(self.seconds.values())

    @property
    def megapixels(self) -> float:
        """Of the picture."""
        return self.size.height * self.size.width / 1e6


def machine(device: str) -> dict[str, Any]:
    """What the figures are true for."""
    return {
        "processor": processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device,
    }


def ceilings(
    device: torch.device, seconds: float, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """GFLOP/s that a 3x3 convolution reaches, by precision; what makes no sense here is left out.

    Args:
        device: to measure.
        seconds: about how long to measure each precision.
        clock: in seconds.
    """
    found: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(device, dtype)
        conv = conv.to(memory_format=torch.channels_last)
        least = found.get("fp32", 0.0) / HOPELESS
        reached = _speed(conv, device, SIDE // 4, 0.0, clock)  # also sets up the library
        if reached > least:
            reached = _speed(conv, device, SIDE, seconds, clock)
        if reached > least:
            found[name] = reached
    return {name: round(reached / 1e9, 1) for name, reached in found.items()}


@torch.inference_mode()
def _speed(conv: nn.Conv2d, device: torch.device, side: int, seconds: float, clock: Clock) -> float:
    """Best FLOP/s of runs that take so many seconds together."""
    x = torch.ones(1, CHANNELS, side, side, device=device, dtype=conv.weight.dtype)
    x = x.to(memory_format=torch.channels_last)
    operations = 2.0 * 9 * CHANNELS**2 * side**2
    best, begun = 0.0, clock()
    for _ in range(1000):
        start = clock()
        conv(x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, operations / max(clock() - start, 1e-9))
        if clock() - begun >= seconds:
            break
    return best


def sample(image: Image, mask: Mask, long_side: int) -> tuple[Image, Mask]:
    """A picture and its mask at another size, by area or bilinearly."""
    size = fit_size(Size(*mask.shape), long_side)
    if max(size) <= max(mask.shape):
        pixels, given = resize_area(image, size), resize_area(mask, size)
    else:
        box = Box(0, 0, *size)
        pixels = np.moveaxis(bilinear_window(np.moveaxis(image, -1, 0), size, box), 0, -1)
        given = bilinear_window(mask, size, box)
    return np.rint(pixels).astype(image.dtype), (given > 0.5).astype(np.float32)


def measure(
    refiner: CascadeRefiner,
    image: Path,
    mask: Path,
    *,
    seconds: float,
    rounds: int = 3,
    clock: Clock = time.perf_counter,
) -> Measured:
    """Refine a picture from file to file, with a clock around every step.

    Args:
        refiner: to measure.
        image: a photo.
        mask: its mask.
        seconds: no further round is begun that would end later than that.
        rounds: most rounds; the medians are returned.
        clock: in seconds.

    Raises:
        InputError: files that cannot be read, or sizes that differ.
    """
    begun = clock()
    found: list[Measured] = []
    while len(found) < rounds:
        found.append(_round(refiner, image, mask, clock))
        elapsed = clock() - begun
        if elapsed + elapsed / len(found) > seconds:
            break
    medians = {k: statistics.median(one.seconds[k] for one in found) for k in STEPS}
    return Measured(
        found[0].size, found[0].boundary_px, found[0].tiles_run, medians, found[0].pixels
    )


def _round(refiner: CascadeRefiner, image: Path, mask: Path, clock: Clock) -> Measured:
    times = [clock()]
    pixels, given = read_inputs(image, mask)
    times.append(clock())
    timed = Timed(refiner.network, clock)
    refiner.network = cast(CascadeNetwork, timed)
    try:
        result = refiner.run(pixels, given)
    finally:
        refiner.network = timed.network
    times.append(clock())
    with tempfile.TemporaryDirectory() as folder:
        write_mask(Path(folder) / "mask.png", result.mask)
    times.append(clock())
    decode, refine, encode = np.diff(times).tolist()
    blend = refine - sum(timed.seconds.values())
    values = (decode, *timed.seconds.values(), blend, encode)
    seconds = dict(zip(STEPS, values, strict=True))
    size = Size(*given.shape)
    return Measured(size, boundary_length(given > 0.5), timed.tiles, seconds, timed.pixels)


def boundary_length(mask: NDArray[np.bool_]) -> int:
    """Pairs of neighbouring pixels, of four, that differ."""
    rows, columns = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    return int(np.count_nonzero(rows) + np.count_nonzero(columns))


def expected(measured: Measured, mask: Mask, megapixels: float, tile_size: int) -> dict[str, Any]:
    """What a photo of another size will take, with the same object in it.

    Args:
        measured: a picture with its mask.
        mask: (H, W), what the photo's mask is like.
        megapixels: of the photo, with the proportions of ``mask``.
        tile_size: that it will be refined with.

    Returns:
        megapixels, size (height, width), tiles (local tiles run), seconds.
    """
    height, width = mask.shape
    long_side = round(max(mask.shape) * (megapixels * 1e6 / (height * width)) ** 0.5)
    size = fit_size(Size(height, width), long_side)
    first, *later = magnifications(size, tile_size, MAX_RATIO)
    looks = [box for level in later for box in _looks(mask, level, tile_size)]
    network = {
        STEPS[1]: first.height * first.width,
        STEPS[2]: sum(box.height * box.width for box in looks),
    }
    seconds = 0.0
    for kind, pixels in network.items():
        seconds += pixels * _per_pixel(measured, kind)
    around = sum(measured.seconds[k] for k in ("decode", "blend", "encode"))
    seconds += around / measured.megapixels * size.height * size.width / 1e6
    return {
        "megapixels": megapixels,
        "size": list(size),
        "tiles": len(looks),
        "seconds": round(seconds, 1),
    }


def _per_pixel(measured: Measured, kind: str) -> float:
    """Seconds for each pixel of a network run; the other kind's where there was none."""
    known = [k for k in (kind, *STEPS[1:3]) if measured.pixels[k]]
    return measured.seconds[known[0]] / measured.pixels[known[0]] if known else 0.0


def _looks(mask: Mask, size: Size, tile_size: int) -> list[Box]:
    """What the network sees of the tiles in which the mask has an edge."""
    given = mask > 0.5
    found = []
    for tile in plan_tiles(size, *tiling(size, tile_size)):
        part = covered(tile, size, Size(*given.shape))
        edges = bounding_box(edges_of(given[part.slices]))
        if edges.height:
            marked = covered(edges, part.size, tile.size)
            found.append(window_around(marked, tile.size))
    return found


def report(measured: Measured, mask: Mask, tile_size: int) -> dict[str, Any]:
    """The figures of a measurement, as JSON can hold them."""
    total = measured.total
    per_tile = _per_pixel(measured, STEPS[2]) * tile_size**2
    return {
        "picture": {
            "height": measured.size.height,
            "width": measured.size.width,
            "boundary_px": measured.boundary_px,
            "tiles_run": measured.tiles_run,
        },
        "seconds": {k: round(v, 4) for k, v in measured.seconds.items()} | {"all": round(total, 4)},
        "shares": {k: round(v / total, 4) if total else 0.0 for k, v in measured.seconds.items()},
        "seconds_per_megapixel": round(total / measured.megapixels, 3),
        "seconds_per_tile": round(per_tile, 3),
        "seconds_per_1000px_of_boundary": round(1000 * total / max(measured.boundary_px, 1), 3),
        "expected": [expected(measured, mask, each, tile_size) for each in EXPECTED_MEGAPIXELS],
        "peak_mib": int(peak_mib()),
    }


def bench(
    refiner: CascadeRefiner,
    image: Path,
    mask: Path,
    *,
    tile_size: int,
    long_side: int | None,
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    """Measure, and say what to expect.

    Args:
        refiner: to measure.
        image: a photo.
        mask: its mask.
        tile_size: of the photos to come.
        long_side: what the picture is resized to before; None: as it is.
        seconds: about how long the rounds may take together; one is always done.
        rounds: at most.

    Raises:
        InputError: files that cannot be read, or sizes that differ.
    """
    pixels, given = read_inputs(image, mask)
    with tempfile.TemporaryDirectory() as folder:
        if long_side:
            small, rough = sample(pixels, given, long_side)
            image, mask = Path(folder) / "image.jpg", Path(folder) / "mask.png"
            write_image(image, small)
            write_mask(mask, rough)
        measured = measure(refiner, image, mask, seconds=seconds, rounds=rounds)
    return report(measured, given, tile_size)
