"""Data sets of labelled images, one module each; add a line here to add one."""

from __future__ import annotations

from pathlib import Path

from crispseg.data.datasets import camvid, folder
from crispseg.data.datasets.base import Dataset, DatasetSpec, Labelled
from crispseg.types import InputError

__all__ = ["DATASETS", "Dataset", "DatasetSpec", "Labelled", "open_dataset"]

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in (camvid.SPEC, folder.SPEC)}


def open_dataset(name: str, root: str | Path, split: str) -> Dataset:
    """A split of a data set that lies under ``root``.

    Raises:
        InputError: unknown name or split, or a root that does not look as it must.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name].open(Path(root), split)
