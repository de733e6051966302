"""Where tiles lie, and which sizes an image is looked at in. Pure integers."""

from __future__ import annotations

from math import ceil, sqrt

from crispseg.types import Box, InputError, Size


def axis_starts(length: int, tile: int, stride: int) -> list[int]:
    """First pixel of each tile along one axis.

    Tiles start every ``stride`` pixels; the last one is shifted back so that it ends at
    ``length`` (PSPNet and CascadePSP released code). One start, 0, if the tile is not smaller.
    """
    if tile >= length:
        return [0]
    starts = list(range(0, length - tile, stride))
    return [*starts, length - tile]


def plan_tiles(size: Size, tile_size: int | Size, overlap_px: int) -> list[Box]:
    """Tiles that cover an image, row by row from the top left.

    Args:
        size: of the image.
        tile_size: side of a square tile, or its size; tiles are clipped to a smaller image.
        overlap_px: how much neighbours share, at least.

    Raises:
        InputError: overlap not in 0..tile_size-1, or an empty image.
    """
    tile = tile_size if isinstance(tile_size, Size) else Size(tile_size, tile_size)
    if not 0 <= overlap_px < min(tile):
        raise InputError(f"overlap must be 0..{min(tile) - 1} for tiles of {min(tile)} px")
    if min(size) < 1:
        raise InputError(f"cannot tile an image of {size.width}x{size.height} pixels")
    return [
        Box(y, x, min(y + tile.height, size.height), min(x + tile.width, size.width))
        for y in axis_starts(size.height, tile.height, tile.height - overlap_px)
        for x in axis_starts(size.width, tile.width, tile.width - overlap_px)
    ]


def even_tile(size: Size, tile_size: int, overlap_px: int) -> Size:
    """Size of equal tiles that cover an image with the fewest pixels in all.

    None has more pixels than a square of ``tile_size``, no side is more than half as long again.
    Sides are even, so that tiles of an image at twice its size end where its pixels do, and so is
    the overlap that they are made for, one less than ``overlap_px`` if that is odd;
    what reaches beyond the image is for ``plan_tiles`` to cut.

    Args:
        size: of the image.
        tile_size: in pixels.
        overlap_px: what neighbours share, less than half of ``tile_size``.
    """
    overlap_px -= overlap_px % 2
    longest = tile_size * 3 // 2

    def fitting(length: int, limit: int, count: int = 1) -> tuple[int, int]:
        """The fewest tiles, ``count`` or more, of at most ``limit`` px, and their side."""
        while True:
            side = 2 * ceil((length + (count - 1) * overlap_px) / count / 2)
            if side <= limit or count >= length:
                return count, max(side, overlap_px + 2)
            count += 1

    found = []
    rows, height = fitting(size.height, longest)
    while True:
        columns, width = fitting(size.width, min(longest, tile_size**2 // height))
        found.append((rows * height * columns * width, height, width))
        if columns == 1 or height <= tile_size * 2 // 3:
            return Size(*min(found)[1:])
        rows, height = fitting(size.height, longest, rows + 1)


def fit_size(size: Size, long_side: int) -> Size:
    """``size`` scaled so that its longer side is ``long_side``, no side below one pixel."""
    longest = max(size)
    return Size(*(max(1, round(side * long_side / longest)) for side in size))


LEAST_SIDE_PX = 12
"""Pictures with a shorter side than this show a network nothing: of rows of photographs, masks of 8
rows are as good refined as not, of 12 better, and of 6 and less next to nothing may be left."""
SHORT_SIDE_PX = 32
"""What the first look at a picture leaves of its short side, if it can: with 3 to 10 rows of
pictures 5000 and more long it lost up to 30 points of IoU, with 24 none."""


def first_long_side(size: Size, tile_size: int) -> int:
    """Long side of the first magnification: a tile's; of a picture far longer than wide, more.

    As much more as leaves ``SHORT_SIDE_PX`` (an eighth of a tile, if that is less) of the short
    side, with no more pixels than a tile has. It fits the first look where that is its own.
    """
    longest, shortest = max(size), min(size)
    wanted = min(SHORT_SIDE_PX, tile_size // 8, shortest) * longest // shortest
    as_a_tile = int(tile_size * (longest / shortest) ** 0.5)
    return min(max(tile_size, min(wanted, as_a_tile)), longest)


def magnifications(size: Size, first_long_side: int, max_ratio: float) -> list[Size]:
    """Sizes from a first, small one up to the image's own.

    CascadePSP section 3.3 describes the local step as recursive for large images; its released
    code has one level. Each size here is at most ``max_ratio`` times the one before, to the
    pixel, so a tile never has to guess an edge from a map that is coarser than that.

    One step or two are equal. Where two would be too long, steps are counted from the image's own
    size down, ``max_ratio ** 0.8`` each (3.03 for 4), and the first takes what is left: equal ones
    could be as short as 2.5, and the shorter the steps, the more tiles an edge lies in besides
    those at full size. So it is at most 1/3 + 1/9 + ... of these, half as many, in any image.

    Args:
        size: of the image.
        first_long_side: long side of the first size; the image's own if that is smaller.
        max_ratio: above 1.

    Raises:
        InputError: sizes cannot grow by ``max_ratio``.
    """
    if max_ratio <= 1:
        raise InputError(f"the ratio of magnifications must be above 1, not {max_ratio:g}")
    longest = max(size)
    ratio = longest / first_long_side
    if ratio <= 1:
        return [size]
    if ratio <= max_ratio**2:
        steps = 1 if ratio <= max_ratio else 2
        grown = [first_long_side * ratio ** (i / steps) for i in range(steps)]
    else:
        grown = [first_long_side, longest]
        while grown[-1] > max_ratio * first_long_side:
            grown.append(grown[-1] / max_ratio**0.8)
    # Between a few pixels and a few more, steps can fall on the same size.
    sides = {ceil(side) for side in grown} - {longest}
    return [*(fit_size(size, side) for side in sorted(sides)), size]


OBJECT_PX = 160
"""How large an object a network trained on small crops sees best."""
MAX_ENLARGEMENT = 3


def enlargement(size: Size, object_box: Box, tile_size: int) -> int:
    """By what whole number to enlarge an image, so that objects are not too small.

    Small objects are enlarged towards ``OBJECT_PX``, as long as the image has no more pixels than a
    tile then; an image that fits no tile stays as it is.

    Args:
        size: of the image.
        object_box: around the object; the root of its area is how large it is.
        tile_size: in pixels.

    Returns:
        1 to ``MAX_ENLARGEMENT``.
    """

    def fits(factor: int) -> bool:
        pixels = size.height * size.width * factor**2
        return pixels <= tile_size**2 and factor * max(size) <= 1.5 * tile_size

    object_px = sqrt(object_box.height * object_box.width)
    factor = min(max(round(OBJECT_PX / max(object_px, 1)), 1), MAX_ENLARGEMENT)
    while factor > 1 and not fits(factor):
        factor -= 1
    return factor
