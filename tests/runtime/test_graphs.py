"""Passes that are recorded once and played back, as CUDA graphs are."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crispseg.models.build import build, build_segmentation
from crispseg.pipeline import load_refiner
from crispseg.runtime import graphs
from crispseg.runtime.arithmetic import Arithmetic
from crispseg.runtime.compiled import compile_cascade
from crispseg.runtime.graphs import MOST, OFTEN, CudaRecorder, Graphed, Recorded
from crispseg.runtime.precision import DIRECT, FP16
from crispseg.runtime.segmenting import compile_segmentation


class Found(NamedTuple):
    total: Tensor
    size: tuple[int, int]


class Sums:
    """A function that counts how often Python runs it."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, a: Tensor, b: Tensor) -> Found:
        self.runs += 1
        return Found(a + b, (a.shape[-2], a.shape[-1]))


class Tape:
    """Stands for a CUDA graph: the same steps again, from the same inputs to the same outputs."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, run: Callable[[], Any], _device: torch.device) -> Recorded:
        self.recorded += 1
        result = run()

        def replay() -> None:
            for kept, new in zip(result, run(), strict=True):
                if isinstance(kept, Tensor):
                    kept.copy_(new)

        return Recorded(replay, result)


def pair(height: int, value: float) -> tuple[Tensor, Tensor]:
    return torch.full((1, 1, height, 4), value), torch.ones(1, 1, height, 4)


def test_a_size_that_comes_often_is_recorded_and_played_with_its_own_values() -> None:
    tape = Tape()
    graphed = Graphed(Sums(), tape)
    found = [graphed(*pair(3, float(i))) for i in range(OFTEN + 3)]
    assert tape.recorded == 1
    for i, each in enumerate(found):  # no result lies where a later one was written
        assert isinstance(each, Found)
        assert each.size == (3, 4)
        assert torch.equal(each.total, torch.full((1, 1, 3, 4), i + 1.0))


def test_inputs_are_told_apart_by_size_order_and_kind() -> None:
    tape = Tape()
    graphed = Graphed(Sums(), tape)
    plain = torch.rand(1, 3, 4, 5)
    last = plain.contiguous(memory_format=torch.channels_last)
    kinds = [plain, last, plain.double(), torch.rand(1, 3, 5, 4)]
    for _ in range(OFTEN + 1):
        for x in kinds:
            assert torch.equal(graphed(x, x).total, 2 * x)
    assert tape.recorded == len(kinds)
    key = next(iter(graphed._entries.values())).inputs[0]
    assert key.data_ptr() != plain.data_ptr()


def test_many_sizes_in_turn_are_not_recorded_over_and_over() -> None:
    tape = Tape()
    graphed = Graphed(Sums(), tape)
    rounds = 3 * OFTEN
    for _ in range(rounds):
        for height in range(1, MOST + 6):
            assert torch.equal(graphed(*pair(height, 1.0)).total, torch.full((1, 1, height, 4), 2))
    assert len(graphed._entries) == MOST
    assert tape.recorded <= rounds // OFTEN * (MOST + 5)


def test_what_cannot_be_recorded_is_run(caplog: pytest.LogCaptureFixture) -> None:
    asked = 0

    def fails(_run: Callable[[], Any], _device: torch.device) -> Recorded:
        nonlocal asked
        asked += 1
        raise RuntimeError("operation not permitted when stream is capturing")

    sums = Sums()
    graphed = Graphed(sums, fails)
    with caplog.at_level(logging.WARNING, graphs.__name__):
        for i in range(3 * OFTEN):
            assert graphed(*pair(2, float(i))).total[0, 0, 0, 0] == i + 1
    assert asked == 1
    assert sums.runs == 3 * OFTEN
    assert "not permitted" in caplog.text


def test_short_of_memory_it_lets_recordings_go() -> None:
    short = []

    def run(x: Tensor) -> Found:
        if short and len(x) == 2:
            raise short.pop()
        return Found(2 * x, (1, 1))

    graphed = Graphed(run, Tape())
    for _ in range(OFTEN):
        graphed(torch.ones(1, 3))
    assert graphed._entries
    short.append(torch.OutOfMemoryError("none left"))
    assert torch.equal(graphed(torch.ones(2, 3)).total, torch.full((2, 3), 2.0))
    assert not graphed._entries
    short.append(torch.OutOfMemoryError("none left"))
    with pytest.raises(torch.OutOfMemoryError):
        graphed(torch.ones(2, 3))


def test_threads_take_turns() -> None:
    graphed = Graphed(Sums(), Tape())
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda i: (i, graphed(*pair(2, float(i))).total), range(600)))
    finally:
        sys.setswitchinterval(before)
    assert all(torch.equal(total, torch.full((1, 1, 2, 4), i + 1.0)) for i, total in found)


def test_a_recorded_network_goes_when_nobody_holds_it() -> None:
    form: Any = compile_segmentation(build_segmentation("pspnet-resnet50", 2).eval(), DIRECT)
    assert form._graphed
    gone = weakref.ref(form)
    gc.disable()
    try:
        del form
        assert gone() is None
    finally:
        gc.enable()


def scene(seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :128]
    inside = np.hypot(y - 48, x - 60 - seed) < 25
    image = np.where(inside[..., None], 200, 60) + rng.integers(0, 40, (96, 128, 3))
    return image.astype(np.uint8), np.roll(inside, 5, 1).astype(np.float32)


def test_a_refiner_finds_the_same_with_recordings() -> None:
    refiner, taped, tape = load_refiner(device="cpu"), load_refiner(device="cpu"), Tape()
    taped.network._pass = Graphed(taped.network._form, tape)
    for seed in range(OFTEN + 2):
        image, mask = scene(seed % 3)
        assert np.array_equal(taped.refine(image, mask), refiner.refine(image, mask))
    assert tape.recorded


@pytest.mark.gpu
def test_cuda_graphs_find_what_the_cpu_finds() -> None:
    cpu, cuda = load_refiner(device="cpu"), load_refiner(device="cuda")
    assert isinstance(cuda.network._pass, Graphed)
    for seed in range(OFTEN + 2):
        image, mask = scene(seed % 3)
        # sums in another order; where the network is unsure that is enlarged
        assert np.abs(cuda.refine(image, mask) - cpu.refine(image, mask)).mean() < 1e-3
    assert cuda.network._pass._entries
    assert isinstance(cuda.network._pass._recorder, CudaRecorder)


class OnOneDevice(TorchDispatchMode):
    """Fails where a step has anything to do with the CPU, which a recording could not repeat."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, found)):
            assert not isinstance(x, Tensor) or x.device.type == "cuda", func
        return found


def on_gpu(module: torch.nn.Module) -> None:
    """Put tensors without values in the place of a network's own."""
    for layer in module.modules():
        for store in (layer._parameters, layer._buffers):
            for name, x in store.items():
                if x is not None:
                    kind = type(x)
                    new = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")
                    store[name] = kind(new, False) if kind is torch.nn.Parameter else new


@pytest.mark.parametrize("name", ["cascadepsp-lite", "cascadepsp-resnet50", "pspnet", "deeplabv3"])
@pytest.mark.parametrize("arithmetic", [DIRECT, FP16], ids=str)
def test_a_pass_on_a_gpu_has_steps_that_depend_on_sizes_only(
    name: str, arithmetic: Arithmetic
) -> None:
    form: Any
    refines = name.startswith("cascadepsp")
    if refines:
        form = compile_cascade(build(name).eval(), arithmetic, everywhere=False)
    else:
        form = compile_segmentation(build_segmentation(f"{name}-resnet50", 5).eval(), arithmetic)
    with FakeTensorMode(), torch.inference_mode():
        on_gpu(form)
        image = torch.empty(1, 3, 128, 160, device="cuda")
        masks = [torch.empty(1, 1, 128, 160, device="cuda")] * 2
        with OnOneDevice():
            found = form(image, *masks) if refines else form.coarse(image)
    assert isinstance(found[0], Tensor)
    assert found[0].device.type == "cuda"
