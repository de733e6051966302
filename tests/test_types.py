from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crispseg.types import Box, InputError, Size, check_image, check_mask


def test_box_by_hand() -> None:
    box = Box(2, 3, 10, 7)
    assert (box.height, box.width, box.size) == (8, 4, Size(8, 4))
    assert np.arange(200).reshape(10, 20)[box.slices].shape == (8, 4)
    assert box.shift(-2, 1) == Box(0, 4, 8, 8)
    assert box.grow(3) == Box(-1, 0, 13, 10)
    assert box.grow(3).clip(Size(9, 9)) == Box(0, 0, 9, 9)


@pytest.mark.parametrize("box", [Box(20, 0, 30, 5), Box(-9, 0, -3, 5), Box(5, 8, 3, 2)])
def test_a_box_outside_clips_to_nothing(box: Box) -> None:
    clipped = box.clip(Size(10, 10))
    assert clipped.height * clipped.width == 0
    assert clipped.clip(Size(10, 10)) == clipped


@given(st.tuples(*[st.integers(-20, 40)] * 4), st.integers(1, 30), st.integers(1, 30))
def test_clip_keeps_the_pixels_that_the_image_has(corners, height, width) -> None:
    box = Box(*corners)
    clipped = box.clip(Size(height, width))
    inside = np.zeros((height, width), bool)
    inside[clipped.slices] = True
    y, x = np.indices((height, width))
    expected = (box.y0 <= y) & (y < box.y1) & (box.x0 <= x) & (x < box.x1)
    np.testing.assert_array_equal(inside, expected)
    # Never a negative index, which would count from the other end.
    assert min(clipped.y0, clipped.x0, clipped.height, clipped.width) >= 0


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.array([[True, False]]), [[1, 0]]),
        (np.array([[1, 0]], np.uint8), [[1, 0]]),
        (np.array([[255, 51]], np.uint8), [[1, 0.2]]),
        (np.array([[255, 0]], np.int64), [[1, 0]]),
        (np.array([[65535, 13107]], np.uint16), [[1, 0.2]]),
        (np.array([[0.25, 1.0]]), [[0.25, 1]]),
        (np.array([[[1], [0]]], np.uint8), [[1, 0]]),
    ],
)
def test_masks_of_all_kinds(mask, expected) -> None:
    result = check_mask(mask)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[np.nan, 0]]), "NaN"),
        (np.array([[np.inf, 0]]), "NaN or infinite"),
        (np.array([[-0.1, 0]]), r"\[0, 1\]"),
        (np.ma.masked_invalid([[np.nan, 0]]), "NaN"),
        (np.array([[200.0, 0]]), "divide by 255"),
        (np.array([[1.0000001, 0]]), r"spans 0\.0\.\.1\.0000001"),
        (np.array([[-1, 0]]), "0..65535"),
        (np.array([[1 << 20, 0]]), "0..65535"),
        (np.array([["a"]]), "bool, integer or float"),
        (np.zeros((2, 2, 3)), "shape"),
        (np.zeros((0, 5)), "at least one pixel"),
        ([[1, 0]], "NumPy array"),
    ],
)
def test_bad_masks(mask, message) -> None:
    with pytest.raises(InputError, match=message):
        check_mask(mask)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.float32, np.float64])
def test_the_callers_mask_stays_as_it_is(dtype) -> None:
    mask = np.eye(3).astype(dtype)
    before = mask.copy()
    mask.setflags(write=False)
    check_mask(mask, Size(3, 3))
    np.testing.assert_array_equal(mask, before)


def test_mask_of_another_size_names_both_sizes() -> None:
    with pytest.raises(InputError, match="mask is 3x2 but the image is 2x3"):
        check_mask(np.zeros((2, 3)), Size(3, 2))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        "photo.jpg",
    ],
)
def test_bad_images(image) -> None:
    with pytest.raises(InputError):
        check_image(image)
