r"""Make the test sets of ``cascadepsp-lite``, as folders for ``crispseg evaluate``.

    python recipes/make_test_sets.py --out .data/test --stamps ... --backgrounds ... \
        --davis davis --camvid camvid/val [--deeplab coarse-networks] [--saliency isnet.onnx] \
        [--u2net u2netp.onnx]

(sources as in ``recipes/prepare_lite_data.py``, networks as in ``recipes/coarse_networks.py``).
Every set is a folder with ``images/``, ``coarse/`` and ``truth/``; everything depends on file names
and the seed alone. With ``--validation``: what temperature and guard are fitted on, composites of
training objects, the photographs that the test sets leave out, and CamVid's objects of ten other
pictures.

* ``composites``: test objects on test backgrounds, square, 1024 to 3000 px, masks perturbed as the
  paper does until their IoU is 0.8 to 0.95; at full size for half of them, at 700 px and enlarged
  for the others, which gives coarser errors;
* ``photos``: every second photograph of the test split, masks as in training;
  ``photos-deeplab``: those in which DeepLabv3 finds the object;
* ``davis16``: every eighth frame of all sequences, true masks averaged to a sixteenth, enlarged
  bilinearly and binarised;
* ``davis-deeplab``, ``composites-deeplab``: what DeepLabv3 finds in the same frames, and in
  composites at 1024 px, where it finds the object (IoU above 0.5);
* ``davis-saliency``, ``composites-saliency``, ``photos-saliency``: what IS-Net, a network for
  salient objects, finds in the same pictures, seen at 320 px, where it finds the object;
* ``davis-u2net``, ``composites-u2net``, ``photos-u2net``: the same of U2-Net;
* ``camvid``: cars, pedestrians, bicyclists, poles and signs of every fifth validation picture, with
  the errors of networks that training draws too (``degrade_mask``); ``camvid6``: the same objects
  averaged to a sixth, which hardly harms them: here a refiner can only do wrong.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from coarse_networks import Networks, add_network_options, enlarged, networks_of
from numpy.typing import NDArray
from PIL import Image
from prepare_lite_data import (
    CAMVID_VOID,
    DRAWN_FOLDERS,
    DRAWN_STAMPS,
    SMALLEST_BACKGROUND,
    is_photographic,
    one_of_each,
    trim,
)

from crispseg.data.compose import bleed_colours, compose
from crispseg.data.objects import fill_void, objects_of
from crispseg.data.pairs import find_labelled, find_pairs, is_test
from crispseg.data.perturb import degrade_mask, perturb_mask
from crispseg.data.samples import coarsen
from crispseg.io import read_image, read_mask

Bytes = NDArray[np.uint8]
BoolMask = NDArray[np.bool_]

SMALLEST, LARGEST = 1024, 3000
PERTURBED_AT = 700
CAMVID_OBJECTS = (2, 6, 8, 9, 10)  # pole, sign, car, pedestrian, bicyclist
FRAME_STEP, CAMVID_STEP = 8, 5
CAMVID_VALIDATION = 2, 10  # the third picture and every tenth from there: none of the test set


def main() -> None:
    """Parse the command line and write the folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stamps", type=Path, required=True, help="folder of PNGs with alpha")
    parser.add_argument("--backgrounds", type=Path, nargs="+", required=True, help="photographs")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="photos with masks")
    parser.add_argument("--davis", type=Path, help="folder of images/ and masks/")
    parser.add_argument("--camvid", type=Path, help="folder of images/ and labels/")
    add_network_options(parser)
    parser.add_argument("--count", type=int, default=40, help="composites")
    parser.add_argument("--photos", type=int, default=100, help="photographs")
    parser.add_argument("--validation", action="store_true", help="validation sets instead")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    networks = networks_of(options)
    write_composites(options, networks)
    write_photos(options, networks)
    if not options.validation and options.davis:
        write_davis(options, networks)
    if options.camvid:
        write_camvid(options)


def write_composites(options: argparse.Namespace, networks: Networks) -> None:
    """Objects on backgrounds; for validation those of the training split."""
    wanted = not options.validation
    cutouts = list(cutouts_of(options.stamps, test=wanted))
    backgrounds = [p for f in options.backgrounds for p in backgrounds_of(f, test=wanted)]
    folder = options.out
    for i in range(options.count):
        rng = np.random.default_rng(
            (options.seed, i, 1) if options.validation else (options.seed, i)
        )
        side = round(float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))))
        image, truth = composite(cutouts, backgrounds, rng, side)
        write(folder / "composites", f"{i:03d}", image, perturbed(truth, rng), truth)
        if networks:
            small, truth = composite(cutouts, backgrounds, rng, SMALLEST)
            write_found(networks, folder / "composites", f"{i:03d}", small, truth)


def write_photos(options: argparse.Namespace, networks: Networks) -> None:
    """Photographs of the test split: even ones for testing, odd ones for validation."""
    pairs = [p for folder in options.pairs for p in find_pairs(folder) if is_test(p.image.name)]
    chosen = pairs[int(options.validation) :: 2]
    for k, pair in enumerate(chosen[:: max(len(chosen) // max(options.photos, 1), 1)]):
        if k < options.photos:
            rng = np.random.default_rng((options.seed, k))
            image, truth = read_image(pair.image), read_mask(pair.mask) > 0.5
            if truth.any():
                write(options.out / "photos", f"{k:03d}", image, coarsen(truth, rng), truth)
                write_found(networks, options.out / "photos", f"{k:03d}", image, truth)


def write_davis(options: argparse.Namespace, networks: Networks) -> None:
    """Frames of all sequences, their masks made coarse in two ways."""
    folder = options.out
    for pair in find_pairs(options.davis)[::FRAME_STEP]:
        image = np.array(Image.open(pair.image).convert("RGB"))
        truth = read_mask(pair.mask) > 0.5
        if truth.any():
            write(folder / "davis16", pair.image.stem, image, low_resolution(truth, 16), truth)
            write_found(networks, folder / "davis", pair.image.stem, image, truth)


def write_camvid(options: argparse.Namespace) -> None:
    """Objects of street scenes, their masks made coarse in two ways, for validation in one."""
    first, step = CAMVID_VALIDATION if options.validation else (0, CAMVID_STEP)
    for name, image, truth in camvid_objects(options.camvid, first, step):
        rng = np.random.default_rng((options.seed, zlib.crc32(name.encode())))
        for kind, coarse in (
            ("camvid", degrade_mask(truth, rng)),
            ("camvid6", low_resolution(truth, 6)),
        ):
            if coarse.any() and not (options.validation and kind == "camvid6"):
                write(options.out / kind, name, image, coarse, truth)


def cutouts_of(folder: Path, *, test: bool) -> Iterator[Bytes]:
    """The photographic cut-outs of one split, at full size."""
    for path in sorted(folder.rglob("*.png")):
        if DRAWN_FOLDERS & set(path.parts) or path.name in DRAWN_STAMPS:
            continue
        if is_test(path.name) != test:
            continue
        with Image.open(path) as image:
            if "A" in image.getbands() or "transparency" in image.info:
                rgba = np.array(image.convert("RGBA"))
                if is_photographic(rgba):
                    yield trim(bleed_colours(rgba))


def backgrounds_of(folder: Path, *, test: bool) -> Iterator[Path]:
    """The photographs of one split."""
    for path, title in one_of_each(folder):
        with Image.open(path) as image:
            usable = image.mode not in ("RGBA", "LA", "P") and min(image.size) > SMALLEST_BACKGROUND
        if usable and (is_test(path.name) or is_test(title)) == test:
            yield path


def composite(
    cutouts: list[Bytes], backgrounds: list[Path], rng: np.random.Generator, side: int
) -> tuple[Bytes, BoolMask]:
    """A picture of ``side`` by ``side`` pixels whose object covers 2 to 90 % of it."""
    with Image.open(backgrounds[int(rng.integers(len(backgrounds)))]) as opened:
        background = np.array(opened.convert("RGB"))
    while True:
        target, other = (cutouts[int(k)] for k in rng.integers(len(cutouts), size=2))
        others = [other] if rng.random() < 0.4 else []
        image, alpha = compose(target, background, rng, side, distractors=others)
        truth = alpha > 0.5
        if 0.02 < truth.mean() < 0.9:
            return image, truth


def perturbed(truth: BoolMask, rng: np.random.Generator) -> BoolMask:
    """The paper's perturbation to an IoU of 0.8 to 0.95, at full or at a smaller size."""
    target = rng.uniform(0.8, 0.95)
    if rng.random() < 0.5:
        return perturb_mask(truth, rng, target_iou=target)
    small = cv2.resize(truth.astype(np.float32), (PERTURBED_AT,) * 2, interpolation=cv2.INTER_AREA)
    coarse = perturb_mask(small > 0.5, rng, target_iou=target)
    return enlarged(coarse.astype(np.float32), truth.shape)


def low_resolution(truth: BoolMask, factor: int) -> BoolMask:
    """Averaged over ``factor`` x ``factor`` pixels, enlarged bilinearly, binarised."""
    height, width = truth.shape
    cells = (max(round(width / factor), 1), max(round(height / factor), 1))
    small = cv2.resize(truth.astype(np.float32), cells, interpolation=cv2.INTER_AREA)
    return enlarged(small, truth.shape)


def camvid_objects(
    folder: Path, first: int = 0, step: int = CAMVID_STEP
) -> Iterator[tuple[str, Bytes, BoolMask]]:
    """(name, image, mask) of every sizeable object of every fifth picture, or of others."""
    for path, label_path in find_labelled(folder)[first::step]:
        image = np.array(Image.open(path).convert("RGB"))
        labels = np.array(Image.open(label_path))
        filled = fill_void(labels, CAMVID_VOID, reach=2)
        for number, thing in enumerate(objects_of(filled, CAMVID_OBJECTS, min_area=400)):
            yield f"{path.stem}-{thing.label}-{number}", image, thing.mask


def write_found(networks: Networks, folder: Path, name: str, image: Bytes, truth: BoolMask) -> None:
    """A case in ``folder`` with a suffix for every network that finds the object."""
    for kind, network in networks.items():
        found = network.find(image, truth)
        if found is not None:
            write(folder.with_name(f"{folder.name}-{kind}"), name, image, found, truth)


def write(folder: Path, name: str, image: Bytes, coarse: BoolMask, truth: BoolMask) -> None:
    """One case: the picture as JPEG of quality 95, the masks as PNG."""
    for part, pixels, suffix in (
        ("images", image, "jpg"),
        ("coarse", coarse.astype(np.uint8) * 255, "png"),
        ("truth", truth.astype(np.uint8) * 255, "png"),
    ):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / part / f"{name}.{suffix}", quality=95)


if __name__ == "__main__":
    main()
