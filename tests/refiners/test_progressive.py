"""MagNet's stages on networks whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crispseg.models.magnet import MagnetRefinement
from crispseg.refiners.points import Budget
from crispseg.refiners.progressive import Progression, ProgressiveRefiner, Stage, point_rend
from crispseg.refiners.running import RunningMap
from crispseg.refiners.select import median_blur, top_k, uncertainty
from crispseg.tiling.grid import plan_tiles
from crispseg.types import Box, InputError, Size

Array = np.ndarray
CLASSES = 3


def predict(image: Array) -> Array:
    """A pixel's class follows from its colour alone, more or less surely."""
    logits = np.moveaxis(image.astype(np.float32), -1, 0) / 40
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


class Fine(nn.Module):
    """Believes the finer probabilities, and a little the coarser ones."""

    num_classes = CLASSES

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return (0.9 * fine + 0.1 * coarse).clamp(min=1e-6).log()


def photo(height: int, width: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    smooth = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3))
    large = np.kron(smooth, np.ones((8, 8, 1)))[:height, :width]
    return np.clip(large + rng.integers(-40, 40, large.shape), 0, 255).astype(np.uint8)


STAGES = (Stage(16), Stage(32, Size(16, 16), 100), Stage(64, Size(16, 16), 300))


def refiner(stages=STAGES, module: nn.Module | None = None, **options) -> ProgressiveRefiner:
    return ProgressiveRefiner(predict, module or Fine(), stages, device="cpu", **options)


def naive(image: Array, sides: tuple[int, ...], points: tuple[int, ...], tile: int) -> Array:
    """MagNet with whole maps: torch's resizing, a full sort, no strips."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    module = Fine()
    current = None
    for side, k in zip(sides, points, strict=True):
        small = torch.nn.functional.interpolate(x, (side, side), mode="area")
        pixels = small[0].permute(1, 2, 0).round().numpy().astype(np.uint8)
        if current is None:
            current = torch.from_numpy(predict(pixels))[None]
            continue
        current = torch.nn.functional.interpolate(
            current, (side, side), mode="bilinear", align_corners=False
        )
        refined = torch.zeros_like(current)
        for box in plan_tiles(Size(side, side), tile, 0):
            rows, columns = box.slices
            fine = torch.from_numpy(predict(pixels[rows, columns]))[None]
            logits = module(current[:, :, rows, columns], fine)
            refined[:, :, rows, columns] = logits.softmax(dim=1)
        scores = uncertainty(current[0].numpy()) * (1 - uncertainty(refined[0].numpy()))
        chosen = top_k(median_blur(scores, 5).ravel(), k)
        current.view(CLASSES, -1)[:, chosen] = refined.view(CLASSES, -1)[:, chosen]
    return current[0].numpy()


def test_equals_the_method_with_whole_maps() -> None:
    image = photo(64, 64)
    expected = naive(image, (16, 32, 64), (0, 100, 300), 16)
    found = refiner().probabilities(image)
    assert np.abs(found - expected).max() < 1e-5
    assert np.array_equal(refiner().segment(image), expected.argmax(axis=0))


@pytest.mark.parametrize("overlap_px", [0, 8])
@pytest.mark.parametrize("size", [(64, 64), (61, 97), (40, 23)])
def test_probabilities_sum_to_one_everywhere(size: tuple[int, int], overlap_px: int) -> None:
    stages = (Stage(16), Stage(32, Size(16, 16), 0.6), Stage(None, Size(16, 24), 0.9))
    found = refiner(stages, overlap_px=overlap_px).probabilities(photo(*size))
    assert found.shape == (CLASSES, *size)
    assert np.abs(found.sum(axis=0) - 1).max() < 1e-5
    assert found.min() >= 0


def test_labels_without_probabilities_are_the_same() -> None:
    image = photo(61, 97)
    for overlap_px in (0, 8):
        one = refiner(overlap_px=overlap_px)
        stages = one.run(image, keep_probabilities=True)
        last = stages.stages[-1].output
        assert last is not None
        assert np.array_equal(one.run(image).labels, last.labels(Size(61, 97)))


def test_exactly_k_points_change_and_the_rest_is_the_stage_before() -> None:
    result = refiner().run(photo(64, 64), keep_probabilities=True)
    before, after = result.stages[1].output, result.stages[2].output
    assert before is not None and after is not None
    assert len(result.stages[1].positions) == 100
    assert len(result.stages[2].positions) == 300
    enlarged = before.probabilities(Size(64, 64)).reshape(CLASSES, -1)
    changed = np.ones(64 * 64, bool)
    changed[result.stages[2].positions] = False
    assert np.array_equal(
        after.probabilities().reshape(CLASSES, -1)[:, changed], enlarged[:, changed]
    )


def test_all_points_replaced_is_the_refinement_itself() -> None:
    # Reassembly: each point gets the value of the tile it lies in.
    stages = (Stage(16), Stage(None, Size(16, 16), 1.0))
    image = photo(32, 48)
    result = refiner(stages).probabilities(image)
    first = refiner((Stage(16),)).run(image).stages[0].output
    assert first is not None
    coarse = first.probabilities(Size(32, 48))
    mixed = np.maximum(0.9 * predict(image) + 0.1 * coarse, 1e-6)
    assert np.abs(result - mixed / mixed.sum(axis=0)).max() < 1e-5


class Recorder(nn.Module):
    """Keeps what it was given."""

    num_classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        self.seen.append((coarse, fine))
        return fine.clamp(min=1e-6).log()


def test_the_module_sees_coarse_first_and_fine_second() -> None:
    image = photo(32, 32)
    module = Recorder()
    refiner((Stage(16), Stage(None)), module).run(image)
    [(coarse, fine)] = module.seen
    assert np.array_equal(fine[0].numpy(), predict(image))
    assert coarse.shape == fine.shape and not torch.allclose(coarse, fine)


def uncertain_corner(height: int, width: int) -> Array:
    """Sure everywhere but at the bottom right, where two classes nearly tie."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = 255
    image[-height // 4 :, -width // 4 :, 1] = 250
    return image


def test_fast_runs_the_most_uncertain_tiles() -> None:
    stages = (Stage(16), Stage(64, Size(16, 16), 1000))
    result = refiner(stages, budget=Budget(tiles=1)).run(uncertain_corner(64, 64))
    assert result.stages[1].tiles_run == (Box(48, 48, 64, 64),)
    assert len(result.stages[1].tiles) == 16
    assert result.network_runs == 2


def test_fast_replaces_points_inside_the_tiles_it_ran() -> None:
    # The released code zeroes the scores there and replaces arbitrary points.
    stages = (Stage(16), Stage(64, Size(16, 16), 200))
    result = refiner(stages, budget=Budget(tiles=1)).run(uncertain_corner(64, 64))
    y, x = np.divmod(result.stages[1].positions, 64)
    assert len(y) == 200
    assert y.min() >= 48 and x.min() >= 48


def test_fast_takes_a_share_of_what_it_ran() -> None:
    stages = (Stage(16), Stage(64, Size(16, 16), 0.5))
    result = refiner(stages, budget=Budget(tiles=2)).run(photo(64, 64))
    assert len(result.stages[1].positions) == 256


def test_fast_with_all_tiles_is_magnet() -> None:
    image = photo(64, 64)
    fast, full = (refiner(budget=b).run(image) for b in (Budget(tiles=99), None))
    assert np.array_equal(fast.labels, full.labels)
    assert fast.network_runs == full.network_runs == 1 + 4 + 16


def test_a_budget_of_passes_is_shared_by_the_stages() -> None:
    result = refiner(budget=Budget(passes=7)).run(photo(64, 64))
    assert [len(s.tiles_run) for s in result.stages] == [1, 3, 3]
    assert result.network_runs == 7


def test_a_budget_in_time_stops_in_time() -> None:
    now = [0.0]

    def slow(image: Array) -> Array:
        now[0] += 1.0
        return predict(image)

    one = ProgressiveRefiner(
        slow, Fine(), STAGES, device="cpu", budget=Budget(milliseconds=6000), clock=lambda: now[0]
    )
    result = one.run(photo(64, 64))
    # One second of six for the first stage; then 2.5 s, which three tiles exceed; then 2 s.
    assert [len(s.tiles_run) for s in result.stages] == [1, 3, 2]


def test_a_coarse_map_stands_for_the_first_stage() -> None:
    image = photo(64, 64)
    whole = refiner((Stage(16),)).run(image).stages[0].output
    assert whole is not None
    given = refiner().run(image, coarse=whole.probabilities())
    assert given.network_runs == 20
    assert np.array_equal(given.labels, refiner().segment(image))


def test_the_network_may_see_tiles_smaller_than_they_are() -> None:
    seen: list[tuple[int, ...]] = []

    def watched(image: Array) -> Array:
        seen.append(image.shape)
        return predict(image)

    stages = (Stage(16), Stage(None, Size(32, 32), 0.75))
    one = ProgressiveRefiner(watched, Fine(), stages, device="cpu", input_size=Size(16, 16))
    assert one.segment(photo(64, 64)).shape == (64, 64)
    assert set(seen) == {(16, 16, 3)}


def test_one_module_or_one_for_each_stage() -> None:
    image = photo(64, 64)
    each = ProgressiveRefiner(predict, [Fine(), Fine()], STAGES, device="cpu")
    assert np.array_equal(each.segment(image), refiner().segment(image))
    with pytest.raises(InputError, match="2 stages follow the first, but there are 1 modules"):
        ProgressiveRefiner(predict, [Fine()], STAGES, device="cpu")


def test_a_module_of_other_classes_is_refused() -> None:
    with pytest.raises(InputError, match="module of 5 classes"):
        refiner(module=MagnetRefinement(5)).run(photo(64, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"stages": ()}, "at least one stage"), ({"median_px": 16}, "odd")],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        refiner(**options)


@pytest.mark.parametrize("options", [{}, {"tiles": 1, "passes": 2}, {"tiles": 0}])
def test_a_budget_is_one_number(options: dict) -> None:
    with pytest.raises(InputError, match="one number"):
        Budget(**options)


def test_windows_of_a_running_map_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    base = rng.random((CLASSES, 5, 7), np.float32)
    positions = np.sort(rng.choice(13 * 20, 40, replace=False))
    current = RunningMap.first(base / base.sum(axis=0)).refined(
        Size(13, 20), positions, rng.random((40, CLASSES), np.float32)
    )
    larger = Size(31, 44)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(current.probabilities())[None],
        larger,
        mode="bilinear",
        align_corners=False,
    )[0].numpy()
    for box in (Box(0, 0, 31, 44), Box(3, 5, 20, 6), Box(30, 43, 31, 44), Box(11, 0, 29, 31)):
        window = current.enlarged(larger, box)
        assert np.abs(window - expected[(slice(None), *box.slices)]).max() < 1e-5


def test_point_rend_predicts_the_most_uncertain_points_anew() -> None:
    image = photo(32, 32)
    result = point_rend(predict, (Stage(16), Stage(None, None, 50))).run(
        image, keep_probabilities=True
    )
    first, last = (stage.output for stage in result.stages)
    assert first is not None and last is not None
    expected = first.probabilities(Size(32, 32)).reshape(CLASSES, -1)
    chosen = top_k(uncertainty(first.probabilities(Size(32, 32))).ravel(), 50)
    expected[:, chosen] = predict(image).reshape(CLASSES, -1)[:, chosen]
    assert np.abs(last.probabilities().reshape(CLASSES, -1) - expected).max() < 1e-5


def largest_strip(height: int, width: int) -> int:
    """Bytes that MagNet holds at most at once beside the image, by tracemalloc."""
    import tracemalloc

    stages = (Stage(64), Stage(None, Size(32, 64), 2000))
    image = np.repeat(np.repeat(photo(height // 8, width // 8), 8, axis=0), 8, axis=1)
    one = refiner(stages)
    tracemalloc.start()
    result: Progression = one.run(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - result.labels.nbytes


def test_memory_grows_with_the_width_not_with_the_height() -> None:
    small, large = largest_strip(256, 256), largest_strip(1024, 256)
    assert large < 1.3 * small
