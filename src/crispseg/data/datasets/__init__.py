"""Data sets of labelled images, one module each; add a line here to add one."""

from __future__ import annotations

from pathlib import Path

from crispseg.data.datasets import (
    ade20k,
    big,
    camvid,
    cityscapes,
    deepglobe,
    dis5k,
    dut_omron,
    duts,
    ecssd,
    folder,
    fss1000,
    gleason,
    hrsod,
    msra10k,
    nyudv2,
    pascal_context,
    person_part,
    sunrgbd,
    voc2012,
    voc_relabelled,
)
from crispseg.data.datasets.base import Dataset, DatasetSpec, Labelled
from crispseg.types import InputError

__all__ = ["DATASETS", "Dataset", "DatasetSpec", "Labelled", "open_dataset"]

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        voc2012.SPEC,
        voc_relabelled.SPEC,
        pascal_context.SPEC,
        person_part.SPEC,
        ade20k.SPEC,
        ade20k.FULL,
        cityscapes.FINE,
        cityscapes.COARSE,
        nyudv2.SPEC,
        sunrgbd.SPEC,
        camvid.SPEC,
        deepglobe.SPEC,
        gleason.SPEC,
        big.SPEC,
        msra10k.SPEC,
        duts.SPEC,
        dut_omron.SPEC,
        ecssd.SPEC,
        fss1000.SPEC,
        hrsod.SPEC,
        dis5k.SPEC,
        folder.SPEC,
    )
}


def open_dataset(name: str, root: str | Path, split: str) -> Dataset:
    """A split of a data set that lies under ``root``.

    Raises:
        InputError: unknown name or split, or a root that does not look as it must.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name].open(Path(root), split)
