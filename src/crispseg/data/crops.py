"""Training samples of a segmentation network: crops of labelled images, without end.

As with the refiner's samples (``data/samples.py``), a sample depends on the seed and its index
alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crispseg.data.datasets.base import VOID, Dataset
from crispseg.data.seeded import SeededSamples
from crispseg.data.transforms import Augmentation, random_crop
from crispseg.io.labels import Labels
from crispseg.types import Image, InputError

IN_MEMORY_BYTES = 1 << 30

Bytes = NDArray[np.uint8]


class LabelledCrop(NamedTuple):
    """One training sample; a batch of them collates to a ``LabelledCrop`` of batched tensors.

    Attributes:
        image: (3, h, w) uint8 RGB, not normalised.
        labels: (h, w) uint8; 255 is void.
    """

    image: Tensor
    labels: Tensor


class LabelledCrops(SeededSamples[LabelledCrop]):
    """Crops 0 .. length-1 of a data set.

    "uniform": every image once an epoch, in an order of the epoch's own, cropped anywhere.
    "balanced" (RefineNet's code, its first stage): a class, each as likely; an image that holds
    it; a crop around one of its pixels.

    Data sets that fit ``IN_MEMORY_BYTES`` are decoded once, now, and shared by the workers.

    Args:
        dataset: the images.
        options: how a crop is cut and varied.
        seed: with the index, decides every sample.
        length: number of samples.
        sampling: see above.
        repeat_classes: names of classes whose images come ``repeat_factor`` times an epoch
            (DeepLabv3's bootstrapping on hard images, section 4.1.3).
        repeat_factor: at least 1.

    Raises:
        InputError: no images, an unknown class to repeat, or classes that need more than 8 bits.
    """

    def __init__(
        self,
        dataset: Dataset,
        options: Augmentation,
        *,
        seed: int = 0,
        length: int = 1_000_000,
        sampling: Literal["uniform", "balanced"] = "uniform",
        repeat_classes: Collection[str] = (),
        repeat_factor: int = 1,
    ) -> None:
        super().__init__(seed, length)
        if not len(dataset):
            raise InputError(f"{dataset.name}: there are no images to train on")
        if dataset.num_classes > VOID:
            raise InputError(f"{dataset.num_classes} classes; training takes {VOID} at most")
        if unknown := set(repeat_classes) - set(dataset.class_names):
            raise InputError(
                f"repeat_classes: {min(unknown)!r} is no class of {dataset.name}; "
                f"known: {', '.join(dataset.class_names)}"
            )
        self._dataset, self._options = dataset, options
        self._kept = _decode_all(dataset)
        self._order = np.arange(len(dataset))
        if repeat_factor > 1 and repeat_classes:
            hard = np.zeros(len(dataset), bool)
            for name in repeat_classes:
                hard[self._holding()[dataset.class_names.index(name)]] = True
            self._order = np.repeat(self._order, np.where(hard, repeat_factor, 1))
        self._by_class: list[tuple[int, NDArray[np.int64]]] = []
        if sampling == "balanced":
            self._by_class = [(c, where) for c, where in enumerate(self._holding()) if len(where)]
        self._epoch = -1, self._order

    def __getitem__(self, index: int) -> LabelledCrop:
        """Sample ``index``; the same whenever and wherever it is asked for."""
        rng = self.draw_of(index)
        number: int | None = None
        if self._by_class:
            number, where = self._by_class[int(rng.integers(len(self._by_class)))]
            which = int(where[int(rng.integers(len(where)))])
        else:
            which = self._of_epoch(index)
        crop = random_crop(*self._pixels(which), self._options, rng, number)
        return LabelledCrop(
            torch.from_numpy(np.ascontiguousarray(crop.image.transpose(2, 0, 1))),
            torch.from_numpy(crop.labels),
        )

    def _of_epoch(self, index: int) -> int:
        epoch, position = divmod(index, len(self._order))
        if self._epoch[0] != epoch:
            # Three numbers: a stream that is no sample's.
            order = np.random.default_rng((self.seed, epoch, 1)).permutation(self._order)
            self._epoch = epoch, order
        return int(self._epoch[1][position])

    def _pixels(self, which: int) -> tuple[Bytes, Bytes]:
        return self._kept[which] if self._kept else decode(self._dataset, which)

    def _holding(self) -> list[NDArray[np.int64]]:
        """Images of each class; reads every label map once."""
        present = np.zeros((self._dataset.num_classes, len(self._dataset)), bool)
        for which in range(len(self._dataset)):
            if self._kept:
                labels = self._kept[which][1]
            else:
                labels = _to_bytes(self._dataset, self._dataset[which].read_labels())
            counts = np.bincount(labels.ravel(), minlength=VOID + 1)
            present[:, which] = counts[: self._dataset.num_classes] > 0
        return [np.flatnonzero(row) for row in present]


def _decode_all(dataset: Dataset) -> list[tuple[Bytes, Bytes]]:
    """Every image with its labels if all of them fit, judged by the first; none otherwise."""
    first = decode(dataset, 0)
    if sum(array.nbytes for array in first) * len(dataset) > IN_MEMORY_BYTES:
        return []
    return [first, *(decode(dataset, which) for which in range(1, len(dataset)))]


def decode(dataset: Dataset, which: int) -> tuple[Bytes, Bytes]:
    """Image ``which``: (H, W, 3) uint8 RGB and (H, W) uint8 labels, 255 for void.

    Raises:
        InputError: a file that cannot be read, or sizes that differ.
    """
    item = dataset[which]
    image, labels = _eight_bits(item.read_image()), _to_bytes(dataset, item.read_labels())
    if image.shape[:2] != labels.shape:
        raise InputError(
            f"{dataset.name}, {item.name}: the image is {image.shape[1]}x{image.shape[0]} but its "
            f"label map {labels.shape[1]}x{labels.shape[0]}"
        )
    return image, labels


def _eight_bits(image: Image) -> Bytes:
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def _to_bytes(dataset: Dataset, labels: Labels) -> Bytes:
    """uint8, with ``VOID`` for void."""
    if dataset.ignore_index != VOID:
        labels = np.where(labels == dataset.ignore_index, VOID, labels)
    return labels.astype(np.uint8, copy=False)
