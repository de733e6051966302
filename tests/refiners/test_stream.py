"""The streaming cascade gives the bits of the one in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from crispseg.io.store import StripStore
from crispseg.io.windows import ArrayImage
from crispseg.models.build import build
from crispseg.models.cascadepsp import CascadeLogits, RefinementModule
from crispseg.models.weights import LoadedModel
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.refiners.stream import Scene, StreamedCascade, encode
from crispseg.types import Box, Size

FITTED = {"temperature": "1.7", "bias": "0.4"}


class Sure(RefinementModule):
    """What it is given, a little smaller and a little less sure."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, image, seg, coarse_s8=None, coarse_s4=None) -> CascadeLogits:
        logits = 20 * (-nn.functional.max_pool2d(-seg, 3, 1, 1))
        return CascadeLogits(logits, None, None, None, logits, logits)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.manual_seed(0)
    network = build("cascadepsp-lite").eval()
    return LoadedModel(network, (0.5,) * 3, (0.5,) * 3, "test", "test", FITTED)


def photo(height: int, width: int, dtype=np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max + 1
    return np.random.default_rng(0).integers(0, top, (height, width, 3), dtype=dtype)


def disc(height: int, width: int, radius: float, y: float, x: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(rows - y, columns - x) < radius


def scene(image: np.ndarray, mask: np.ndarray, valid: np.ndarray | None = None) -> Scene:
    given = (mask > 0.5) & (True if valid is None else valid)
    return Scene(
        ArrayImage(image, valid),
        lambda box: given[box.slices],
        lambda box: None if valid is None else valid[box.slices],
    )


def streamed(folder: Path, refiner: CascadeRefiner, what: Scene, **options) -> StreamedCascade:
    run = StreamedCascade(refiner, what, folder, **options)
    for _ in run.run():
        pass
    return run


def plane(store: StripStore, name: str) -> np.ndarray:
    return store.read(name, Box(0, 0, *store.size))


CASES = {
    "one local level": ((300, 420), {}),
    "levels between": ((250, 560), {}),
    "wide": ((100, 500), {}),
    "16 bits": ((200, 260), {"dtype": np.uint16}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fast", [False, True])
def test_same_bits_as_in_memory(tmp_path, model, case, fast) -> None:
    size, options = CASES[case]
    image, mask = photo(*size, **options), disc(*size, 40, size[0] / 2, size[1] / 3)
    refiner = CascadeRefiner(model, tile_size=130, device="cpu", fast=fast)
    expected = refiner.run(image, mask)
    run = streamed(tmp_path, refiner, scene(image, mask), exact=True, batch_size=2)
    assert plane(run.result(), "value").tobytes() == expected.mask.tobytes()
    assert np.ptp(expected.mask) > 0
    refined = mask ^ (plane(run.result(), "change") != 0)
    assert (refined == (expected.mask > 0.5)).all()
    if not fast:
        assert run.tiles_run == len(expected.tiles_run)
        assert run.tiles_planned == expected.tiles_planned
        assert run.runs == expected.network_runs


def test_eight_bits_with_flat_blocks_told_in_advance(tmp_path) -> None:
    """A network that is sure: most blocks are never computed, and come out the same."""
    image, mask = photo(900, 1100), disc(900, 1100, 100, 300, 300)
    model = LoadedModel(Sure(), (0.5,) * 3, (0.5,) * 3, "test", "test", FITTED)
    refiner = CascadeRefiner(model, tile_size=128, device="cpu")
    expected = np.rint(refiner.refine(image, mask) * np.float32(255)).astype(np.uint8)
    run = streamed(tmp_path, refiner, scene(image, mask))
    np.testing.assert_array_equal(plane(run.result(), "value"), expected)
    assert run.result().constant("value", Box(600, 600, 900, 1100)) == 0


def test_outside_the_valid_area_nothing_is_run_nor_left(tmp_path, model) -> None:
    size = (400, 500)
    valid = np.zeros(size, bool)
    valid[40:200, 60:300] = True
    image, mask = photo(*size), disc(*size, 120, 150, 200)
    refiner = CascadeRefiner(model, tile_size=130, device="cpu")
    expected = refiner.run(image, mask, valid=valid)
    assert (expected.mask[~valid] == 0).all()
    assert all(valid[box.slices].any() for box in expected.tiles_run)
    everywhere = refiner.run(image, mask)
    assert len(expected.tiles_run) < len(everywhere.tiles_run)
    run = streamed(tmp_path, refiner, scene(image, mask, valid), exact=True)
    assert plane(run.result(), "value").tobytes() == expected.mask.tobytes()


def test_stopped_after_every_strip_it_is_the_same(tmp_path, model) -> None:
    size = (540, 240)
    image, mask = photo(*size), disc(*size, 40, 150, 100)
    refiner = CascadeRefiner(model, tile_size=130, device="cpu")
    streamed(tmp_path / "whole", refiner, scene(image, mask))
    stops = 0
    while True:  # each round does one strip more, with a new object, as after a kill
        rounds = StreamedCascade(refiner, scene(image, mask), tmp_path / "stopped").run()
        stores = []
        for store in rounds:
            stores.append(store)
            if len(stores) > 1 + (stops > 3):  # sometimes at the global step already
                break
        stops += 1
        if stores[-1].folder.name == "result" and stores[-1].rows_done == size[0]:
            break
        assert stops < 60
    assert stops > 5
    for path in sorted((tmp_path / "whole").rglob("*.strip")):
        other = tmp_path / "stopped" / path.relative_to(tmp_path / "whole")
        assert other.read_bytes() == path.read_bytes()


def thin(size: tuple[int, int]) -> np.ndarray:
    """A 3-px pole from top to bottom and a ring of 2 px: less than a hundredth of any tile."""
    mask = np.zeros(size, bool)
    mask[:, 70:73] = True
    return mask | (disc(*size, 40, 60, 200) & ~disc(*size, 38, 60, 200))


def test_every_edge_of_a_thin_structure_is_visited_and_the_empty_rest_is_not(tmp_path) -> None:
    model = LoadedModel(Sure(), (0.5,) * 3, (0.5,) * 3, "test", "test")
    refiner = CascadeRefiner(model, tile_size=128, device="cpu")
    runs = {}
    for height, width in ((600, 400), (600, 1200)):
        mask, visited = thin((height, width)), np.zeros((height, width), bool)
        run = streamed(tmp_path / str(width), refiner, scene(photo(height, width), mask))
        runs[width] = run.tiles_run
        boxes = refiner.run(photo(height, width), mask).tiles_run
        assert len(boxes) == run.tiles_run
        for box in boxes:
            visited[box.slices] = True
        assert not (mask & ~visited).any()
    assert runs[1200] <= runs[400] + 1  # three times the area, the same edges


def test_encode_by_hand() -> None:
    given = np.array([[False, False, True, True, True]])
    p = np.array([[0.25, 0.75, 0.75, 0.25, 0.5]], np.float32)
    planes = encode(given, p, exact=False)
    half = 1 + (1 << 23)
    assert planes["change"].tolist() == [[0, half, 0, -half, -1]]
    assert planes["value"].tolist() == [[64, 191, 191, 64, 128]]
    assert Size(*planes["value"].shape) == Size(1, 5)
