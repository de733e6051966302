r"""Prepare the training data of ``cascadepsp-lite``: decode, filter, shrink, split, one cache.

Sources, and where to get them:

* cut-outs: Debian package ``tuxpaint-stamps-default`` (GPL-2), ``usr/share/tuxpaint/stamps``;
* backgrounds: Debian packages ``mate-backgrounds``, ``plasma-workspace-wallpapers``,
  ``lomiri-wallpapers-16.04``, ``lomiri-wallpapers-20.04``, ``ukui-wallpapers``
  (``usr/share/backgrounds`` and
  ``usr/share/wallpapers``), ``tuxpaint-data`` (``usr/share/tuxpaint/templates``) and
  ``gcompris-qt-data`` (first unpacked with ``recipes/unpack_qt_resources.py``); free licences,
  see each package's copyright file;
* photographs with masks: any folder that ``crispseg.data.pairs.find_pairs`` reads (MSRA-10K, DUTS,
  ECSSD, FSS-1000, DIS5K, HRSOD, BIG, ...: docs/training-data.md); those whose mask does not follow
  the edges of its image are left out (``edge_fit``). Used: DUTS-TR, ECSSD, the 27 training images
  of alphamatting.com, VikramShenoy97/Human-Segmentation-Dataset; for the fourth stage also
  arianzahir/BG: ``Dataset 1`` as ``images/``, the alpha of ``Dataset 2(removed)`` as ``masks/``
  (its ``dataset/masks`` are one to three pixels too wide), in a folder called ``bg``;
* video: DAVIS 2016 frames in ``images/`` with ``masks/``, named SEQUENCE_FRAME;
* objects of street scenes: CamVid's ``images/`` with ``labels/`` (480x360, 11 classes and void);
* objects of any other label maps: ``--labels FOLDER --classes 1,2,5 --void 11``, for folders that
  ``crispseg.data.pairs.find_labelled`` reads; the classes are those of all folders given.

Example (half a minute, 0.8 GB written)::

    apt-get download tuxpaint-stamps-default mate-backgrounds plasma-workspace-wallpapers \
        lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 tuxpaint-data gcompris-qt-data
    for p in *.deb; do dpkg -x "$p" unpacked; done
    python recipes/unpack_qt_resources.py unpacked/usr/share/gcompris-qt/rcc gcompris-photos
    python recipes/prepare_lite_data.py --stamps unpacked/usr/share/tuxpaint/stamps \
        --backgrounds unpacked/usr/share/backgrounds unpacked/usr/share/wallpapers \
            unpacked/usr/share/tuxpaint/templates gcompris-photos \
        --pairs DUTS-TR ecssd --frames davis --camvid camvid/train --out train-data

For the fourth stage the same with ``--pairs DUTS-TR ecssd bg --min-edge-fit 0.68`` and
``--out .data/lite-accurate``, for the sixth also with ``--context 160`` and
``--out .data/lite-wide``.

The first byte of the SHA-256 of an item's file name decides its split (``is_test``).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crispseg.data.cache import CacheWriter
from crispseg.data.compose import bleed_colours
from crispseg.data.objects import fill_void, objects_of
from crispseg.data.pairs import find_labelled, find_pairs, is_test, names_of, sequence_of
from crispseg.io import read_mask
from crispseg.types import InputError, Size

Bytes = NDArray[np.uint8]

LARGEST_CUTOUT = 1000
LARGEST_BACKGROUND = 1600
LARGEST_PAIR = 1400
MIN_EDGE_FIT = 0.55
MIN_OBJECT_AREA = 150
CONTEXT_PX = 48

# building, pole, tree, sign, fence, car, pedestrian, bicyclist
CAMVID_CLASSES, CAMVID_VOID = (1, 2, 5, 6, 7, 8, 9, 10), 11

# Folders and files of the stamp package that the measurements below take for photographs but that
# are drawings, or that have no outline of their own (smoke, a flash); seen on contact sheets.
DRAWN_FOLDERS = {"cartoon", "symbols", "flags", "roadsigns", "easter", "hats", "hanukkah"}
DRAWN_STAMPS = {
    "button.png", "candle.png", "highlighter.png", "explosion.png", "Santa.png",
    "jackolantern_mean.png",
    "bee.png", "echidna.png", "hedgehog.png", "pizza.png", "tooth.png", "lightningbolt.png",
    "eye.png", "candy_cane.png", "tree.png", "inukshuk-outline.png", "moon_crescent.png",
    "1_mercury.png", "t_baseballcap.png", "t_glove.png", "t_jacket.png", "t_pants.png",
    "t_poloshirt.png", "t_scarf.png", "t_shirt.png", "t_sock.png", "t_tshirt.png",
}  # fmt: skip

# Folders and files that are drawings, paintings, renderings or nearly empty; the rest are photos.
DRAWN_BACKGROUNDS = {
    "gnome", "abstract", "desktop", "Altai", "Canopee", "Cascade", "Cluster", "Elarun", "Flow",
    "FlyingKonqui", "Honeywave", "IceCold", "Kay", "Kokkini", "MilkyWay", "Opal", "PastelHills",
    "Patak", "SafeLanding",  # mate-backgrounds, plasma-workspace-wallpapers
    "Fossa_by_Jasper_Roks.jpg", "Infinite-Sea_by_Aury88.jpg",
    "Painting-Colors_by__herobrine7gamer.jpg", "umang_by_Abhishek_Mudgal.jpg",
    "lomiri-default-background.png", "warty-final-ubuntu.png",  # lomiri-wallpapers
    "babyshapes", "categorization", "chronos", "core", "digital_electricity", "gravity", "hangman",
    "lang", "leftright", "louis-braille", "memory-sound", "paintings", "solar_system",
    "Eglise_dAuvers-sur-Oise_background.webp", "Gogh4_background.webp",
    "PortraitOfPereTanguy_background.webp", "Van_Gogh_The_Night_Cafe_background.webp",
    "VincentVanGogh0012_background.webp", "VincentVanGogh0013_background.webp",
    "VincentVanGogh0019_background.webp", "VincentVanGoghBridge_background.webp",  # gcompris
}  # fmt: skip
SMALLEST_BACKGROUND = 350


def main() -> None:
    """Parse the command line and write the cache."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stamps", type=Path, help="folder of PNGs with alpha")
    parser.add_argument("--backgrounds", type=Path, nargs="*", default=[], help="photographs")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="photos with masks")
    parser.add_argument(
        "--min-edge-fit",
        type=float,
        default=MIN_EDGE_FIT,
        help=f"pairs whose masks follow their images less are left out (default {MIN_EDGE_FIT})",
    )
    parser.add_argument("--frames", type=Path, nargs="*", default=[], help="video with masks")
    parser.add_argument("--camvid", type=Path, help="folder of images/ and labels/")
    parser.add_argument(
        "--context", type=int, default=CONTEXT_PX, help="px kept around labelled objects"
    )
    parser.add_argument("--labels", type=Path, nargs="*", default=[], help="photos, label maps")
    parser.add_argument("--classes", type=class_numbers, help="of --labels, such as 1,2,5")
    parser.add_argument("--void", type=int, help="label of no class in --labels")
    parser.add_argument("--out", type=Path, required=True, help="where the cache is written")
    options = parser.parse_args()
    if options.labels and not options.classes:
        parser.error("--labels needs --classes: which labels are objects")
    counts: Counter[str] = Counter()
    with CacheWriter(options.out) as writer:
        if options.stamps:
            counts.update(add_cutouts(writer, options.stamps))
        for folder in options.backgrounds:
            counts.update(add_backgrounds(writer, folder))
        for folder in options.pairs:
            counts.update(add_pairs(writer, folder, min_edge_fit=options.min_edge_fit))
        for folder in options.frames:
            counts.update(add_pairs(writer, folder, sequences=True))
        if options.camvid:
            counts.update(add_camvid(writer, options.camvid, options.context))
        for folder in options.labels:
            counts.update(
                add_labelled(writer, folder, options.classes, options.void, options.context)
            )
    for what, number in sorted(counts.items()):
        print(f"{number:5d} {what}")


def class_numbers(text: str) -> tuple[int, ...]:
    """``1,2,5`` -> (1, 2, 5)."""
    return tuple(int(number) for number in text.split(","))


def add_cutouts(writer: CacheWriter, folder: Path) -> Counter[str]:
    """Add the photographic PNGs with alpha below ``folder``; returns how many of each split."""
    counts: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.png")):
        if DRAWN_FOLDERS & set(path.parts) or path.name in DRAWN_STAMPS:
            continue
        with Image.open(path) as image:
            if "A" not in image.getbands() and "transparency" not in image.info:
                continue
            rgba = np.array(image.convert("RGBA"))
        if not is_photographic(rgba):
            counts["cut-outs left out as drawn, tiny or translucent"] += 1
            continue
        rgba = shrink(trim(bleed_colours(rgba)), LARGEST_CUTOUT)
        split = "test" if is_test(path.name) else "train"
        writer.add("cutout", path.name, rgba, group=path.name, split=split)
        counts[f"cut-outs, {split}"] += 1
    return counts


def is_photographic(rgba: Bytes) -> bool:
    """Whether a cut-out is a photograph with a clean opaque inside and not a drawing.

    Drawings have few colours and large areas without any texture at all.
    """
    alpha = rgba[..., 3]
    opaque = alpha >= 250
    inside = cv2.erode(opaque.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    if opaque.sum() < 1500 or not inside.any() or opaque.sum() < 0.5 * (alpha > 8).sum():
        return False
    coarse_colours = (rgba[..., :3][opaque].astype(np.int64) // 4) @ np.array([1, 64, 4096])
    variety = len(np.unique(coarse_colours)) / min(len(coarse_colours), 20_000)
    grey = cv2.cvtColor(rgba[..., :3], cv2.COLOR_RGB2GRAY).astype(np.float32)
    flat = float((cv2.Laplacian(grey, cv2.CV_32F)[inside] == 0).mean())
    return variety > 0.01 and flat < 0.6


def trim(rgba: Bytes) -> Bytes:
    """Cut away the empty margin but for two transparent pixels."""
    y, x, height, width = _bounds(rgba[..., 3] > 8)
    padded = np.pad(rgba, ((2, 2), (2, 2), (0, 0)), mode="edge")
    padded[[0, 1, -2, -1], :, 3] = 0
    padded[:, [0, 1, -2, -1], 3] = 0
    return padded[y : y + height + 4, x : x + width + 4]


def _bounds(mask: NDArray[Any]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def shrink(pixels: Bytes, largest: int) -> Bytes:
    """Resize so that the longer side is at most ``largest``."""
    scale = largest / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def add_backgrounds(writer: CacheWriter, folder: Path) -> Counter[str]:
    """Add one file of every photograph below ``folder``; returns how many of each split."""
    counts: Counter[str] = Counter()
    for path, title in one_of_each(folder):
        with Image.open(path) as image:
            if image.mode in ("RGBA", "LA", "P") or min(image.size) < SMALLEST_BACKGROUND:
                continue  # a picture with alpha, or an icon
            image.draft("RGB", (LARGEST_BACKGROUND, LARGEST_BACKGROUND))  # quick JPEG decoding
            pixels = shrink(np.array(image.convert("RGB")), LARGEST_BACKGROUND)
        # many themes call their files by the size alone, so the theme's name counts as well
        split = "test" if is_test(path.name) or is_test(title) else "train"
        writer.add("background", path.name, pixels, group=title, split=split)
        counts[f"backgrounds, {split}"] += 1
        print(f"background {split:5s} {title} ({path.name}, {pixels.shape[1]}x{pixels.shape[0]})")
    return counts


def one_of_each(folder: Path) -> list[tuple[Path, str]]:
    """One (file, title) of each photograph: wallpaper themes hold the same one in many sizes."""
    best: dict[str, tuple[Path, str]] = {}
    for path in sorted(folder.rglob("*")):
        drawn = DRAWN_BACKGROUNDS & set(path.parts)
        if drawn or path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
            continue
        if path.stem == "screenshot" or path.is_symlink():
            continue
        themed = path.parts[-3:-1] == ("contents", "images")
        title, key = (path.parts[-4], path.parts[-4]) if themed else (path.name, str(path))
        if key not in best or path.stat().st_size > best[key][0].stat().st_size:
            best[key] = path, title
    return [best[key] for key in sorted(best)]


def add_pairs(
    writer: CacheWriter,
    folder: Path,
    *,
    sequences: bool = False,
    min_edge_fit: float = 0.0,
) -> Counter[str]:
    """Add the images with masks of ``folder``, shrunk; returns how many of each split.

    Args:
        writer: the cache.
        folder: what ``find_pairs`` reads.
        sequences: frames of videos, of which each whole sequence lies in one split.
        min_edge_fit: pairs with a lower ``edge_fit`` are left out.
    """
    counts: Counter[str] = Counter()
    pairs = find_pairs(folder)
    for pair, name in zip(pairs, names_of(pairs), strict=True):
        with Image.open(pair.image) as image:
            rgb = np.array(image.convert("RGB"))
        truth = np.rint(read_mask(pair.mask) * 255).astype(np.uint8)
        if truth.shape != rgb.shape[:2] or edge_fit(rgb, truth) < min_edge_fit:
            counts[f"pairs of {folder.name} left out: unequal sizes or loose edges"] += 1
            continue
        group = sequence_of(pair.image) if sequences else name
        split = "test" if is_test(group) else "train"
        pixels = shrink(np.dstack([rgb, truth]), LARGEST_PAIR)
        writer.add("pair", name, pixels, group=group, split=split, source=folder.name)
        counts[f"pairs of {folder.name}, {split}"] += 1
    return counts


def edge_fit(rgb: Bytes, mask: Bytes, reach: int = 6) -> float:
    """Share of a mask's edge that lies within a pixel of the image's strongest edge nearby.

    Along the normal of every edge pixel the steepest step of any colour within ``reach`` pixels is
    looked for. Careful annotations reach 0.6 to 0.9, polygons drawn by hand 0.3 to 0.5.

    Args:
        rgb: (H, W, 3).
        mask: (H, W), 0..255.
        reach: in pixels.

    Returns:
        In [0, 1]; 0 for masks with hardly any edge away from the border.
    """
    solid = (mask > 127).astype(np.uint8)
    inner = solid - cv2.erode(solid, np.ones((3, 3), np.uint8), borderValue=1)
    margin = reach + 2
    y, x = np.nonzero(inner[margin:-margin, margin:-margin])
    if len(y) < 20:
        return 0.0
    y, x = y + margin, x + margin
    soft = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), 2)
    down, right = cv2.Sobel(soft, cv2.CV_32F, 0, 1)[y, x], cv2.Sobel(soft, cv2.CV_32F, 1, 0)[y, x]
    length = np.hypot(down, right) + 1e-6
    offsets = np.arange(-reach - 1, reach + 2, dtype=np.float32)
    # outwards from half a pixel beyond the last pixel inside, where the edge is
    rows = y[:, None] - (down / length)[:, None] * (offsets + 0.5)
    columns = x[:, None] - (right / length)[:, None] * (offsets + 0.5)
    smooth = cv2.GaussianBlur(rgb, (0, 0), 0.8).astype(np.float32)
    profile = cv2.remap(
        smooth, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR
    )
    steps = np.abs(profile[:, 2:] - profile[:, :-2]).max(axis=2)
    steepest = offsets[1:-1][steps.argmax(axis=1)]
    return float((np.abs(steepest) <= 1).mean())


def add_camvid(writer: CacheWriter, folder: Path, context: int = CONTEXT_PX) -> Counter[str]:
    """Add CamVid's objects; all of ``folder`` is for training, as its validation lies elsewhere."""
    return add_labelled(
        writer, folder, CAMVID_CLASSES, CAMVID_VOID, context, source="camvid", all_train=True
    )


def add_labelled(
    writer: CacheWriter,
    folder: Path,
    classes: Sequence[int],
    void: int | None,
    context: int = CONTEXT_PX,
    *,
    source: str = "",
    all_train: bool = False,
) -> Counter[str]:
    """Add a crop around each sizeable object of label maps; returns how many of each split.

    Args:
        writer: the cache.
        folder: what ``find_labelled`` reads; label maps are 8-bit, grey or with a palette.
        classes: the labels whose connected components are objects.
        void: the label of no class; thin lines of it are filled from both sides.
        context: pixels around an object that are kept, at least.
        source: the data set's name in the cache; the folder's if empty.
        all_train: for training whatever the images' names say.
    """
    source = source or folder.name
    counts: Counter[str] = Counter()
    for path, label_path in find_labelled(folder):
        with Image.open(path) as image, Image.open(label_path) as label:
            rgb, labels = np.array(image.convert("RGB")), np.array(label)
        if labels.shape != rgb.shape[:2] or labels.dtype != np.uint8:
            raise InputError(
                f"{label_path} is {labels.shape} {labels.dtype}; expected one byte a pixel at the "
                f"size of its image, {rgb.shape[:2]}"
            )
        if void is not None:
            labels = fill_void(labels, void, reach=2)
        split = "test" if is_test(path.name) and not all_train else "train"
        for number, thing in enumerate(objects_of(labels, classes, min_area=MIN_OBJECT_AREA)):
            size = Size(*labels.shape)
            window = thing.box.grow(max(context, max(thing.box.size) // 4)).clip(size).slices
            pixels = np.dstack([rgb[window], thing.mask[window].astype(np.uint8) * 255])
            name = f"{path.stem}-{number}.png"
            writer.add("pair", name, pixels, group=path.stem, split=split, source=source)
            counts[f"objects of {source}, {split}"] += 1
    return counts


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
