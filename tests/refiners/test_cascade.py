"""The promises of the default mode, on networks whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crispseg.refiners.cascade as cascade
from crispseg.models.build import build
from crispseg.models.cascadepsp import CascadeLogits, RefinementModule
from crispseg.models.weights import LoadedModel
from crispseg.refiners.cascade import CascadeRefiner, Coarse, merge_detail
from crispseg.types import Box, InputError, Size

Array = np.ndarray


class Stub(RefinementModule):
    """A network whose three outputs are ``answer(image, seg)``, a probability."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor]) -> None:
        nn.Module.__init__(self)
        self.answer = answer

    def forward(self, image, seg, coarse_s8=None, coarse_s4=None) -> CascadeLogits:
        logits = torch.logit(self.answer(image, seg))
        return CascadeLogits(logits, None, None, None, logits, logits)


def echo(image: Tensor, seg: Tensor) -> Tensor:
    return (seg + 1) / 2


def loaded(module: RefinementModule) -> LoadedModel:
    return LoadedModel(module, (0.5,) * 3, (0.5,) * 3, architecture="test", source="test")


def refiner(answer: Callable[[Tensor, Tensor], Tensor] = echo, **options) -> CascadeRefiner:
    return CascadeRefiner(loaded(Stub(answer)), device="cpu", **options)


def random_refiner(**options) -> CascadeRefiner:
    torch.manual_seed(0)
    return CascadeRefiner(loaded(build("cascadepsp-lite").eval()), device="cpu", **options)


def photo(height: int, width: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def disc(height: int, width: int, radius: float, y: float, x: float) -> Array:
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(rows - y, columns - x) < radius


def boundary(mask: Array) -> Array:
    """Pixels with a 4-neighbour on the other side."""
    edge = np.zeros(mask.shape, bool)
    vertical, horizontal = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edge[1:] |= vertical
    edge[:-1] |= vertical
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    return edge


CANVAS = (3072, 4096)


def pole(width: int) -> Array:
    mask = np.zeros(CANVAS, bool)
    mask[:, 2000 : 2000 + width] = True
    return mask


def disc_with_spokes() -> Array:
    mask = disc(*CANVAS, 1000, 1536, 2048)
    rows, columns = np.mgrid[: CANVAS[0], : CANVAS[1]]
    y, x = rows - np.float32(1536), columns - np.float32(2048)
    for k in range(20):
        along = x * np.cos(k * np.pi / 10) + y * np.sin(k * np.pi / 10)
        across = y * np.cos(k * np.pi / 10) - x * np.sin(k * np.pi / 10)
        mask |= (np.abs(across) < 10) & (along > 0) & (along < 1450)
    return mask


def cracks() -> Array:
    mask = np.ones(CANVAS, bool)
    mask[:200] = False
    for k in range(5):
        mask[:, 500 + 700 * k : 512 + 700 * k] = False
    return mask


# The scenes in which the published rule skips edges.
SCENES = {
    "disc of radius 150": lambda: disc(*CANVAS, 150, 1500, 2000),
    "pole of 40 px": lambda: pole(40),
    "pole of 90 px": lambda: pole(90),
    "disc of radius 1000 with 20-px spokes": disc_with_spokes,
    "large mask with 12-px cracks": cracks,
}


@pytest.mark.parametrize("scene", SCENES)
def test_no_boundary_pixel_is_skipped(scene: str) -> None:
    mask = SCENES[scene]()
    result = refiner().run(np.zeros((*CANVAS, 3), np.uint8), mask)
    looked_at = np.zeros(mask.shape, bool)
    for box in result.tiles_run:
        looked_at[box.slices] = True
    assert not (boundary(mask) & ~looked_at).any()


def test_tiles_without_any_edge_are_not_run() -> None:
    mask = disc(3072, 4096, 100, 300, 300)
    result = refiner().run(photo(*mask.shape), mask)
    assert 1 <= len(result.tiles_run) < result.tiles_planned / 3


def test_uncertain_places_of_the_global_step_are_looked_at() -> None:
    def doubtful(image: Tensor, seg: Tensor) -> Tensor:
        # Grey beside the object, where the given mask has no edge.
        answer = echo(image, seg).clone()
        answer[..., -80:, -80:] = 0.5
        return answer

    mask = np.zeros((2000, 2000), bool)
    mask[:1500, :1500] = True
    for network, looks in ((doubtful, True), (echo, False)):
        result = refiner(network, tile_size=450).run(photo(2000, 2000), mask)
        assert looks == any(box.y1 == 2000 and box.x1 == 2000 for box in result.tiles_run)


def test_nothing_is_found_far_from_what_was_given() -> None:
    def sees_another(image: Tensor, seg: Tensor) -> Tensor:
        answer = echo(image, seg).clone()
        answer[..., -60:, -60:] = 1
        return answer

    global_step = refiner(sees_another, fast=True)
    for mask in (disc(600, 800, 100, 300, 300), disc(1200, 2000, 200, 300, 300)):
        assert (global_step.refine(photo(*mask.shape), mask) > 0.5).tolist() == mask.tolist()


@pytest.mark.parametrize("size", [(60, 100), (900, 900), (1000, 1300), (2500, 4100)])
@pytest.mark.parametrize("fast", [True, False])
def test_a_network_that_returns_its_input_changes_nothing(size, fast) -> None:
    rng = np.random.default_rng(3)
    mask = np.zeros(size, bool)
    mask[size[0] // 4 : size[0] // 2] = True
    mask ^= rng.random(size) < 0.01  # single pixels, far below what the global step can hold
    result = refiner(echo, fast=fast).refine(photo(*size), mask)
    # logit and sigmoid do not undo each other exactly; the result is the mask, not "about" it.
    np.testing.assert_allclose(result, mask, atol=2e-6)
    assert ((result > 0.5) == mask).all()


@pytest.mark.parametrize(("radius", "runs", "seen"), [(20, 1, 600), (90, 2, 304)])
def test_small_images_are_enlarged(radius: int, runs: int, seen: int) -> None:
    """A small object at once, a larger one for a second look; never smoothed, always exact."""
    heights: list[int] = []

    def watched(image: Tensor, seg: Tensor) -> Tensor:
        heights.append(image.shape[-2])
        return echo(image, seg)

    mask = disc(300, 400, radius, 150, 200)
    result = refiner(watched).run(photo(300, 400), mask)
    assert result.network_runs == runs
    assert heights[0] == seen  # padded to a multiple of 8
    assert result.tiles_run[0] == Box(0, 0, 300, 400)
    assert len(result.tiles_run) == runs
    np.testing.assert_allclose(result.mask, mask, atol=2e-6)


def test_edges_of_medium_images_get_a_second_look_at_twice_the_size() -> None:
    """Around the object only, in tiles if that is too much for one."""
    seen: list[tuple[int, int]] = []

    def bright(image: Tensor, seg: Tensor) -> Tensor:
        seen.append((image.shape[-2], image.shape[-1]))
        return (image[:, :1] > 0).float()

    truth, coarse = disc(480, 854, 95, 200, 300), disc(480, 854, 95, 206, 295)
    image = np.where(truth, 255, 0).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    result = refiner(bright).run(image, coarse)
    assert seen == [(480, 856), (608, 608)]  # padded to eights; twice the box below
    assert result.tiles_run[0] == Box(0, 0, 480, 854)
    assert result.tiles_run[1].size == (304, 304)  # the object, a quarter of it around, to sixteens
    assert result.tiles_planned == result.network_runs == 2
    assert ((result.mask > 0.5) != truth).sum() <= 0.02 * truth.sum()

    wide = np.zeros((480, 854), bool)
    wide[30:450, 30:820] = True
    assert refiner().run(photo(480, 854), wide).network_runs == 4
    np.testing.assert_array_equal(refiner().refine(photo(480, 854), wide) > 0.5, wide)


def test_an_enlarged_image_places_edges_where_they_are() -> None:
    def bright(image: Tensor, seg: Tensor) -> Tensor:
        return (image[:, :1] > 0).float()

    truth = disc(200, 300, 30, 90, 150)
    image = np.where(truth, 255, 0).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    coarse = disc(200, 300, 30, 96, 146)
    refined = refiner(bright).refine(image, coarse) > 0.5
    # bilinear enlargement cuts single corners
    assert (refined != truth).sum() <= 0.02 * truth.sum()


def test_magnifications_between_are_used_for_large_ratios() -> None:
    mask = disc(1200, 1600, 300, 600, 800)
    runs = refiner(tile_size=128).run(photo(1200, 1600), mask)
    whole = refiner(tile_size=900).run(photo(1200, 1600), mask)
    assert runs.network_runs > len(runs.tiles_run) + 1  # a level between global and full size
    assert whole.network_runs == len(whole.tiles_run) + 1


def forget_what_is_thin(image: Tensor, seg: Tensor) -> Tensor:
    """The given mask, opened and closed: without objects and gaps of six pixels' width."""
    for sign in (-1, 1, 1, -1):
        seg = sign * nn.functional.max_pool2d(sign * seg, 7, 1, 3)
    return (seg + 1) / 2


@pytest.mark.parametrize("inverted", [False, True])
def test_a_small_image_does_not_decide_what_is_too_small_for_it(inverted: bool) -> None:
    """Of a network that forgets all that is less than seven pixels wide, wherever it sees it."""
    mask = disc(1600, 1200, 12, 500, 400) | disc(1600, 1200, 300, 1100, 700)
    mask[100:900, 900:912] = True
    mask ^= inverted
    result = refiner(forget_what_is_thin, tile_size=128).refine(photo(1600, 1200), mask) > 0.5
    np.testing.assert_array_equal(result[90:780, 880:930], mask[90:780, 880:930])  # the wire
    assert (result != mask)[480:520, 380:420].sum() < 0.3 * np.pi * 12**2  # the small disc


@pytest.mark.parametrize(
    ("size", "object_px", "tile_size"),
    [((300, 400), 200, 900), ((300, 400), 40, 900), ((500, 600), 60, 200)],
)
def test_a_bias_is_for_images_that_are_not_enlarged(size, object_px: int, tile_size: int) -> None:
    """Of a network that says 0.6 everywhere, a logit of 0.41."""
    y, x = (side // 2 - object_px // 2 for side in size)
    mask = np.zeros(size, bool)
    mask[y : y + object_px, x : x + object_px] = True

    def unsure(image: Tensor, seg: Tensor) -> Tensor:
        return torch.full_like(seg, 0.6)

    def share(bias: float, **options) -> float:
        model = replace(loaded(Stub(unsure)), metadata={"bias": str(bias)})
        found = CascadeRefiner(model, tile_size=tile_size, device="cpu", **options)
        return float((found.refine(photo(*size), mask) > 0.5)[mask].mean())

    assert share(0.0) == share(0.2) == 1
    is_enlarged = object_px == 40
    assert share(0.6) == (1 if is_enlarged else 0)
    assert share(0.6, calibrated=False) == 1


def test_the_caller_is_corrected_where_the_network_disagrees() -> None:
    def bright(image: Tensor, seg: Tensor) -> Tensor:
        return (image[:, :1] > 0).float()

    truth = disc(1500, 1500, 400, 750, 750)
    image = np.where(truth, 255, 0).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    coarse = disc(1500, 1500, 400, 780, 720)
    assert ((refiner(bright).refine(image, coarse) > 0.5) == truth).all()


def test_same_bits_for_any_batch_size_and_order_of_tiles(monkeypatch) -> None:
    image, mask = photo(400, 500), disc(400, 500, 150, 200, 250)
    expected = random_refiner(tile_size=200).refine(image, mask)
    assert expected.std() > 0
    for batch_size in (2, 5):
        again = random_refiner(tile_size=200, batch_size=batch_size).refine(image, mask)
        assert again.tobytes() == expected.tobytes()
    plan = cascade.plan_tiles
    for seed in range(3):
        rng = np.random.default_rng(seed)
        monkeypatch.setattr(
            cascade,
            "plan_tiles",
            lambda *a, rng=rng: list(rng.permutation(np.array(plan(*a), object))),
        )
        again = random_refiner(tile_size=200, batch_size=2).refine(image, mask)
        assert again.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (3, 20000), (20000, 3), (300, 1000)])
@pytest.mark.parametrize("fast", [True, False])
def test_empty_stays_empty_and_full_stays_full(size, fast) -> None:
    model = random_refiner(fast=fast)
    assert (model.refine(photo(*size), np.zeros(size, bool)) == 0).all()
    assert (model.refine(photo(*size), np.ones(size, bool)) == 1).all()


@pytest.mark.parametrize("size", [(2, 1), (3, 20000), (20000, 3), (9, 11)])
def test_extreme_shapes_give_a_mask(size) -> None:
    mask = np.zeros(size, bool)
    mask[: size[0] // 2 + 1, : size[1] // 2 + 1] = True
    mask[0, 0] = False
    result = random_refiner().refine(photo(*size), mask)
    assert result.shape == size
    assert result.dtype == np.float32
    assert ((result >= 0) & (result <= 1)).all()


def test_pictures_too_narrow_to_show_anything_keep_their_mask() -> None:
    for size in ((1, 1), (11, 400), (3, 20000)):
        mask = np.random.default_rng(0).random(size) > 0.4
        mask[0, 0] = True
        for image, given in ((photo(*size), mask), (photo(*size[::-1]), mask.T)):
            result = random_refiner().run(image, given)
            assert (result.mask == given).all()
            assert result.network_runs == 0


def test_the_first_look_at_a_long_picture_sees_more_than_a_few_rows() -> None:
    seen = []

    def look(image, seg):
        seen.append(tuple(image.shape[-2:]))
        return echo(image, seg)

    mask = np.zeros((16, 3000), bool)
    mask[4:12, 200:2800] = True
    result = refiner(look).run(photo(16, 3000), mask)
    assert seen[0] == (16, 3000)
    assert (result.mask > 0.5).tolist() == mask.tolist()


def test_sixteen_bit_images_give_the_result_of_eight_bit_ones() -> None:
    image, mask = photo(300, 400), disc(300, 400, 90, 150, 200)
    model = random_refiner(tile_size=256)
    wide = image.astype(np.uint16) * 257
    np.testing.assert_allclose(model.refine(wide, mask), model.refine(image, mask), atol=1e-4)


def test_roi_changes_nothing_outside_and_something_inside() -> None:
    image, mask = photo(400, 500), disc(400, 500, 120, 200, 250)
    roi = Box(100, 200, 300, 450)
    result = refiner(lambda image, seg: 0 * echo(image, seg)).refine(image, mask, roi=roi)
    outside = np.ones(mask.shape, bool)
    outside[roi.slices] = False
    assert (result[outside] == mask[outside]).all()
    assert (result[roi.slices] != mask[roi.slices]).any()


def test_roi_tiles_are_reported_in_pixels_of_the_image() -> None:
    mask = disc(2000, 2000, 50, 1500, 1500)
    roi = Box(1400, 1400, 1600, 1600)
    [box] = refiner().run(photo(2000, 2000), mask, roi=roi).tiles_run
    assert box.y0 <= 1400
    assert box.y1 >= 1600


def test_inputs_are_not_modified_and_soft_masks_are_binarised() -> None:
    image = photo(120, 160)
    mask = np.random.default_rng(0).random((120, 160), dtype=np.float32)
    before = image.copy(), mask.copy()
    result = refiner().refine(image, mask)
    assert (image == before[0]).all()
    assert (mask == before[1]).all()
    assert (result == (mask > 0.5)).all()


def test_progress_counts_up_to_its_total() -> None:
    seen: list[tuple[int, int]] = []
    mask = disc(1500, 1500, 400, 750, 750)
    result = refiner().run(
        photo(1500, 1500), mask, progress=lambda done, total: seen.append((done, total))
    )
    assert [done for done, _ in seen] == list(range(1, result.network_runs + 1))
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_size": 100}, "tile size must be 128 or more"),
        ({"batch_size": 0}, "batch size"),
        ({"mode": "exact"}, "mode must be"),
    ],
)
def test_bad_options(options, message) -> None:
    with pytest.raises(InputError, match=message):
        refiner(**options)


def test_bad_inputs() -> None:
    image, mask = photo(20, 30), np.zeros((20, 30), bool)
    with pytest.raises(InputError, match="mask is 20x30 but the image is 30x20"):
        refiner().refine(image, mask.T)
    with pytest.raises(InputError, match="NaN"):
        refiner().refine(image, np.full((20, 30), np.nan))
    with pytest.raises(InputError, match="RGB"):
        refiner().refine(image[:, :, 0], mask)
    with pytest.raises(InputError, match="ROI"):
        refiner().refine(image, mask, roi=Box(0, 0, 21, 5))
    with pytest.raises(InputError, match="shrink to nothing"):
        refiner(mode="published").refine(photo(3, 20000), np.ones((3, 20000), bool))


def test_merge_detail_by_hand() -> None:
    given_small = np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)
    given = given_small.repeat(3, axis=1)
    whole, size = Box(0, 0, 1, 12), Size(1, 12)
    same = Coarse(given_small, given_small, given_small)
    assert (merge_detail(same, given, size, whole) == given).all()
    moved = np.array([[0.0, 1.0, 1.0, 1.0]], np.float32)  # the edge one small pixel to the left
    merged = merge_detail(Coarse(given_small, moved, moved), given, size, whole)
    assert (merged[0] > 0.5).tolist() == [False] * 3 + [True] * 9
