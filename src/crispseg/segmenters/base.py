"""What a segmenter is, what it asks of a network, and how the papers look at an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crispseg.tiling.grid import fit_size
from crispseg.types import Image, InputError, Size

Labels = NDArray[Any]
"""(H, W) class numbers: uint8 for up to 255 classes, otherwise uint16."""

Probabilities = NDArray[np.float32]
"""(classes, H, W) float32 in [0, 1]; the classes of a pixel add up to 1."""

Colour = tuple[int, int, int]
Progress = Callable[[int, int], None]
"""Called with (network runs done, network runs in all)."""


class Segmenter(Protocol):
    """Anything that gives every pixel of an image a class.

    Attributes:
        num_classes: number of classes.
        class_names: of each class.
    """

    num_classes: int
    class_names: tuple[str, ...]

    def probabilities(self, image: Image) -> Probabilities:
        """(H, W, 3) RGB uint8 or uint16 -> (num_classes, H, W) float32."""

    def segment(self, image: Image) -> Labels:
        """(H, W, 3) RGB uint8 or uint16 -> (H, W) uint8 or uint16 class numbers."""


class TileNetwork(Protocol):
    """A network that can be asked about one tile; normalisation and padding are its own affair.

    Attributes:
        num_classes: number of classes.
        class_names: of each class.
        colours: RGB of each class, 0..255; none if there are no usual ones.
        mean: RGB in [0, 1] of what a tile is padded with.
        largest_tile: side of the largest tile that it can see; None for any.
        source: what it is, for messages: a file or a kind of network.
        device: where it runs, for people.
    """

    num_classes: int
    class_names: tuple[str, ...]
    colours: tuple[Colour, ...]
    mean: tuple[float, float, float]
    largest_tile: int | None
    source: str
    device: str

    def probabilities(self, tiles: Sequence[Image]) -> list[Probabilities]:
        """(h, w, 3) RGB tiles of one size -> for each (num_classes, h, w) float32."""


@runtime_checkable
class LabelNetwork(Protocol):
    """A TileNetwork that can also name classes without making all their probabilities."""

    def labels(self, tile: Image) -> Labels | None:
        """(h, w, 3) RGB -> (h, w) uint8 or uint16 class numbers; None if it cannot after all."""


PSPNET_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""PSPNet's released code, evaluation with several scales."""
DEEPLABV3_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""DeepLabv3 section 4.1, PASCAL VOC."""
CITYSCAPES_SCALES = (0.75, 1.0, 1.25)
"""DeepLabv3 section 4.4, Cityscapes val."""
CITYSCAPES_TEST_SCALES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""DeepLabv3 section 4.4, Cityscapes test."""
REFINENET_SCALES = (0.4, 0.6, 0.8, 1.0, 1.2)
"""RefineNet section 4."""

SCALE_SETS = {
    "pspnet": PSPNET_SCALES,
    "deeplabv3": DEEPLABV3_SCALES,
    "cityscapes": CITYSCAPES_SCALES,
    "cityscapes-test": CITYSCAPES_TEST_SCALES,
    "refinenet": REFINENET_SCALES,
}

SMALLEST_TILE, LARGEST_SCALE = 32, 16.0


@dataclass(frozen=True)
class Inference:
    """How a network looks at an image.

    Attributes:
        tile_size: side of the tiles in pixels; what fits one is seen whole. None sees every image
            whole, whatever memory that takes.
        overlap_px: how much neighbours share, at least. None: a third of a tile (PSPNet's stride
            of two thirds, rounded up).
        blend: "smooth" leaves out the outer eighth of the overlap, where zero padding has spoilt a
            tile, and rises linearly from there; "equal" counts every pixel of every tile alike
            (the papers).
        scales: sizes that the image is seen in, relative to its own; probabilities are averaged.
        flip: also see the mirror image, and average.
        pad: enlarge images that are smaller than a tile to one with the mean colour (PSPNet).
        long_side: long side of the image at scale 1, in pixels (PSPNet); None: its own.
        short_side: least and largest short side of the image at scale 1 (RefineNet); None: any.

    Raises:
        InputError: a value out of range.
    """

    tile_size: int | None = 1024
    overlap_px: int | None = None
    blend: Literal["smooth", "equal"] = "smooth"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    pad: bool = False
    long_side: int | None = None
    short_side: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.tile_size is not None and self.tile_size < SMALLEST_TILE:
            raise InputError(
                f"tile_size must be {SMALLEST_TILE} or more, or 0 (in Python: None) for the whole "
                f"image; not {self.tile_size}"
            )
        if self.tile_size is None and self.pad:
            raise InputError("pad needs a tile_size to pad to")
        if self.tile_size is not None and not 0 <= self.overlap < self.tile_size:
            raise InputError(
                f"overlap must be 0..{self.tile_size - 1} for tiles of {self.tile_size} px, "
                f"not {self.overlap}"
            )
        if self.blend not in ("smooth", "equal"):
            raise InputError(f"blend must be 'smooth' or 'equal', not {self.blend!r}")
        if not self.scales:
            raise InputError("scales must name one scale at least, such as 1")
        for scale in self.scales:
            if not 0 < scale <= LARGEST_SCALE:  # written so that NaN fails too
                raise InputError(f"scales must lie in 0..{LARGEST_SCALE:g}, not {scale:g}")
        sides = (*(self.short_side or (1, 1)), self.long_side or 1)
        if min(sides) < 1 or sides[0] > sides[1]:
            raise InputError("long_side and short_side must be 1 or more, the least first")

    @property
    def overlap(self) -> int:
        """Overlap in pixels; 0 without tiles."""
        if self.tile_size is None:
            return 0
        if self.overlap_px is None:
            return self.tile_size - math.ceil(2 * self.tile_size / 3)
        return self.overlap_px

    @property
    def margin_px(self) -> int:
        """Outer pixels of a tile that count nothing."""
        return 0 if self.blend == "equal" else self.overlap // 8

    @property
    def ramp_px(self) -> int:
        """Pixels over which the weight of a tile then rises."""
        return 0 if self.blend == "equal" else self.overlap - 2 * self.margin_px

    def sizes(self, size: Size) -> list[Size]:
        """The sizes in which an image of ``size`` is seen."""
        longest = self.long_side or max(size)
        if self.short_side:
            shortest = min(fit_size(size, longest))
            wanted = min(max(shortest, self.short_side[0]), self.short_side[1])
            longest = max(1, round(longest * wanted / shortest))
        return [fit_size(size, max(1, round(longest * scale))) for scale in self.scales]


# Tiles of 473 and 713 px, stride 316 and 476: two thirds, rounded up.
PSPNET = Inference(
    tile_size=473, blend="equal", scales=PSPNET_SCALES, flip=True, pad=True, long_side=512
)
"""PSPNet's released code, ADE20K and VOC."""
PSPNET_CITYSCAPES = Inference(
    tile_size=713, blend="equal", scales=PSPNET_SCALES, flip=True, pad=True, long_side=2048
)
"""PSPNet's released code, Cityscapes."""
DEEPLABV3 = Inference(tile_size=None, scales=DEEPLABV3_SCALES, flip=True)
"""DeepLabv3 section 4.1: the whole image."""
DEEPLABV3_CITYSCAPES = Inference(tile_size=None, scales=CITYSCAPES_SCALES, flip=True)
"""DeepLabv3 section 4.4."""
REFINENET = Inference(tile_size=None, scales=REFINENET_SCALES, short_side=(450, 800))
"""RefineNet section 4 and released code; scores are not rounded to bytes."""
REFINENET_CITYSCAPES = Inference(tile_size=None, scales=REFINENET_SCALES, short_side=(600, 1100))
"""RefineNet section 4 and released code, Cityscapes."""


def label_dtype(num_classes: int) -> type[np.uint8] | type[np.uint16]:
    """uint8 where 255 stays free for "ignore", otherwise uint16."""
    return np.uint8 if num_classes <= 255 else np.uint16
