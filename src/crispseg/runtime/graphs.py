"""CUDA graphs: what a network launches is recorded once for a size, then played back as a whole.

A pass is hundreds of small kernels, and launching each from Python takes longer than many of them
run. Tiles come in few sizes, so the same recording serves most of them.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

MOST = 16
"""Recordings that are kept, those played last: each holds its inputs and results."""
OFTEN = 8
"""How often a size has to come before it is recorded, and again once it was let go: recording takes
as long as some passes, and of many sizes in turn none would be played often enough."""
WARM_UP = 2
"""Passes before a recording, in which libraries choose their kernels and make their rooms."""

Result = TypeVar("Result", bound=tuple[Any, ...])
Key = tuple[tuple[Any, ...], ...]

log = logging.getLogger(__name__)
turn = threading.RLock()
"""One thread records or plays at a time: recordings have one set of inputs, and a process records
one thing at a time."""


class Recorded(NamedTuple):
    """A pass that can be done again.

    Attributes:
        replay: does it, from the inputs that it was recorded with to the same results.
        result: whose tensors it fills.
    """

    replay: Callable[[], None]
    result: Any


class Recorder(Protocol):
    """Whatever can record a pass."""

    def __call__(self, run: Callable[[], Any], device: torch.device) -> Recorded:
        """Record what ``run`` does on a device; its tensors stay where they are.

        Raises:
            RuntimeError: it cannot be recorded.
        """


class CudaRecorder:
    """Records CUDA graphs.

    Those of a device share their memory: one is played at a time, and its results are copied before
    the next. They share a stream as well, for which libraries keep room of their own.
    """

    def __init__(self) -> None:
        self._places: dict[torch.device, tuple[Any, torch.cuda.Stream]] = {}

    def __call__(self, run: Callable[[], Any], device: torch.device) -> Recorded:
        """See Recorder."""
        with torch.cuda.device(device):
            if device not in self._places:
                stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
                self._places[device] = torch.cuda.graph_pool_handle(), stream
            pool, aside = self._places[device]
            stream = torch.cuda.current_stream()
            aside.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads, which read and write files, may do as they like.
            capture = torch.cuda.graph(graph, pool, aside, capture_error_mode="thread_local")
            with torch.cuda.stream(aside):  # a capture that fails does not leave it
                for _ in range(WARM_UP):
                    run()
                with capture:
                    result = run()
            stream.wait_stream(aside)
        return Recorded(graph.replay, result)


@dataclass(frozen=True)
class _Entry:
    inputs: tuple[Tensor, ...]
    recorded: Recorded


class Graphed:
    """A function of tensors, recorded for each kind of input that comes ``OFTEN``.

    What cannot be recorded is run as it is from then on.

    Args:
        run: tensors -> a named tuple of tensors and of values that depend on sizes only; the same
            steps for all inputs of one kind, and nothing of them on the CPU.
        recorder: what records it; CUDA graphs if None.
    """

    def __init__(self, run: Callable[..., Result], recorder: Recorder | None = None) -> None:
        self._run = run
        self._recorder: Recorder | None = recorder or CudaRecorder()
        self._came: Counter[Key] = Counter()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> Any:
        """What ``run`` returns, in memory of its own.

        Threads take turns; all are to launch on the same stream.
        """
        with turn, torch.inference_mode():
            return self._found(inputs)

    def _found(self, inputs: tuple[Tensor, ...]) -> Any:
        key = tuple((x.shape, x.stride(), x.dtype, x.device) for x in inputs)
        entry = self._entries.get(key) or self._recorded(key, inputs)
        if entry is None:
            return self._as_it_is(inputs)
        self._entries.move_to_end(key)
        for kept, given in zip(entry.inputs, inputs, strict=True):
            kept.copy_(given)
        entry.recorded.replay()
        return _copied(entry.recorded.result)

    def _as_it_is(self, inputs: tuple[Tensor, ...]) -> Any:
        try:
            return self._run(*inputs)
        except torch.OutOfMemoryError as error:
            if not self._entries:
                raise
            self._give_up(error)  # recordings hold memory that nothing else can use
        return self._run(*inputs)

    def _give_up(self, error: RuntimeError) -> None:
        log.warning("no CUDA graphs, every step is launched by itself: %s", error)
        self._recorder = None
        self._entries.clear()

    def _recorded(self, key: Key, inputs: tuple[Tensor, ...]) -> _Entry | None:
        if self._recorder is None:
            return None
        self._came[key] += 1
        if self._came[key] < OFTEN:
            return None
        kept = tuple(x.clone() for x in inputs)  # in the same order of memory
        try:
            recorded = self._recorder(lambda: self._run(*kept), inputs[0].device)
        except RuntimeError as error:
            self._give_up(error)
            return None
        self._entries[key] = _Entry(kept, recorded)
        if len(self._entries) > MOST:
            del self._came[self._entries.popitem(last=False)[0]]
        return self._entries[key]


def _copied(result: Result) -> Result:
    values = (x.clone() if isinstance(x, Tensor) else x for x in result)
    return type(result)(*values)
