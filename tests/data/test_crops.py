"""Samples of labelled images: decided by seed and index, and drawn as they should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from crispseg.data import crops
from crispseg.data.crops import LabelledCrops, decode
from crispseg.data.datasets.base import Dataset, Labelled
from crispseg.data.transforms import Augmentation
from crispseg.types import InputError, Size

WHOLE = Augmentation(Size(8, 8), scales=(1, 1))
SIDE = 8


class Flat:
    """An image of one value with the labels that are asked for."""

    def __init__(self, value: int, labels: Sequence[int]) -> None:
        self.value, self.labels = value, labels

    def image(self) -> np.ndarray:
        return np.full((SIDE, SIDE, 3), self.value, np.uint8)

    def map(self) -> np.ndarray:
        return np.resize(np.array(self.labels, np.uint8), (SIDE, SIDE))


def dataset(*labels: Sequence[int], **more) -> Dataset:
    flats = [Flat(i, numbers) for i, numbers in enumerate(labels)]
    items = [Labelled(str(i), flat.image, flat.map) for i, flat in enumerate(flats)]
    names = ("a", "b", "c", "d")
    return Dataset("flats", names, tuple((i, i, i) for i in range(4)), items, **more)


def drawn(samples: LabelledCrops, count: int) -> list[int]:
    return [int(samples[i].image[0, 0, 0]) for i in range(count)]


@pytest.mark.parametrize("in_memory", [True, False])
def test_every_image_once_an_epoch_in_another_order(in_memory, monkeypatch) -> None:
    if not in_memory:
        monkeypatch.setattr(crops, "IN_MEMORY_BYTES", 0)
    samples = LabelledCrops(dataset(*[[0]] * 10), WHOLE, seed=4)
    epochs = [drawn(samples, 30)[10 * i : 10 * i + 10] for i in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2]
    again = LabelledCrops(dataset(*[[0]] * 10), WHOLE, seed=4)
    assert [int(again[i].image[0, 0, 0]) for i in (29, 3, 17)] == [
        epochs[i // 10][i % 10] for i in (29, 3, 17)
    ]


def test_workers_give_the_same_samples() -> None:
    rng = np.random.default_rng(0)
    options = Augmentation(Size(8, 8), rotation=10.0, blur=True, colour=0.2)
    data = dataset(*[rng.integers(0, 4, 64).tolist() for _ in range(5)])
    batches = [
        list(DataLoader(LabelledCrops(data, options, length=12), 3, num_workers=n)) for n in (0, 2)
    ]
    for first, second in zip(*batches, strict=True):
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.labels, second.labels)
    assert batches[0][0].image.shape == (3, 3, 8, 8)
    assert batches[0][0].labels.dtype == torch.uint8
    with pytest.raises(IndexError):
        LabelledCrops(data, options, length=12)[12]


def test_hard_images_come_more_often() -> None:
    data = dataset([0], [0, 1], [2], [1, 2], [0])
    samples = LabelledCrops(data, WHOLE, repeat_classes=["b"], repeat_factor=3)
    counts = Counter(drawn(samples, 9 * 4))
    assert counts == {0: 4, 1: 12, 2: 4, 3: 12, 4: 4}


def test_balanced_draws_classes_alike_and_centres_on_them() -> None:
    data = dataset(*[[0]] * 18, [0, 1], [2, 2, 2, 255])
    samples = LabelledCrops(data, WHOLE, sampling="balanced")
    counts = Counter(drawn(samples, 900))
    # a third for each of the three classes that there are; class 0 is in 19 images
    assert 300 - 60 < counts[19] < 300 + 60
    assert 316 - 60 < counts[18] < 316 + 60


@pytest.mark.parametrize("bits", [8, 16])
def test_void_becomes_255_and_deep_images_eight_bits(bits) -> None:
    data = dataset([0, 9, 1, 9], ignore_index=9)
    if bits == 16:
        deep = np.full((SIDE, SIDE, 3), 0xAB12, np.uint16)
        data = Dataset("d", data.class_names, data.colours, [
            Labelled("x", lambda: deep, data[0].read_labels)
        ], 9)  # fmt: skip
    image, labels = decode(data, 0)
    assert image.dtype == labels.dtype == np.uint8
    assert image[0, 0, 0] == (0xAB if bits == 16 else 0)
    assert sorted(np.unique(labels)) == [0, 1, 255]


def test_what_cannot_be_trained_on_is_named() -> None:
    with pytest.raises(InputError, match="no images to train on"):
        LabelledCrops(dataset(), WHOLE)
    with pytest.raises(InputError, match="'z' is no class of flats; known: a, b, c, d"):
        LabelledCrops(dataset([0]), WHOLE, repeat_classes=["z"], repeat_factor=2)
    names = tuple(map(str, range(300)))
    with pytest.raises(InputError, match="300 classes"):
        LabelledCrops(Dataset("many", names, (), dataset([0]).items), WHOLE)
    item = Labelled("x", Flat(0, [0]).image, lambda: np.zeros((3, 4), np.uint8))
    with pytest.raises(InputError, match="x: the image is 8x8 but its label map 4x3"):
        LabelledCrops(Dataset("d", ("a",), ((0, 0, 0),), [item]), WHOLE)
