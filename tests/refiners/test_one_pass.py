"""Label maps in one pass: the packing, the merging, and what divide and conquer would do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_scene import Stub, grid_scene, photo_of, refiner
from torch import Tensor
from torch.nn import functional as F

from crispseg.refiners.objects import connected
from crispseg.refiners.one_pass import COLOURS, border_box, colour_map, merge
from crispseg.types import Box

Array = np.ndarray


def cells(seed: int, height: int, width: int, count: int) -> Array:
    """Labels of ``count`` Voronoi cells."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    points = rng.integers(0, (height, width), (count, 2))
    return np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in points], axis=0).astype(np.uint8)


def touching(labels: Array, colours: Array) -> list[tuple[int, int]]:
    """By brute force: colours on either side of every border."""
    height, width = labels.shape
    return [
        (colours[y, x], colours[v, u])
        for y in range(height)
        for x in range(width)
        for v, u in ((y + 1, x), (y, x + 1))
        if v < height and u < width and labels[y, x] != labels[v, u]
    ]


@pytest.mark.parametrize("seed", range(4))
def test_no_two_objects_of_one_mask_touch(seed: int) -> None:
    labels = cells(seed, 60, 80, 30)
    colours = colour_map(labels, 255)
    assert colours.max() < COLOURS
    assert all(a != b for a, b in touching(labels, colours))
    pieces = connected(labels)
    assert all(len(np.unique(colours[pieces == k])) == 1 for k in range(pieces.max() + 1))


def test_void_has_no_mask_and_asks_for_no_colour() -> None:
    labels = grid_scene(3, 4, 20)
    labels[18:22] = labels[:, 38:42] = 255
    colours = colour_map(labels, 255)
    assert np.array_equal(colours == COLOURS, labels == 255)
    labels[:, ::2] = labels[::2] = 255  # pixels that touch nothing but void
    assert set(np.unique(colour_map(labels, 255))) == {0, COLOURS}


def test_merging_by_hand() -> None:
    labels = np.array([[5, 5, 6, 6, 255]], np.uint8)
    colours = np.array([[0, 0, 1, 1, 4]], np.uint8)
    probabilities = np.array([[[0.9, 0.3, 0.8, 0.6, 0.9]], [[0.2, 0.6, 0.9, 0.4, 0.9]]], np.float32)

    def merged(**options: float) -> list[list[int]]:
        return merge(labels, colours, probabilities, ignore_index=255, **options).tolist()

    # The third pixel is 6's by 0.9 although 5 has 0.8; the others go where they are above 0.5.
    assert merged() == [[5, 6, 6, 5, 255]]
    assert merged(least=0.7) == [[5, 5, 6, 6, 255]]
    # 5 is two pixels from the fourth.
    assert merged(reach=1) == [[5, 6, 6, 6, 255]]
    nowhere = np.where(colours == 1, COLOURS, colours)
    found = merge(labels, nowhere, probabilities[:1], ignore_index=6)
    assert found.tolist() == [[5, 5, 6, 6, 5]]  # 6 is void here: it stays and spreads nowhere


def test_the_last_colour_has_what_the_other_masks_leave() -> None:
    labels = np.array([[1, 2, 3, 4, 4]], np.uint8)
    colours = np.array([[0, 1, 2, 3, 3]], np.uint8)
    first, second, third = [0.9, 0, 0, 0, 0], [0, 0.9, 0.3, 0, 0], [0, 0, 0.4, 0.7, 0.1]
    probabilities = np.array([[first], [second], [third]], np.float32)
    # 0.4 and 0.3 leave 0.6 to the third pixel; 0.7 takes the fourth from it.
    assert merge(labels, colours, probabilities, ignore_index=255).tolist() == [[1, 2, 4, 3, 4]]


def test_the_box_around_a_border_by_hand() -> None:
    members = np.zeros((20, 30), bool)
    others = np.zeros_like(members)
    members[5:15, 4:10] = True
    others[5:9, 10:20] = True
    assert border_box(members, others, 0) == Box(5, 9, 9, 11)
    assert border_box(members, others, 6) == Box(0, 3, 15, 17)
    others[15, 4] = True
    assert border_box(members, others, 0) == Box(5, 4, 16, 11)
    assert border_box(members, others[:, ::-1] & False, 3) is None


KERNEL = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(5))


def local(image: Tensor, mask: Tensor) -> Tensor:
    """What lies 6 px above and left of a pixel: the blurred mask, and the colour at hand."""
    height, width = mask.shape[-2:]
    moved = F.pad(mask, (6, 0, 6, 0), mode="replicate")[..., :height, :width]
    blurred = F.conv2d(F.pad(moved, (2,) * 4, mode="replicate"), KERNEL / KERNEL.sum())
    return (0.7 * blurred + 0.3 * image[:, :1]).clamp(0.01, 0.99)


def test_a_local_network_gives_what_divide_and_conquer_gives() -> None:
    # Objects of 240 px at least, which divide and conquer does not enlarge; neither way sees
    # more than 10 px around a pixel, and objects of one mask are farther apart than that.
    labels = grid_scene(2, 3, 256)  # sides that 32 divides: no padding
    labels[256:, :384], labels[256:, 384:] = 3, 2
    labels[60:190, 100:340] = 12
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*labels.shape, 3)).astype(np.uint8)
    model = refiner(Stub(local))
    one = model.refine_labels(image, labels)
    each = model.refine_labels(image, labels, way="divide-and-conquer")
    assert (one != labels).sum() > 2000
    assert np.array_equal(one, each)


def test_masks_are_decoded_only_around_their_borders() -> None:
    labels = np.zeros((320, 640), np.uint8)
    labels[100:130, 500:540] = 1
    sizes = []

    def watch(image: Tensor, mask: Tensor) -> Tensor:
        sizes.append(tuple(mask.shape[-2:]))
        return local(image, mask)

    photo = photo_of(labels)
    found = refiner(Stub(watch)).refine_labels(photo, labels)
    # 32 px around the object, in multiples of 32.
    assert sizes == [(128, 128)] * 2
    whole = refiner(Stub(local))
    tensor = whole.network.image_tensor(photo, 255.0)
    colours = colour_map(labels, 255)
    masks = [(colours == k).astype(np.float32) * 2 - 1 for k in (0, 1)]
    everywhere = whole.network.probabilities_of_masks(tensor, masks, [Box(0, 0, 320, 640)] * 2)
    expected = merge(labels, colours, np.stack(everywhere), ignore_index=255)
    assert np.array_equal(found, expected)


def test_the_surest_mask_wins_whatever_the_number_of_threads() -> None:
    labels = cells(1, 96, 128, 12)
    image = photo_of(labels)
    image[::3] = 0
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(refiner(Stub(local)).refine_labels(image, labels))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)
