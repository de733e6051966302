r"""Add to a training cache what real networks find in its pictures, and composites of their own.

    python recipes/add_found_masks.py .data/lite-wide --out .data/lite-found \
        --deeplab coarse-networks --u2net u2netp.onnx [--composites 700]

Everything of the first cache is copied. Every photograph and frame of the training split then gets
the mask of each network (``recipes/coarse_networks.py``) that finds its object (IoU above 0.5),
unless the network was trained on that very data set, where it errs less than elsewhere. Composites
of the cache's cut-outs and backgrounds, 1024 px, are added as further pictures: there networks err
most. ``found_share`` in a recipe says how often such a mask is trained on.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from coarse_networks import Bytes, Networks, add_network_options, networks_of

from crispseg.data.cache import CacheWriter, Item, PixelCache
from crispseg.data.compose import compose
from crispseg.types import InputError

TRAINED_ON = {"u2net": {"DUTS-TR"}}
SIDE = 1024
LEAST_COVERED, MOST_COVERED = 0.02, 0.9
COMPOSITES = "composites"


def main() -> None:
    """Parse the command line and write the cache."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cache", type=Path, help="what prepare_lite_data.py made")
    parser.add_argument("--out", type=Path, required=True, help="where the new cache is written")
    add_network_options(parser)
    parser.add_argument("--composites", type=int, default=700, help="how many (default 700)")
    parser.add_argument(
        "--not-in", nargs="*", default=["camvid"], help="sources to leave alone (default camvid)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    networks = networks_of(options)
    if not networks:
        parser.error("give one network at least")
    counts = add_found(
        PixelCache(options.cache),
        options.out,
        networks,
        composites=options.composites,
        without=options.not_in,
        seed=options.seed,
    )
    for what, number in sorted(counts.items()):
        print(f"{number:5d} {what}")


def add_found(
    cache: PixelCache,
    out: Path,
    networks: Networks,
    *,
    composites: int = 0,
    without: Collection[str] = (),
    seed: int = 0,
) -> Counter[str]:
    """Write ``cache`` again to ``out`` with composites and masks; returns how many of each."""
    counts: Counter[str] = Counter()
    with CacheWriter(out) as writer:
        for item, pixels in pictures(cache, composites, seed):
            writer.add(
                item.kind, item.name, pixels, group=item.group, split=item.split, source=item.source
            )
            if item.kind != "pair" or item.split != "train" or item.source in without:
                continue
            counts[f"pictures of {item.source}"] += 1
            for name, network in networks.items():
                if item.source in TRAINED_ON.get(name, ()):
                    continue
                found = network.find(np.ascontiguousarray(pixels[..., :3]), pixels[..., 3] > 127)
                if found is not None:
                    mask = found[..., None].astype(np.uint8) * 255
                    writer.add(
                        *("found", item.name, mask),
                        group=item.group,
                        split=item.split,
                        source=item.source,
                    )
                    counts[f"masks of {item.source} by {name}"] += 1
    return counts


def pictures(cache: PixelCache, composites: int, seed: int) -> Iterator[tuple[Item, Bytes]]:
    """All items of a cache with their pixels, then composites."""
    for item in cache.items:
        yield item, cache.pixels(item)
    cutouts = cache.select("cutout", "train")
    backgrounds = cache.select("background", "train")
    if composites and not (cutouts and backgrounds):
        raise InputError(f"{cache.folder} holds no cut-outs and backgrounds to compose")
    for number in range(composites):
        rng = np.random.default_rng((seed, number, 2))
        pixels = composite(cache, cutouts, backgrounds, rng)
        name = f"{number:05d}.png"
        yield replace(cutouts[0], kind="pair", name=name, group=name, source=COMPOSITES), pixels


def composite(
    cache: PixelCache,
    cutouts: tuple[Item, ...],
    backgrounds: tuple[Item, ...],
    rng: np.random.Generator,
) -> Bytes:
    """(SIDE, SIDE, 4) RGB and truth, the object over 2 to 90 % of it."""
    background = cache.pixels(backgrounds[int(rng.integers(len(backgrounds)))])
    while True:
        target, other = (cache.pixels(cutouts[int(k)]) for k in rng.integers(len(cutouts), size=2))
        others = [other] if rng.random() < 0.4 else []
        image, alpha = compose(target, background, rng, SIDE, distractors=others)
        if LEAST_COVERED < (alpha > 0.5).mean() < MOST_COVERED:
            return np.dstack([image, np.rint(alpha * 255).astype(np.uint8)])


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
