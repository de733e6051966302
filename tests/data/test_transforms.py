"""Crops: image and labels move together, labels are never mixed, and every draw is in its range."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from crispseg.data.transforms import Augmentation, jitter_colour, random_crop, warp
from crispseg.types import Size

MEAN = (0.5, 0.25, 0.75)
BORDER = np.array([128, 64, 191])


def chart(height: int = 60, width: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """An image that says where it is (R = 2 x, G = 2 y), and labels that say the same in tens."""
    y, x = np.mgrid[:height, :width]
    image = np.dstack([2 * x, 2 * y, np.full_like(x, 9)]).astype(np.uint8)
    return image, (x // 10 + 10 * (y // 10)).astype(np.uint8)


def test_a_plain_crop_is_a_piece_of_the_image() -> None:
    image, labels = chart()
    options = Augmentation(Size(20, 30), scales=(1, 1), mean=MEAN)
    corners = set()
    for seed in range(60):
        crop = random_crop(image, labels, options, np.random.default_rng(seed))
        pixels, numbers = crop
        assert pixels.shape == (20, 30, 3)
        assert pixels.dtype == numbers.dtype == np.uint8
        if pixels[0, 0, 0] > pixels[0, 1, 0]:  # mirrored
            pixels, numbers = pixels[:, ::-1], numbers[:, ::-1]
        x, y = pixels[0, 0, :2] // 2
        np.testing.assert_array_equal(pixels, image[y : y + 20, x : x + 30])
        np.testing.assert_array_equal(numbers, labels[y : y + 20, x : x + 30])
        corners.add((int(y), int(x)))
    ys, xs = zip(*corners, strict=True)
    assert min(ys) <= 3
    assert max(ys) >= 37
    assert min(xs) <= 5
    assert max(xs) >= 55


def test_mirrors_half_of_the_time() -> None:
    image, labels = chart()
    options = Augmentation(Size(20, 30), scales=(1, 1))
    crops = [random_crop(image, labels, options, np.random.default_rng(s)) for s in range(200)]
    mirrored = sum(int(c.image[0, 0, 0] > c.image[0, 1, 0]) for c in crops)
    assert 70 < mirrored < 130


@pytest.mark.parametrize("scale", [0.5, 1.7, 2.0])
def test_scaling_is_opencvs_resize(scale) -> None:
    """cv2.resize with bilinear (half-pixel centres) is the reference; a rounding apart."""
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    size = Size(round(60 * scale), round(90 * scale))
    matrix = np.array([[scale, 0, 0], [0, scale, 0]], float)
    crop = warp(image, image[..., 0], matrix, size, MEAN)
    expected = cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
    inside = (slice(2, -2), slice(2, -2))  # beyond the edge one sees the mean, the other the edge
    difference = np.abs(crop.image[inside].astype(int) - expected[inside].astype(int))
    # warpAffine rounds coordinates to 1/32 of a pixel: up to 255 / 32 of a value, twice.
    assert difference.max() <= 16
    assert difference.mean() < 1.5


@pytest.mark.parametrize(
    "options",
    [
        {"scales": (0.5, 2.0)},
        {"scales": (0.7, 1.3), "rotation": 10.0},
        {"scales": (1.0, 2.0), "rotation": 45.0, "scale_step": 0.25},
    ],
)
def test_labels_move_with_the_image(options) -> None:
    """The image says where each pixel came from; the label there must be the crop's."""
    image, labels = chart()
    options = Augmentation(Size(50, 50), mean=(0, 0, 0), **options)
    for seed in range(30):
        crop = random_crop(image, labels, options, np.random.default_rng(seed))
        valid = crop.labels != 255
        assert set(np.unique(crop.labels)) <= {*np.unique(labels), 255}
        # away from the image's edge, where the mean is mixed in, and from labels' edges
        whole = valid & (
            cv2.erode(np.pad(valid, 2).astype(np.uint8), np.ones((5, 5)))[2:-2, 2:-2] > 0
        )
        x, y = (crop.image[..., c].astype(float) / 2 for c in (0, 1))
        tens = [np.abs(v % 10 - 4.5) < 3.5 for v in (x, y)]
        sure = whole & tens[0] & tens[1]
        expected = (x // 10 + 10 * (y // 10)).astype(np.uint8)
        assert sure.sum() > 200
        np.testing.assert_array_equal(crop.labels[sure], expected[sure])


def test_what_is_beyond_the_edge_is_mean_and_void() -> None:
    image, labels = chart(20, 20)
    options = Augmentation(Size(40, 50), scales=(1, 1), mean=MEAN)
    crop = random_crop(image, labels, options, np.random.default_rng(0))
    outside = crop.labels == 255
    assert outside.sum() == 40 * 50 - 20 * 20
    assert not outside[10:30, 15:35].any()  # in the middle
    np.testing.assert_array_equal(crop.image[outside], np.tile(BORDER, (outside.sum(), 1)))


def test_scales_keep_to_their_range_and_steps() -> None:
    image, labels = chart(64, 96)
    labels[:] = 1
    seen = set()
    for seed in range(120):
        options = Augmentation(Size(200, 300), scales=(0.5, 2.0), scale_step=0.25)
        crop = random_crop(image, labels, options, np.random.default_rng(seed))
        seen.add(int((crop.labels[100] == 1).sum()))
    assert seen == {round(96 * (0.5 + 0.25 * i)) for i in range(7)}
    options = Augmentation(Size(200, 300), scales=(0.5, 2.0), short_side=(50, 80))
    rng = np.random.default_rng(0)
    heights = [
        int((random_crop(image, labels, options, rng).labels[:, 150] == 1).sum()) for _ in range(60)
    ]
    assert (min(heights), max(heights)) == (50, 80)


@pytest.mark.parametrize("rotation", [0.0, 10.0])
def test_a_crop_is_centred_on_the_class_that_is_asked_for(rotation) -> None:
    image, labels = chart(100, 150)
    labels[:] = 0
    labels[70, 100] = 7
    options = Augmentation(Size(21, 31), scales=(1, 1), rotation=rotation)
    for seed in range(20):
        crop = random_crop(image, labels, options, np.random.default_rng(seed), centre_on=7)
        spots = np.argwhere(crop.labels == 7)
        if rotation == 0:
            assert len(spots) == 1
        assert all(abs(y - 10) <= 1 and abs(x - 15) <= 1 for y, x in spots)
    corner = np.zeros_like(labels)
    corner[0, 149] = 7
    plain = Augmentation(Size(21, 31), scales=(1, 1))
    crop = random_crop(image, corner, plain, np.random.default_rng(0), centre_on=7)
    assert (crop.labels != 255).all()  # stays inside the image
    assert (crop.labels == 7).sum() == 1
    absent = random_crop(image, corner, plain, np.random.default_rng(0), centre_on=9)
    assert absent.labels.shape == (21, 31)


def test_blur_and_colour_change_the_image_alone() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (40, 40), dtype=np.uint8)
    copies = image.copy(), labels.copy()
    plain = Augmentation(Size(30, 30), scales=(1, 1))
    blurred = 0
    for seed in range(40):
        first = random_crop(image, labels, plain, np.random.default_rng(seed))
        options = Augmentation(Size(30, 30), scales=(1, 1), blur=True)
        second = random_crop(image, labels, options, np.random.default_rng(seed))
        np.testing.assert_array_equal(first.labels, second.labels)
        if not np.array_equal(first.image, second.image):
            blurred += 1
            np.testing.assert_array_equal(second.image, cv2.GaussianBlur(first.image, (5, 5), 0))
    assert 10 < blurred < 30
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(labels, copies[1])
    grey = np.full((8, 8, 3), 100, np.uint8)
    values = [jitter_colour(grey, np.random.default_rng(s), 0.4)[0, 0, 0] for s in range(300)]
    assert 60 <= min(values) < 70
    assert 130 < max(values) <= 140
