"""Label maps with a refiner of single masks: both ways, on networks whose answers are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crispseg.models.cascadepsp import CascadeLogits, CascadeModule
from crispseg.models.weights import LoadedModel
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.refiners.scene import scene_objects
from crispseg.types import Box, InputError

Array = np.ndarray


class Stub(CascadeModule):
    """A cascade that gives ``answer(image, mask)``, a probability; counts what it does."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer
        self.encodings = self.decodings = 0

    def encode_image(self, image: Tensor) -> list[Tensor]:
        self.encodings += 1
        return [image]

    def run_levels(self, shared, seg, coarse_s8=None, coarse_s4=None) -> CascadeLogits:
        self.decodings += 1
        logits = torch.logit(self.answer(shared[0], (seg + 1) / 2))
        return CascadeLogits(logits, None, None, None, logits, logits)

    def forward(self, image, seg, coarse_s8=None, coarse_s4=None) -> CascadeLogits:
        return self.run_cascade(image, seg, coarse_s8, coarse_s4)


def refiner(module: nn.Module, **options) -> CascadeRefiner:
    model = LoadedModel(module, (0.0,) * 3, (1.0,) * 3, architecture="test", source="test")
    return CascadeRefiner(model, device="cpu", **options)


def echo(image: Tensor, mask: Tensor) -> Tensor:
    return mask


def grid_scene(rows: int, columns: int, side: int) -> Array:
    """Squares of 11 classes, neighbours always different."""
    y, x = np.mgrid[:rows, :columns]
    classes = ((y * 3 + x * 5) % 11).astype(np.uint8)
    return np.kron(classes, np.ones((side, side), np.uint8))


def photo_of(labels: Array) -> Array:
    return np.stack([labels * 23, 255 - labels * 11, labels * 7], axis=-1).astype(np.uint8)


WAYS = ("one-pass", "divide-and-conquer")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_network_that_returns_its_input_changes_nothing(way, dtype) -> None:
    labels = grid_scene(3, 4, 40).astype(dtype)
    labels[:20, :50] = 255
    found = refiner(Stub(echo)).refine_labels(photo_of(labels), labels, way=way)
    assert found.dtype == dtype
    assert np.array_equal(found, labels)


def noise(image: Tensor, mask: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(int(mask.sum()))
    return torch.rand(mask.shape, generator=draw)


@pytest.mark.parametrize("way", WAYS)
def test_every_pixel_keeps_a_label_and_void_stays(way) -> None:
    labels = grid_scene(3, 4, 40)
    labels[30:90, 30:70] = 255
    given = labels.copy()
    found = refiner(Stub(noise)).refine_labels(photo_of(labels), labels, way=way)
    assert np.array_equal(labels, given)
    assert np.array_equal(found == 255, labels == 255)
    assert set(np.unique(found)) <= set(np.unique(labels))
    assert (found != labels).any()


def shifted_edge() -> tuple[Array, Array, Array]:
    """Image, coarse and true labels of three classes whose common edges are 5 px off."""
    truth = np.zeros((96, 128), np.uint8)
    truth[:, 60:] = 1
    truth[60:, 30:90] = 2
    coarse = np.zeros_like(truth)
    coarse[:, 65:] = 1
    coarse[55:, 30:90] = 2
    return np.repeat(truth[:, :, None] * 100, 3, axis=2), coarse, truth


def snap(image: Tensor, mask: Tensor) -> Tensor:
    """Knows the three colours: a colour is object if most of its pixels are."""
    colours = (image[:, :1] * 255 / 100).round()
    result = torch.zeros_like(mask)
    for colour in (0, 1, 2):
        inside = colours == colour
        if inside.any():
            result[inside] = float(mask[inside].mean() > 0.5)
    return result.clamp(0.01, 0.99)


@pytest.mark.parametrize("way", WAYS)
def test_both_ways_find_the_edges_that_the_network_sees(way) -> None:
    image, coarse, truth = shifted_edge()
    found = refiner(Stub(snap)).refine_labels(image, coarse, way=way)
    assert (coarse != truth).mean() > 0.03
    if way == "one-pass":
        assert np.array_equal(found, truth)
    else:  # boxes enlarge the object and come back resampled: half a pixel
        assert (found != truth).mean() < 0.01


def test_the_cost_of_one_pass_does_not_grow_with_the_objects() -> None:
    for rows, columns, side in ((2, 2, 120), (5, 6, 40)):
        labels = grid_scene(rows, columns, side)
        module = Stub(echo)
        refiner(module).refine_labels(photo_of(labels), labels)
        assert module.encodings == 1 and 2 <= module.decodings <= 4
        module = Stub(echo)
        refiner(module).refine_labels(photo_of(labels), labels, way="divide-and-conquer")
        assert module.encodings == rows * columns


def test_a_uniform_map_needs_no_network() -> None:
    module = Stub(echo)
    labels = np.full((50, 60), 3, np.uint8)
    found = refiner(module).refine_labels(photo_of(labels), labels)
    assert module.encodings == 0 and np.array_equal(found, labels)


def test_large_images_are_refined_in_tiles_of_their_own_size() -> None:
    labels = grid_scene(6, 7, 60)
    labels[:, 100] = 9  # a line of one pixel: no smaller size could hold it
    module = Stub(echo)
    found = refiner(module, tile_size=128).refine_labels(photo_of(labels), labels)
    assert np.array_equal(found, labels)
    assert module.encodings > 4


def test_objects_of_the_published_way_by_hand() -> None:
    labels = np.zeros((200, 300), np.uint8)
    labels[10:50, 10:50] = 1  # 1600 px: an object
    labels[10:50, 55:95] = 1  # 5 px away: the same object
    labels[100:140, 200:240] = 1  # far away: another
    labels[150:160, 10:40] = 2  # 300 px: too small
    labels[60:64, :] = 255
    found = scene_objects(labels, 255)
    assert [(o.label, int(o.mask.sum())) for o in found[1:]] == [(1, 3200), (1, 1600)]
    assert found[0].label == 0
    # 25 % of the box in all, half of it at either end.
    assert found[2].box == Box(95, 195, 145, 245)
    assert found[1].box == Box(5, 0, 55, 106)


def test_stuff_counts_less() -> None:
    image, coarse, _ = shifted_edge()
    everywhere = Stub(lambda image, mask: torch.full_like(mask, 0.9))
    found = refiner(everywhere).refine_labels(image, coarse, way="divide-and-conquer")
    assert set(np.unique(found)) == {0, 1, 2}
    less = refiner(everywhere).refine_labels(
        image, coarse, way="divide-and-conquer", stuff=(0, 1, 2)
    )
    # 0.51 x 0.9 is less than one half: nothing changes.
    assert np.array_equal(less, coarse) and not np.array_equal(found, coarse)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((5, 5), np.float32), "uint8 or uint16"),
        (np.zeros((5, 5, 3), np.uint8), r"\(H, W\)"),
        (np.zeros((6, 5), np.uint8), "label map is 5x6 but the image is 5x5"),
    ],
)
def test_bad_labels_are_refused(labels: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        refiner(Stub(echo)).refine_labels(np.zeros((5, 5, 3), np.uint8), labels)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InputError, match="way must be"):
        refiner(Stub(echo)).refine_labels(
            np.zeros((5, 5, 3), np.uint8), np.zeros((5, 5), np.uint8), way="both"
        )
