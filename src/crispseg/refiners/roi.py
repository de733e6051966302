"""Regions of interest: a part of an image that alone may change."""

from __future__ import annotations

from crispseg.types import Box, InputError, Size

CONTEXT_PX = 16


def check_roi(roi: Box, size: Size) -> None:
    """Refuse a region of interest that is empty or reaches out of the image.

    Raises:
        InputError: as said.
    """
    if roi.clip(size) != roi or min(roi.size) < 1:
        raise InputError(
            f"ROI {roi.y0},{roi.x0},{roi.y1},{roi.x1} (y0,x0,y1,x1) is empty or "
            f"reaches out of the {size.width}x{size.height} image"
        )


def context_of(roi: Box, size: Size) -> Box:
    """What is refined for an ROI: a quarter more, so that its border is not a dead end.

    The released scene code does the same.
    """
    return roi.grow(max(CONTEXT_PX, max(roi.size) // 8)).clip(size)
