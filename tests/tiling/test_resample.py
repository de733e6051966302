"""Resizing by windows against PyTorch's whole-image resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from crispseg.io.windows import windows_of
from crispseg.tiling import area, bilinear
from crispseg.tiling.area import resize_area
from crispseg.tiling.bilinear import bilinear_reach, bilinear_source, bilinear_window
from crispseg.types import Box, Size

SHAPES = [((37, 53), (10, 7)), ((64, 64), (16, 16)), ((5, 900), (1, 13)), ((20, 20), (20, 20))]


@pytest.mark.parametrize(("shape", "size"), SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool, np.float32])
@pytest.mark.parametrize("channels", [None, 3])
def test_area_equals_pytorch(shape, size, dtype, channels) -> None:
    rng = np.random.default_rng(0)
    full = (*shape, channels) if channels else shape
    array = (rng.random(full) * (60000 if dtype == np.uint16 else 1.99)).astype(dtype)
    result = resize_area(array, Size(*size))
    tensor = torch.from_numpy(np.atleast_3d(array).astype(np.float64)).permute(2, 0, 1)[None]
    expected = F.interpolate(tensor, size=size, mode="area")[0].permute(1, 2, 0).numpy()
    assert result.dtype == np.float32
    np.testing.assert_allclose(np.atleast_3d(result), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("small", "size"), [((7, 9), (30, 50)), ((1, 4), (3, 17)), ((6, 6), (6, 6))]
)
def test_windows_equal_pytorch(small, size) -> None:
    array = np.random.default_rng(0).random(small, dtype=np.float32)
    whole = F.interpolate(
        torch.from_numpy(array)[None, None], size=size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    rng = np.random.default_rng(1)
    for _ in range(20):
        y0, x0 = rng.integers(size[0]), rng.integers(size[1])
        y1, x1 = rng.integers(y0, size[0]) + 1, rng.integers(x0, size[1]) + 1
        box = Box(int(y0), int(x0), int(y1), int(x1))
        window = bilinear_window(array, Size(*size), box)
        np.testing.assert_allclose(window, whole[box.slices], atol=2e-6)


def test_constants_stay_exact_and_results_are_copies() -> None:
    array = np.full((3, 5), 0.3, np.float32)
    assert (bilinear_window(array, Size(100, 77), Box(5, 6, 90, 70)) == np.float32(0.3)).all()
    same = bilinear_window(array, Size(3, 5), Box(0, 0, 3, 5))
    same[:] = 0
    assert (array == np.float32(0.3)).all()


def mixed_by_taps(array: np.ndarray, box: Box) -> np.ndarray:
    """A window at twice the size, as at any other: columns first, then rows, in float32."""
    found = array.astype(np.float32)
    for axis, start, stop in ((-1, box.x0, box.x1), (-2, box.y0, box.y1)):
        length = array.shape[axis]
        low, high, share = bilinear._bilinear_taps(length, 2 * length, start, stop)
        near, far = found.take(low, axis), found.take(high, axis)
        found = near + (far - near) * (share if axis == -1 else share[:, None])
    return found


def test_twice_the_size_is_made_by_slices() -> None:
    """As at any other size, to float32's rounding; windows and parts of it to the bit."""
    rng = np.random.default_rng(0)
    for array in (
        rng.random((37, 41), dtype=np.float32),
        rng.integers(0, 256, (29, 16, 3), dtype=np.uint8).transpose(2, 0, 1),
        rng.random((1, 1), dtype=np.float32),
    ):
        size = Size(2 * array.shape[-2], 2 * array.shape[-1])
        boxes = [Box(0, 0, *size)]
        at_once = bilinear_window(array, size, boxes[0])
        # Two roundings more or less of values up to this.
        error = {"rtol": 0, "atol": 2e-7 * max(float(array.max()), 1)}
        for _ in range(30):
            (y0, y1), (x0, x1) = (np.sort(rng.integers(0, side, 2)) for side in size)
            boxes.append(Box(int(y0), int(x0), int(y1) + 1, int(x1) + 1))
        for box in boxes:
            expected = mixed_by_taps(array, box)
            found = bilinear_window(array, size, box)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, **error)
            np.testing.assert_array_equal(found, at_once[..., *box.slices])
            room = np.empty((*box.size, *array.shape[:-2]), np.float32)
            out = np.moveaxis(room, (0, 1), (-2, -1))
            assert bilinear_window(array, size, box, out=out).base is room
            np.testing.assert_array_equal(out, found)
            whole = Size(*array.shape[-2:])
            source = bilinear_source(whole, size, box)
            part = array[..., *source.slices]
            of_part = bilinear_window(part, size, box, bilinear.Part(whole, source))
            np.testing.assert_array_equal(of_part, found)


def test_bands_of_a_window_join_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    array, size, box = rng.random((2, 50, 40), dtype=np.float32), Size(131, 95), Box(7, 5, 130, 90)
    at_once = bilinear_window(array, size, box)
    monkeypatch.setattr(bilinear, "BILINEAR_BAND_PX", 200)
    np.testing.assert_array_equal(bilinear_window(array, size, box), at_once)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, bool, np.float32])
def test_averages_by_windows_are_those_of_the_whole(kind) -> None:
    """Windows that end in the middle of a pixel of the result, or of none, add up to the whole."""
    rng = np.random.default_rng(0)
    for full, size, channels in (
        (Size(61, 83), Size(17, 23), (3,)),
        (Size(700, 90), Size(2, 31), ()),
        (Size(40, 44), Size(40, 11), (3,)),
        (Size(200, 190), Size(10, 9), ()),
    ):
        largest = 1 if kind in (bool, np.float32) else np.iinfo(kind).max
        whole = rng.integers(0, largest + 1, (*full, *channels)).astype(kind)
        whole[: full.height // 2] = largest  # sums of the brightest must not overflow
        expected = resize_area(whole, size)
        box = Box(size.height // 3, 2, size.height, size.width - 1)
        for block in (Size(1, full.width), Size(16, 16), Size(7, 5)):
            for pixels in (1, 300, 1 << 15):
                found = area.AreaMean(full, size, box)
                for window in windows_of(Box(0, 0, *full), block, pixels):
                    found.add(window, whole[window.slices])
                np.testing.assert_array_equal(found.result(), expected[box.slices])


@pytest.mark.parametrize(("whole", "out"), [(900, 65536), (7, 30), (100, 101), (1, 9), (31, 7)])
def test_what_a_window_reads_is_what_it_needs(whole, out) -> None:
    """``bilinear_source`` is reckoned from the ends alone: no line too few, and none too many."""
    rng = np.random.default_rng(0)
    starts = {0, out - 1, *rng.integers(0, out, 40).tolist()}
    for start in starts:
        stop = int(rng.integers(start, out)) + 1
        centres = (np.arange(start, stop) + 0.5) * (whole / out) - 0.5
        low = np.floor(np.clip(centres, 0, whole - 1)).astype(int)
        source = bilinear_source(Size(whole, 1), Size(out, 1), Box(start, 0, stop, 1))
        assert (source.y0, source.y1) == (low[0], min(low[-1] + 1, whole - 1) + 1)


def test_half_the_size_is_the_mean_of_four_pixels() -> None:
    rng = np.random.default_rng(0)
    for array in (
        rng.random((46, 34), dtype=np.float32),
        rng.integers(0, 65536, (10, 8, 3), np.uint16),
    ):
        half = resize_area(array, Size(array.shape[0] // 2, array.shape[1] // 2))
        blocks = array.reshape(array.shape[0] // 2, 2, array.shape[1] // 2, 2, *array.shape[2:])
        np.testing.assert_allclose(half, blocks.mean(axis=(1, 3), dtype=np.float64), rtol=1e-7)


def test_beyond_its_reach_a_box_has_no_weight() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        whole = Size(*(int(n) for n in rng.integers(1, 30, 2)))
        size = Size(*(int(n * rng.uniform(1, 5)) for n in whole))
        y0, x0 = (int(rng.integers(n)) for n in whole)
        y1, x1 = int(rng.integers(y0, whole.height)) + 1, int(rng.integers(x0, whole.width)) + 1
        source = np.zeros(whole, np.float32)
        source[y0:y1, x0:x1] = 1
        enlarged = bilinear_window(source, size, Box(0, 0, *size)) > 0
        box = bilinear_reach(whole, size, Box(y0, x0, y1, x1))
        outside = enlarged.copy()
        outside[box.slices] = False
        assert not outside.any()
        seen = np.flatnonzero(enlarged.any(axis=1))
        assert box.y0 >= seen[0] - 3
        assert box.y1 <= seen[-1] + 4
