"""One object a photo: masks as label maps of background and object, in layouts of data/pairs.py."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from crispseg.data.datasets.base import Dataset, DatasetSpec, Labelled, check_split, wrong_tree
from crispseg.data.pairs import find_pairs, names_of
from crispseg.io.image import read_image
from crispseg.io.labels import Labels
from crispseg.io.mask import read_mask
from crispseg.types import InputError

CLASSES = ("background", "object")
COLOURS = ((0, 0, 0), (255, 255, 255))


def object_spec(
    *,
    name: str,
    title: str,
    folders: Mapping[str, str],
    licence: str,
    where: str,
    tree: str,
    images: Mapping[str, str] | None = None,
) -> DatasetSpec:
    """A data set of masks in one of the layouts of ``data/pairs.py``.

    Args:
        name: as ``DatasetSpec`` has it, like the others that are not here.
        title: for people.
        folders: split -> folder under the root; "" for the root itself.
        licence: in a few words.
        where: to get it.
        tree: folders and files.
        images: split -> name of the folder of its photos, where splits lie side by side.
    """

    def open_split(root: Path, split: str) -> Dataset:
        check_split(spec, split)
        only = images[split] if images else None
        return _open(spec, root, folders[split], only)

    spec = DatasetSpec(name, title, tuple(folders), licence, where, tree, open_split)
    return spec


def _open(spec: DatasetSpec, root: Path, within: str, only: str | None) -> Dataset:
    folder = root / within
    if not folder.is_dir():
        raise wrong_tree(spec, root, within or "such folder")
    try:
        pairs = find_pairs(folder)
    except InputError:
        raise wrong_tree(spec, root, f"image with a mask in {folder}") from None
    if only:
        pairs = [pair for pair in pairs if pair.image.parent.name == only]
        if not pairs:
            raise wrong_tree(spec, root, only)
    items = []
    for name, pair in zip(names_of(pairs), pairs, strict=True):
        stem = name.rpartition(".")[0].removesuffix("_im")
        items.append(
            Labelled(
                stem,
                partial(read_image, pair.image),
                partial(read_object, pair.mask),
                image=pair.image,
            )
        )
    return Dataset(spec.name, CLASSES, COLOURS, items)


def read_object(path: Path) -> Labels:
    """A mask as (H, W) uint8 label map: 1 where it is above one half."""
    return (read_mask(path) > 0.5).astype(np.uint8)
