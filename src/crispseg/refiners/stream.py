"""The cascade for images of any size: the steps of ``cascade.py``, with everything on disk.

Global step, magnifications between and local step are those of ``CascadeRefiner``, computed from
windows; the result is the same to the bit. Memory holds one tile's network run, the tiles that
reach into the row of blocks in work, and a few windows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crispseg.io.spool import RawFile, RawWriter
from crispseg.io.store import StripStore
from crispseg.io.windows import Flags, ImageSource, windows_of
from crispseg.refiners.base import Progress
from crispseg.refiners.cascade import MAX_RATIO, CascadeRefiner
from crispseg.refiners.guard import CERTAINTY_SCALE, calibrate, sure_enough
from crispseg.refiners.local import (
    MARGIN_PX,
    Array,
    Coarse,
    LocalInputs,
    covered,
    merge_detail,
    settled,
    tiling,
)
from crispseg.refiners.thin import HALO_PX
from crispseg.refiners.whole import look_at_whole
from crispseg.tiling.area import BAND_PX, AreaMean, resize_area_window
from crispseg.tiling.bilinear import Part, bilinear_source
from crispseg.tiling.blend import VALUE_SCALE
from crispseg.tiling.grid import first_long_side, magnifications
from crispseg.tiling.stream import Grid, TileStream, fixed
from crispseg.types import Box, InputError, Size

LEVEL_PLANES = {"given": "u1", "final": "f4", "stride4": "f4"}
ROUND_TO_ZERO = 0.499 / 255
SOFT_PX = 1024
"""Side, in the given mask's pixels, of the parts that are looked at when it is averaged."""
CELL_PX, GIVEN_CELLS = 256, 64
"""Side, in a magnification's pixels, of the parts of the given mask that are kept, and how many."""


@dataclass(frozen=True)
class Scene:
    """What is to be refined.

    Attributes:
        image: the image.
        given: window of the caller's mask, (h, w) bool; False outside ``valid``.
        valid: window of where to work, (h, w) bool; None: everywhere in the box.
        constant: the one value of ``given`` in a window, if it is known without reading it.
    """

    image: ImageSource
    given: Callable[[Box], Flags]
    valid: Callable[[Box], Flags | None]
    constant: Callable[[Box], float | None] = lambda _: None

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.image.size


class StoredCoarse:
    """A magnification on disk."""

    def __init__(self, store: StripStore) -> None:
        self._store = store

    def around(self, size: Size, box: Box) -> Coarse:
        """See CoarseSource."""
        whole = self._store.size
        source = bilinear_source(whole, size, box)
        wide = source.grow(HALO_PX).clip(whole)
        at = source.shift(-wide.y0, -wide.x0).slices
        given, final, stride4 = (
            self._store.read(plane, wide).astype(np.float32, copy=False) for plane in LEVEL_PLANES
        )
        final = Coarse(given, final, stride4).keeping_thin().final
        return Coarse(given[at], final[at], stride4[at], Part(whole, source))

    def constant(self, plane: str, size: Size, box: Box) -> float | None:
        """The one value that a window of a plane is made from, if it is the same all over."""
        return self._store.constant(plane, bilinear_source(self._store.size, size, box))


@dataclass
class StreamedCascade:
    """Refines a scene into a store; goes on where an earlier run of the same scene stopped.

    Attributes:
        refiner: network and options; its mode is "default".
        scene: larger than a tile.
        folder: for the magnifications and the result.
        exact: keep float32 probabilities instead of 8 bits.
        batch_size: most tiles in one network call.
        progress: called with (network runs done, network runs in all), as far as is known.
        cache_bytes: of each magnification on disk that is kept in memory.
    """

    refiner: CascadeRefiner
    scene: Scene
    folder: Path
    exact: bool = False
    batch_size: int = 1
    progress: Progress | None = None
    cache_bytes: int = 32 << 20
    runs: int = 0
    tiles_run: int = 0
    tiles_planned: int = 0
    _total: int = field(default=0, init=False)
    _kept: tuple[Size, RawFile] | None = field(default=None, init=False)
    _cell: Callable[[Size, Box], Flags] = field(init=False)

    def __post_init__(self) -> None:
        # selecting, running, merging and storing ask for the same pixels one after the other
        self._cell = lru_cache(GIVEN_CELLS)(self._given_cell)

    def run(self) -> Iterator[StripStore]:
        """Do the work; yields the store in work after each of its strips, the result's last."""
        first = first_long_side(self.scene.size, self.refiner.tile_size)
        sizes = magnifications(self.scene.size, first, MAX_RATIO)
        if len(sizes) == 1:
            raise ValueError("the image fits a tile; refine it in memory")
        coarse = yield from self._global_step(sizes)
        if self.refiner.fast:
            yield from self._only_global(coarse)
            return
        for number, size in enumerate(sizes[1:-1], start=1):
            store = self._store(f"level-{number}", size, LEVEL_PLANES)
            yield from self._local_step(store, coarse, self._finish_level(size))
            coarse = StoredCoarse(store)
        yield from self._local_step(self.result(), coarse, self._finish_result)

    def result(self) -> StripStore:
        """Where the result is: planes ``value`` and ``change`` (see ``encode``)."""
        return self._store("result", self.scene.size, result_planes(self.exact))

    def _store(self, name: str, size: Size, planes: Mapping[str, str]) -> StripStore:
        return StripStore(self.folder / name, size, planes, self.cache_bytes)

    def _global_step(self, sizes: Sequence[Size]) -> Generator[StripStore, None, StoredCoarse]:
        size = sizes[0]
        store = self._store("level-0", size, LEVEL_PLANES | {"given": "f4"})
        if not store.strips:
            given = self._soft(size, Box(0, 0, *size))
            tensor = self.refiner.network.image_tensor(self._read_once(sizes), self._peak)
            final, stride4 = look_at_whole(
                self.refiner.network,
                tensor,
                given,
                after_run=lambda: self._count(Box(0, 0, *size)),
            )
            with store.begin(0, size.height) as strip:
                for name, plane in zip(LEVEL_PLANES, (given, final, stride4), strict=True):
                    strip.add(name, 0, plane)
        else:
            self._count(Box(0, 0, *size))
        yield store
        if self._next_image.exists():
            kept = RawFile(self._next_image, (*sizes[1], 3), np.dtype(np.float32))
            self._kept = (sizes[1], kept)
        return StoredCoarse(store)

    def _read_once(self, sizes: Sequence[Size]) -> Array:
        """The image at the first magnification; where there are more than two, the second is kept.

        The second would read most of the image again. It is no larger than ``MAX_RATIO`` tiles a
        side, whatever the image.
        """
        image, full = self.scene.image, self.scene.size
        wanted = sizes[: 2 if len(sizes) > 2 and not self.refiner.fast else 1]
        means = [AreaMean(full, size, Box(0, 0, *size)) for size in wanted]
        for window in windows_of(Box(0, 0, *full), image.block, BAND_PX):
            pixels = image.read(window)
            for mean in means:
                mean.add(window, pixels)
        first, *others = means
        for other in others:
            with RawWriter(self._next_image) as raw:
                for row in range(sizes[1].height):
                    raw.add(other.result(row, row + 1))
        return first.result()

    @property
    def _next_image(self) -> Path:
        return self.folder / "image-1.raw"

    def _only_global(self, coarse: StoredCoarse) -> Iterator[StripStore]:
        store, size = self.result(), self.scene.size
        grid = self._grid(size)
        for row in range(len(store.strips), len(grid.tops)):
            first = grid.block((row, 0))
            with store.begin(first.y0, first.y1) as strip:
                for column in range(len(grid.lefts)):
                    box = grid.block((row, column))
                    values = merge_detail(
                        coarse.around(size, box), self._given_at(size)(box), size, box
                    )
                    for name, plane in self._finish_result(box, values[None]).items():
                        strip.add(name, box.x0, plane)
            yield store

    def _local_step(
        self,
        store: StripStore,
        coarse: StoredCoarse,
        finish: Callable[[Box, Array], dict[str, NDArray[Any]]],
    ) -> Iterator[StripStore]:
        size = store.size
        is_last = size == self.scene.size
        channels = 1 if is_last else 2  # nobody asks for the last magnification's stride 4
        inputs = LocalInputs(coarse, self._given_at(size), size, channels)
        grid = self._grid(size)
        selected = self._select(grid, inputs, coarse)
        done = len(store.strips)
        self.runs += int(selected[:done].sum())
        self._total = self.runs + int(selected[done:].sum())
        if is_last:
            self.tiles_run, self.tiles_planned = int(selected.sum()), selected.size

        def predict(boxes: Sequence[Box]) -> list[Array]:
            network = self.refiner.network
            return inputs.refined(
                boxes, lambda box: network.image_tensor(self._image(size, box), self._peak), network
            )

        stream = TileStream(
            grid,
            selected,
            predict,
            inputs.coarse_values,
            finish,
            batch_size=self.batch_size,
            flat=self._flat_result(coarse) if is_last else self._flat_level(coarse, size),
            after_tile=self._count,
        )
        for _ in stream.run(store):
            yield store

    def _select(self, grid: Grid, inputs: LocalInputs, coarse: StoredCoarse) -> Flags:
        selected = np.zeros((len(grid.tops), len(grid.lefts)), np.bool_)
        for place in np.ndindex(selected.shape):
            tile = grid.tile((place[0], place[1]))
            if self._settled(coarse, grid.size, tile.grow(1).clip(grid.size)) is None:
                selected[place] = self._any_valid(grid.size, tile) and inputs.has_edge(tile)
        return selected

    def _settled(self, coarse: StoredCoarse, size: Size, box: Box) -> float | None:
        """0 or 1 where that is all that the given mask and the magnification before say."""
        value = self.scene.constant(covered(box, size, self.scene.size))
        if value is None or coarse.constant("given", size, box) != value:
            return None
        return value if coarse.constant("final", size, box) == value else None

    def _any_valid(self, size: Size, tile: Box) -> bool:
        valid = self.scene.valid(covered(tile, size, self.scene.size))
        return valid is None or bool(valid.any())

    def _flat_level(
        self, coarse: StoredCoarse, size: Size
    ) -> Callable[[Box], dict[str, float] | None]:
        """Blocks of a magnification that are those of the one before."""

        def flat(box: Box) -> dict[str, float] | None:
            value = self._settled(coarse, size, box)
            stride4 = None if value is None else coarse.constant("stride4", size, box)
            if value is None or stride4 is None:
                return None
            merged = float(fixed(np.full((1, 1), stride4, np.float32))[0, 0] / VALUE_SCALE)
            return {"given": value, "final": value, "stride4": merged}

        return flat

    def _flat_result(self, coarse: StoredCoarse) -> Callable[[Box], dict[str, float] | None]:
        """Blocks that come out as all 0 or all 1, told without computing them."""
        size = self.scene.size
        full = 1 if self.exact else 255

        def flat(box: Box) -> dict[str, float] | None:
            value = self._settled(coarse, size, box)
            if value is None and not self.exact:
                value = settled(coarse.around(size, box), self._given_at(size)(box), self._sure)
            return None if value is None else {"value": full * value, "change": 0}

        return flat

    @cached_property
    def _sure(self) -> float:
        """How near 0 or 1 a probability must be to be written as 0 or 255 after calibration."""
        return sure_enough(self.refiner.temperature, self.refiner.bias, ROUND_TO_ZERO)

    def _finish_level(self, size: Size) -> Callable[[Box, Array], dict[str, NDArray[Any]]]:
        given = self._given_at(size)
        return lambda box, values: {"given": given(box), "final": values[0], "stride4": values[1]}

    def _finish_result(self, box: Box, values: Array) -> dict[str, NDArray[Any]]:
        probability = calibrate(values[0], self.refiner.temperature, self.refiner.bias)
        valid = self.scene.valid(box)
        if valid is not None:
            probability = np.where(valid, probability, np.float32(0))
        return encode(self.scene.given(box), probability, exact=self.exact)

    def _image(self, size: Size, box: Box) -> NDArray[Any]:
        image = self.scene.image
        if size == self.scene.size:
            return image.read(box)
        if self._kept and self._kept[0] == size:
            return self._kept[1].read(box)
        return resize_area_window(image.read, self.scene.size, size, box, image.block)

    def _soft(self, size: Size, box: Box) -> Array:
        """The given mask averaged; what is flat is not even read."""
        full, block = self.scene.size, self.scene.image.block
        soft = np.empty(box.size, np.float32)
        side = max(SOFT_PX * size.width // full.width, 1)
        for part in windows_of(box, Size(side, side), side**2):
            value = self.scene.constant(covered(part, size, full))
            if value is None:
                averages = resize_area_window(self.scene.given, full, size, part, block)
            else:
                averages = np.full(part.size, value, np.float32)
            soft[part.shift(-box.y0, -box.x0).slices] = averages
        return soft

    def _given_at(self, size: Size) -> Callable[[Box], Array]:
        if size == self.scene.size:
            return lambda box: self.scene.given(box).astype(np.float32)

        def given(box: Box) -> Array:
            values = np.empty(box.size, np.float32)
            for y in range(box.y0 // CELL_PX * CELL_PX, box.y1, CELL_PX):
                for x in range(box.x0 // CELL_PX * CELL_PX, box.x1, CELL_PX):
                    cell = Box(y, x, y + CELL_PX, x + CELL_PX)
                    part = Box(
                        max(y, box.y0), max(x, box.x0), min(cell.y1, box.y1), min(cell.x1, box.x1)
                    )
                    at = part.shift(-box.y0, -box.x0).slices
                    values[at] = self._cell(size, cell.clip(size))[part.shift(-y, -x).slices]
            return values

        return given

    def _given_cell(self, size: Size, cell: Box) -> Flags:
        return self._soft(size, cell) > 0.5

    @property
    def _peak(self) -> float:
        return float(np.iinfo(self.scene.image.dtype).max)

    def _grid(self, size: Size) -> Grid:
        return Grid(size, *tiling(size, self.refiner.tile_size), MARGIN_PX)

    def _count(self, _: Box) -> None:
        self.runs += 1
        if self.progress:
            self.progress(self.runs, max(self.runs, self._total))


def result_planes(exact: bool) -> Mapping[str, str]:
    """Planes of a result: see ``encode``."""
    return {"value": "f4" if exact else "u1", "change": "i4"}


def encode(given: Flags, probability: Array, *, exact: bool) -> dict[str, NDArray[Any]]:
    """What is kept of a refined window.

    Returns:
        value: probabilities, 0..255 or float32. change: 0 where the binary mask is the given one;
        else 1 + the certainty in whole numbers of ``CERTAINTY_SCALE``, negative where taken away.
    """
    refined = probability > 0.5
    certainty = np.abs(2 * probability.astype(np.float64) - 1)
    change = 1 + np.rint(certainty * CERTAINTY_SCALE).astype(np.int32)
    change[given == refined] = 0
    np.negative(change, out=change, where=given)
    value = probability if exact else np.rint(probability * np.float32(255)).astype(np.uint8)
    return {"value": value, "change": change}


def check_streamable(refiner: CascadeRefiner) -> None:
    """Refuse what only works in memory.

    Raises:
        InputError: the published mode.
    """
    if refiner.mode != "default":
        raise InputError("--mode published holds the whole image in memory; leave out --memory")
