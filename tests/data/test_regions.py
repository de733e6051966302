import numpy as np
import pytest

from crispseg.data.regions import LEAST_IOU, mistake_regions, regions_of
from crispseg.metrics.boundary import intersection_over_union


def two_coloured() -> tuple[np.ndarray, np.ndarray]:
    """A red and blue object on grey, under a little noise."""
    image = np.full((120, 160, 3), 128, np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[20:100, 30:130] = True
    image[20:100, 30:80] = (220, 30, 30)
    image[20:100, 80:130] = (30, 30, 220)
    noise = np.random.default_rng(0).integers(0, 12, image.shape, dtype=np.uint8)
    return image + noise, mask


def test_every_pixel_has_a_region_and_regions_end_at_edges() -> None:
    image, mask = two_coloured()
    regions = regions_of(image, 60, np.random.default_rng(1))
    assert regions.dtype == np.int32
    assert regions.min() >= 0
    assert regions.max() < 60
    colour = np.where(mask, 1 + (np.arange(160) >= 80), 0)
    votes = np.zeros((60, 3))
    np.add.at(votes, (regions.ravel(), colour.ravel()), 1)
    # all but the pixels that the blur and the lines between regions mix
    assert votes.max(axis=1).sum() / votes.sum() > 0.97


def test_masks_lack_or_gain_parts_and_stay_near_the_truth() -> None:
    image, mask = two_coloured()
    before, less, more = mask.copy(), 0, 0
    for seed in range(60):
        coarse = mistake_regions(image, mask, np.random.default_rng(seed))
        assert coarse.dtype == bool
        assert intersection_over_union(coarse, mask) >= LEAST_IOU
        less += bool((mask & ~coarse).any())
        more += bool((coarse & ~mask).any())
    np.testing.assert_array_equal(mask, before)
    assert less > 25
    assert more > 8


def test_the_same_draw_gives_the_same_mask() -> None:
    image, mask = two_coloured()
    first, second = (mistake_regions(image, mask, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_part_ends_where_the_image_has_an_edge() -> None:
    """Of the outline inside the object, most lies on the line between its colours."""
    image, mask = two_coloured()
    on_line = elsewhere = 0
    for seed in range(80):
        coarse = mistake_regions(image, mask, np.random.default_rng(seed))
        inner = (coarse != np.roll(coarse, 1, axis=1))[25:95, 36:125]
        near = np.abs(np.arange(36, 125) - 80) <= 2
        on_line += inner[:, near].sum() / near.sum()
        elsewhere += inner[:, ~near].sum() / (~near).sum()
    assert on_line > 3 * elsewhere


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (64, 64)])
def test_masks_without_an_edge(value: bool, shape: tuple[int, int]) -> None:
    mask = np.full(shape, value)
    image = np.full((*shape, 3), 90, np.uint8)
    for seed in range(10):
        coarse = mistake_regions(image, mask, np.random.default_rng(seed))
        assert coarse.shape == shape
        assert intersection_over_union(coarse, mask) >= LEAST_IOU
