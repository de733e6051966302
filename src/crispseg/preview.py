"""A sheet that shows what refinement changed. NumPy and Pillow only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from crispseg.types import Image, Mask

Pixels = NDArray[np.uint8]
Flags = NDArray[np.bool_]

PANEL_PX = 780  # long side of each panel: three of them make a sheet of about 2400 px
ZOOM = 4
GAP_PX, CAPTION_PX = 12, 34
PAPER, INK = (255, 255, 255), (30, 30, 30)
# The outline, and two colours that colour-blind people tell apart.
OBJECT = (255, 176, 0)
ADDED, REMOVED = (0, 114, 178), (213, 94, 0)


def render_preview(image: Image, before: Mask, after: Mask) -> Pixels:
    """Input mask, refined mask and changed pixels side by side, and 4x the busiest place below.

    Args:
        image: (H, W, 3) RGB, uint8 or uint16.
        before: (H, W) float32 in [0, 1], the given mask.
        after: (H, W) float32 in [0, 1], the refined mask.

    Returns:
        (h, w, 3) uint8, at most about 2400 pixels wide.
    """
    photo = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    old, new = before > 0.5, after > 0.5
    added, removed = new & ~old, old & ~new
    layers: tuple[NDArray[Any], ...] = (photo, before, after, added, removed)
    side = min(PANEL_PX // ZOOM, max(photo.shape[:2]))
    y, x = busiest_place(before, after, side)
    window = (slice(y, y + side), slice(x, x + side))
    # Scaled first and drawn then: outlines and colours stay visible however large the photo is.
    rows = [
        _panels(*(_fitted(layer) for layer in layers)),
        [_enlarged(panel) for panel in _panels(*(layer[window] for layer in layers))],
    ]
    changed = int(added.sum() + removed.sum())
    captions = [
        ["given mask", "refined mask", f"{changed:,} pixels changed"],
        [f"{ZOOM}x at row {y}, column {x}", f"{ZOOM}x", "blue: added   orange: removed"],
    ]
    return _sheet(rows, captions)


def busiest_place(before: Mask, after: Mask, side: int) -> tuple[int, int]:
    """Top left corner of the window of ``side`` pixels with the largest sum of changes."""
    height, width = min(side, before.shape[0]), min(side, before.shape[1])
    columns = np.zeros(before.shape[1])  # sums of the last ``height`` rows: a strip, not a table
    largest, place = -1.0, (0, 0)
    for y in range(before.shape[0]):
        columns += np.abs(after[y] - before[y])
        if y >= height:
            columns -= np.abs(after[y - height] - before[y - height])
        if y >= height - 1:
            table = np.concatenate(([0.0], columns.cumsum()))
            sums = table[width:] - table[:-width]
            x = int(sums.argmax())
            if sums[x] > largest:
                largest, place = float(sums[x]), (y - height + 1, x)
    return place


def _panels(photo: Pixels, before: Mask, after: Mask, added: Flags, removed: Flags) -> list[Pixels]:
    grey = photo.mean(axis=2, keepdims=True).astype(np.uint8).repeat(3, axis=2)
    changes = (grey // 2 + 96).astype(np.uint8)
    changes[added] = ADDED
    changes[removed] = REMOVED
    return [_tinted(photo, before), _tinted(photo, after), changes]


def _tinted(photo: Pixels, mask: Mask) -> Pixels:
    """The object as it is, the rest pale, with an outline."""
    weight = mask[:, :, None]
    pale = photo * np.float32(0.35) + np.float32(255 * 0.65)
    mixed = (photo * weight + pale * (1 - weight)).astype(np.uint8)
    solid = mask > 0.5
    edge = np.zeros(mask.shape, bool)
    edge[1:] |= solid[1:] != solid[:-1]
    edge[:, 1:] |= solid[:, 1:] != solid[:, :-1]
    mixed[edge] = OBJECT
    return mixed


def _fitted(layer: NDArray[Any]) -> NDArray[Any]:
    """``layer`` at the size of a panel; flags are set wherever one of their pixels is."""
    flags = layer.dtype == np.bool_
    picture = PilImage.fromarray(layer.astype(np.float32) if flags else layer)
    factor = PANEL_PX / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    way = PilImage.Resampling.BOX if factor < 1 or flags else PilImage.Resampling.BILINEAR
    scaled = np.asarray(picture.resize(size, way))
    return scaled > 0 if flags else scaled


def _enlarged(panel: Pixels) -> Pixels:
    return panel.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)


def _sheet(panels: list[list[Pixels]], captions: list[list[str]]) -> Pixels:
    rows = [[PilImage.fromarray(panel) for panel in row] for row in panels]
    cell = max(320, *(picture.width for row in rows for picture in row)) + GAP_PX
    heights = [max(picture.height for picture in row) + CAPTION_PX + GAP_PX for row in rows]
    sheet = PilImage.new("RGB", (3 * cell + GAP_PX, sum(heights) + GAP_PX), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    y = GAP_PX
    for row, texts, height in zip(rows, captions, heights, strict=True):
        for i, (picture, text) in enumerate(zip(row, texts, strict=True)):
            x = GAP_PX + i * cell
            draw.text((x, y), text, INK, font)
            sheet.paste(picture, (x, y + CAPTION_PX))
        y += height
    return np.asarray(sheet)
