"""Sheets that show what refinement changed, and whether it was right. NumPy and Pillow only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from crispseg.types import Image, Mask

Pixels = NDArray[np.uint8]
Flags = NDArray[np.bool_]

PANEL_PX = 780  # long side of each panel: three of them make a sheet of about 2400 px
COMPARED_PX = 580  # the same for four of them
ZOOM = 4
GAP_PX, CAPTION_PX, HEADING_PX = 12, 34, 66
PAPER, INK = (255, 255, 255), (30, 30, 30)
# The outline, and two colours that colour-blind people tell apart.
OBJECT = (255, 176, 0)
ADDED, REMOVED = (0, 114, 178), (213, 94, 0)
LEFT_WRONG = (0, 0, 0)
OVERLAY_PX = 2400
ENTRY_PX, MOST_ENTRIES = 300, 60  # width of an entry of a legend


@dataclass(frozen=True)
class Comparison:
    """One image with its truth, for ``render_comparisons``.

    Attributes:
        title: a line above its pictures.
        image: (H, W, 3) RGB, uint8 or uint16.
        before: (H, W) float32 in [0, 1], the given mask.
        after: (H, W) float32 in [0, 1], the refined mask.
        truth: (H, W) float32 in [0, 1], the true mask.
    """

    title: str
    image: Image
    before: Mask
    after: Mask
    truth: Mask


def render_preview(image: Image, before: Mask, after: Mask) -> Pixels:
    """Input mask, refined mask and changed pixels side by side, and 4x the busiest place below.

    Args:
        image: (H, W, 3) RGB, uint8 or uint16.
        before: (H, W) float32 in [0, 1], the given mask.
        after: (H, W) float32 in [0, 1], the refined mask.

    Returns:
        (h, w, 3) uint8, at most about 2400 pixels wide.
    """
    photo = _eight_bit(image)
    old, new = before > 0.5, after > 0.5
    added, removed = new & ~old, old & ~new
    layers: tuple[NDArray[Any], ...] = (photo, before, after, added, removed)
    side = min(PANEL_PX // ZOOM, max(photo.shape[:2]))
    y, x = busiest_place(before, after, side)
    window = (slice(y, y + side), slice(x, x + side))
    # Scaled first and drawn then: outlines and colours stay visible however large the photo is.
    rows = [
        _panels(*(_fitted(layer, PANEL_PX) for layer in layers)),
        [_enlarged(panel) for panel in _panels(*(layer[window] for layer in layers))],
    ]
    changed = int(added.sum() + removed.sum())
    captions = [
        ["given mask", "refined mask", f"{changed:,} pixels changed"],
        [f"{ZOOM}x at row {y}, column {x}", f"{ZOOM}x", "blue: added   orange: removed"],
    ]
    return _sheet(rows, captions)


def render_comparisons(comparisons: Iterable[Comparison]) -> Pixels:
    """For each image: input mask, refined mask, truth and what came right or wrong, also enlarged.

    Returns:
        (h, w, 3) uint8, at most about 2400 pixels wide.
    """
    rows: list[list[Pixels]] = []
    captions: list[list[str]] = []
    for one in comparisons:  # one at a time: they may be read only now
        panels, texts = _compared(one)
        rows += [[], *panels]
        captions += [[one.title], *texts]
    return _sheet(rows, captions)


def _compared(one: Comparison) -> tuple[list[list[Pixels]], list[list[str]]]:
    photo = _eight_bit(one.image)
    wrong_before, wrong_after = ((m > 0.5) != (one.truth > 0.5) for m in (one.before, one.after))
    flags = (
        wrong_before & wrong_after,
        wrong_before & ~wrong_after,
        wrong_after & ~wrong_before,
    )
    layers: tuple[NDArray[Any], ...] = (photo, one.before, one.after, one.truth, *flags)
    side = min(COMPARED_PX // ZOOM, max(photo.shape[:2]))
    changed = bool((flags[1] | flags[2]).any())
    y, x = busiest_place(one.before if changed else one.truth, one.after, side)
    window = (slice(y, y + side), slice(x, x + side))
    panels = [
        _judged(*(_fitted(layer, COMPARED_PX) for layer in layers)),
        [_enlarged(panel) for panel in _judged(*(layer[window] for layer in layers))],
    ]
    legend = "blue: put right   orange: made wrong   black: left wrong"
    texts = [
        ["given mask", "refined mask", "true mask", legend],
        [f"{ZOOM}x at row {y}, column {x}", "", "", ""],
    ]
    return panels, texts


def render_overlay(
    image: Image,
    labels: NDArray[Any],
    class_names: Sequence[str],
    colours: Sequence[tuple[int, int, int]] = (),
) -> Pixels:
    """A photo in the colours of its classes, with a legend of those that are there.

    Args:
        image: (H, W, 3) RGB, uint8 or uint16.
        labels: (H, W) class numbers.
        class_names: of class 0, 1, ...
        colours: RGB of each class; made up where there are none.

    Returns:
        (h, w, 3) uint8, the photo at most OVERLAY_PX on its long side and the legend below.
    """
    counts = np.bincount(labels.ravel(), minlength=len(class_names))
    table = np.array(colours or distinct_colours(len(class_names)), np.uint8)
    factor = min(1.0, OVERLAY_PX / max(labels.shape))
    size = [max(1, round(side * factor)) for side in labels.shape]
    rows, columns = (np.arange(n) * full // n for n, full in zip(size, labels.shape, strict=True))
    photo = _eight_bit(image)
    photo = _fitted(photo, max(size)) if factor < 1 else photo
    shown = labels[np.ix_(rows, columns)]
    mixed: Pixels = photo // 2 + table[shown] // 2
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    entries = [
        (
            table[i],
            f"{' '.join(class_names[i].split())[:30]}  {100 * counts[i] / labels.size:.1f} %",
        )
        for i in order[:MOST_ENTRIES]
    ]
    return _with_legend(mixed, entries, more=len(order) - len(entries))


def distinct_colours(count: int) -> list[tuple[int, int, int]]:
    """Colours by the bits of 1, 2, ...: the scheme of PASCAL VOC's palette (VOC devkit)."""

    def channel(number: int, first: int) -> int:
        return sum((number >> (3 * bit + first) & 1) << (7 - bit) for bit in range(8))

    return [(channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(1, count + 1)]


def _with_legend(picture: Pixels, entries: list[tuple[Pixels, str]], *, more: int) -> Pixels:
    width = max(ENTRY_PX + GAP_PX, picture.shape[1])
    columns = max(1, (width - GAP_PX) // ENTRY_PX)
    texts = [*entries, *([(np.array(PAPER, np.uint8), f"and {more} more")] if more else [])]
    height = picture.shape[0] + GAP_PX + -(-len(texts) // columns) * CAPTION_PX
    sheet = PilImage.new("RGB", (width, height), PAPER)
    sheet.paste(PilImage.fromarray(picture), (0, 0))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for i, (colour, text) in enumerate(texts):
        x = GAP_PX + i % columns * ENTRY_PX
        y = picture.shape[0] + GAP_PX + i // columns * CAPTION_PX
        draw.rectangle((x, y, x + 20, y + 20), tuple(map(int, colour)), INK)
        draw.text((x + 30, y), text, INK, font)
    return np.asarray(sheet)


@dataclass(frozen=True)
class StagePicture:
    """One stage of a progressive segmentation, for ``render_stages``; all at one size.

    Attributes:
        title: a few words.
        points: (H, W) bool, what it replaced.
        labels: (H, W) class numbers after it.
        wrong: (H, W) bool, where that is not the truth.
    """

    title: str
    points: Flags
    labels: NDArray[Any]
    wrong: Flags


def render_stages(
    image: Image, stages: Iterable[StagePicture], colours: Sequence[tuple[int, int, int]]
) -> Pixels:
    """Points, output and errors of every stage, one below the other (MagNet's figure 5).

    Args:
        image: (H, W, 3) RGB, uint8 or uint16.
        stages: from the first to the last.
        colours: RGB of each class.

    Returns:
        (h, w, 3) uint8, at most about 2400 pixels wide.
    """
    faint = _faint(_eight_bit(image))
    palette = np.zeros((65536, 3), np.uint8)
    palette[: len(colours)] = np.asarray(colours, np.uint8)
    rows: list[list[Pixels]] = []
    captions: list[list[str]] = []
    for stage in stages:
        points, errors = (_fitted(faint, PANEL_PX).copy() for _ in range(2))
        points[_fitted(stage.points, PANEL_PX)] = ADDED
        errors[_fitted(stage.wrong, PANEL_PX)] = REMOVED
        rows.append([points, _fitted(palette[stage.labels], PANEL_PX), errors])
        share = 100 * stage.wrong.mean()
        count = f"{int(stage.points.sum()):,} points replaced"
        captions.append([f"{stage.title}: {count}", "output", f"errors: {share:.2f} % of pixels"])
    return _sheet(rows, captions)


CURVES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (90, 90, 90))


def render_distribution(scores: Mapping[str, Sequence[float]]) -> Pixels:
    """Share of the images whose score is at most so much (MagNet's figure 6a); right is better.

    Args:
        scores: for each method its score of every image, in [0, 1].

    Returns:
        (560, 900, 3) uint8.
    """
    left, top, width, height = 70, 30, 560, 450
    sheet = PilImage.new("RGB", (900, 560), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for step in range(6):
        x, y = left + width * step // 5, top + height * step // 5
        draw.line([(x, top), (x, top + height)], (225, 225, 225))
        draw.line([(left, y), (left + width, y)], (225, 225, 225))
        draw.text((x - 10, top + height + 8), f"{step / 5:.1f}", INK, font)
        draw.text((left - 40, y - 8), f"{1 - step / 5:.1f}", INK, font)
    draw.text((left + width // 2 - 60, top + height + 32), "IoU of an image", INK, font)
    draw.text((left - 60, 4), "share of images with no more", INK, font)
    for number, (name, values) in enumerate(scores.items()):
        colour, corner = CURVES[number % len(CURVES)], [(left, top + height)]
        for rank, value in enumerate(sorted(values), start=1):
            x = left + round(width * value)
            corner += [(x, corner[-1][1]), (x, top + height - round(height * rank / len(values)))]
        corner.append((left + width, corner[-1][1]))
        draw.line(corner, colour, 3)
        y = top + 24 * number
        draw.line([(left + width + 20, y + 9), (left + width + 50, y + 9)], colour, 3)
        draw.text((left + width + 58, y), name, INK, font)
    return np.asarray(sheet)


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


def _eight_bit(image: Image) -> Pixels:
    photo: Pixels = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    return photo


def _panels(photo: Pixels, before: Mask, after: Mask, added: Flags, removed: Flags) -> list[Pixels]:
    changes = _faint(photo)
    changes[added] = ADDED
    changes[removed] = REMOVED
    return [_tinted(photo, before), _tinted(photo, after), changes]


def _judged(  # _panels against the truth
    photo: Pixels, before: Mask, after: Mask, truth: Mask, left: Flags, right: Flags, wrong: Flags
) -> list[Pixels]:
    changes = _faint(photo)
    changes[left] = LEFT_WRONG
    changes[right] = ADDED
    changes[wrong] = REMOVED
    return [*(_tinted(photo, mask) for mask in (before, after, truth)), changes]


def _faint(photo: Pixels) -> Pixels:
    grey = photo.mean(axis=2, keepdims=True).astype(np.uint8).repeat(3, axis=2)
    faint: Pixels = (grey // 2 + 96).astype(np.uint8)
    return faint


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


def _fitted(layer: NDArray[Any], side: int) -> NDArray[Any]:
    """``layer`` with a long side of ``side``; flags are set wherever one of their pixels is."""
    flags = layer.dtype == np.bool_
    picture = PilImage.fromarray(layer.astype(np.float32) if flags else layer)
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    way = PilImage.Resampling.BOX if factor < 1 or flags else PilImage.Resampling.BILINEAR
    scaled = np.asarray(picture.resize(size, way))
    return scaled > 0 if flags else scaled


def _enlarged(panel: Pixels) -> Pixels:
    return panel.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)


def _sheet(panels: list[list[Pixels]], captions: list[list[str]]) -> Pixels:
    """Rows of panels, each with a caption above; a row without panels is a heading."""
    rows = [[PilImage.fromarray(panel) for panel in row] for row in panels]
    cell = max(320, *(picture.width for row in rows for picture in row)) + GAP_PX
    columns = max(len(row) for row in rows)
    heights = [
        max(picture.height for picture in row) + CAPTION_PX + GAP_PX if row else HEADING_PX
        for row in rows
    ]
    sheet = PilImage.new("RGB", (columns * cell + GAP_PX, sum(heights) + GAP_PX), PAPER)
    draw, font, large = ImageDraw.Draw(sheet), *(ImageFont.load_default(px) for px in (20, 30))
    y = GAP_PX
    for row, texts, height in zip(rows, captions, heights, strict=True):
        for i, text in enumerate(texts):
            at = GAP_PX + i * cell, y
            draw.text(at, text, INK, font) if row else draw.text((at[0], y + 16), text, INK, large)
        for i, picture in enumerate(row):
            sheet.paste(picture, (GAP_PX + i * cell, y + CAPTION_PX))
        y += height
    return np.asarray(sheet)
