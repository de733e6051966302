"""The small vocabulary everything else speaks: boxes, sizes, errors, checks. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""(H, W, 3) RGB, uint8 or uint16."""

Mask = NDArray[np.float32]
"""(H, W) float32 probability of the object, in [0, 1]."""


class CrispsegError(Exception):
    """Anything this package raises on purpose; the command line prints it as one line."""


class InputError(CrispsegError, ValueError):
    """What the caller gave cannot be used; the message says what is wrong and what to do."""


class TreeError(InputError):
    """A folder that does not look as it must; the message shows how, a line for each place."""


class Size(NamedTuple):
    """Height and width in pixels, in this order everywhere."""

    height: int
    width: int


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A half-open rectangle of pixels: rows y0..y1-1, columns x0..x1-1."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.x1 - self.x0

    @property
    def size(self) -> Size:
        """(height, width)."""
        return Size(self.height, self.width)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index an (H, W, ...) array with this box."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def clip(self, size: Size) -> Box:
        """The part of this box inside an image of ``size``; may be empty."""
        y0, x0 = max(self.y0, 0), max(self.x0, 0)
        return Box(
            min(y0, size.height),
            min(x0, size.width),
            max(min(self.y1, size.height), min(y0, size.height)),
            max(min(self.x1, size.width), min(x0, size.width)),
        )

    def grow(self, pixels: int) -> Box:
        """This box with ``pixels`` more on every side (fewer if negative)."""
        return Box(self.y0 - pixels, self.x0 - pixels, self.y1 + pixels, self.x1 + pixels)

    def shift(self, y: int, x: int) -> Box:
        """This box moved down by ``y`` and right by ``x`` pixels."""
        return Box(self.y0 + y, self.x0 + x, self.y1 + y, self.x1 + x)

    def shrink(self, factor: int) -> Box:
        """The smallest box that covers this one in an image ``factor`` times smaller."""
        y1, x1 = -(-self.y1 // factor), -(-self.x1 // factor)
        return Box(self.y0 // factor, self.x0 // factor, y1, x1)

    def enlarge(self, factor: int) -> Box:
        """This box in an image ``factor`` times larger."""
        return Box(*(factor * at for at in (self.y0, self.x0, self.y1, self.x1)))


def check_image(image: NDArray[Any]) -> Image:
    """Return ``image`` if it is (H, W, 3) uint8 or uint16 with at least one pixel.

    Raises:
        InputError: wrong rank, number of channels, dtype, or no pixels.
    """
    if not isinstance(image, np.ndarray):
        raise InputError(f"image must be a NumPy array (H, W, 3), not {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"image must have shape (H, W, 3) in RGB order, not {image.shape}; "
            "crispseg.io.read_image turns grey, alpha and palette files into RGB"
        )
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"image must be uint8 or uint16, not {image.dtype}")
    if image.size == 0:
        raise InputError(f"image has no pixels: shape {image.shape}")
    return image


def check_mask(mask: NDArray[Any], size: Size | None = None) -> Mask:
    """Return ``mask`` as (H, W) float32 probabilities in [0, 1].

    bool and integers that are only 0 and 1 are taken as they are; other integers up to 255 are
    divided by 255, up to 65535 by 65535; floats must already lie in [0, 1]. The input is not
    modified; what comes back may share the memory of a float32 mask.

    Args:
        mask: (H, W) or (H, W, 1) bool, integer or float.
        size: the size it must have, if any.

    Raises:
        InputError: wrong rank or size, NaN, infinite, negative or too large values, other dtypes.
    """
    if not isinstance(mask, np.ndarray):
        raise InputError(f"mask must be a NumPy array (H, W), not {type(mask).__name__}")
    mask = np.asarray(mask)  # a masked array would hide NaN from the checks below
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[:, :, 0]
    if mask.ndim != 2 or mask.size == 0:
        raise InputError(f"mask must have shape (H, W) with at least one pixel, not {mask.shape}")
    if size is not None and mask.shape != tuple(size):
        raise InputError(
            f"mask is {mask.shape[1]}x{mask.shape[0]} but the image is {size.width}x{size.height} "
            "(width x height); resize the mask to the image's size"
        )
    check_mask_dtype(mask.dtype)
    # min and max of everything: a NaN anywhere shows in both
    return scaled_mask(mask, mask_scale(mask.dtype, mask.min(), mask.max()))


def check_mask_dtype(kind: np.dtype[Any]) -> None:
    """Refuse what is no number.

    Raises:
        InputError: neither bool nor integer nor float.
    """
    if kind.kind not in "biuf":
        raise InputError(f"mask must be bool, integer or float, not {kind}")


def mask_scale(kind: np.dtype[Any], low: float, high: float) -> float:
    """By what a mask's values are divided, told by its dtype and the range of all its values.

    Raises:
        InputError: values that are no mask's.
    """
    if kind == np.bool_:
        return 1
    if np.issubdtype(kind, np.integer):
        if low < 0 or high > 65535:
            raise InputError(
                f"an integer mask must lie in 0..65535; this one spans {int(low)}..{int(high)}"
            )
        return 1 if high <= 1 else 255 if high <= 255 else 65535
    check_mask_dtype(kind)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("mask holds NaN or infinite values; replace them before refining")
    if low < 0 or high > 1:
        raise InputError(
            f"a float mask must lie in [0, 1]; this one spans {low}..{high} "
            "(divide by 255 if it is 0..255)"
        )
    return 1


def scaled_value(value: float | None, scale: float) -> float | None:
    """One value as ``scaled_mask`` gives it; None stays None."""
    return None if value is None else float(scaled_mask(np.array([[value]]), scale)[0, 0])


def scaled_mask(values: NDArray[Any], scale: float) -> Mask:
    """(H, W) values divided by ``mask_scale``, float32."""
    mask: Mask = values.astype(np.float32, copy=False)
    return mask if scale == 1 else np.divide(mask, np.float32(scale))
