"""One run on several processes (torchrun): who am I, and sums over all of us."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch import distributed as dist

from crispseg.runtime.device import resolve_device
from crispseg.types import InputError


@dataclass(frozen=True)
class Group:
    """The processes of a run; alone by default.

    Attributes:
        device: of this process.
        rank: its number; 0 writes all files.
        size: how many there are.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    size: int = 1

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace float tensors by their mean over all processes, in one message."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def add(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all processes; integers stay exact up to 2^53."""
        if self.size == 1:
            return list(numbers)
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.tensor(numbers, dtype=kind, device=self.device)
        dist.all_reduce(total)
        return [float(number) for number in total.tolist()]

    def agree(self, minutes: float, stop: bool) -> tuple[float, bool]:
        """The first process's clock, and whether any process is asked to stop."""
        minutes, stops = self.add([minutes if self.rank == 0 else 0.0, float(stop)])
        return minutes, stops > 0


@contextmanager
def process_group(device: str) -> Iterator[Group]:
    """The group that torchrun's environment variables describe; alone without them.

    CUDA processes talk over NCCL and each takes the device of its local rank; others over gloo.

    Args:
        device: as ``crispseg.runtime.device.resolve_device`` takes it.

    Raises:
        InputError: the device is not here, or one CUDA device is named for several processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(resolve_device(device))
        return
    kind = resolve_device(device)
    if kind.type == "cuda":
        if kind.index is not None:
            raise InputError(f'device = "{device}" with {size} processes; use "cuda" or "auto"')
        kind = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(kind)
    dist.init_process_group("nccl" if kind.type == "cuda" else "gloo")
    try:
        yield Group(kind, dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
