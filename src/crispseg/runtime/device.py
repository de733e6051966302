"""Which device to run on, and in which order of memory."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import nn

from crispseg.types import InputError


def resolve_device(name: str = "auto") -> torch.device:
    """The device called ``name``: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda[:N]", "mps".

    Raises:
        InputError: unknown name, or a device this machine does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name} is not here: {torch.cuda.device_count()} CUDA device(s)")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps is not here; use --device cpu")
    return device


def best_format(module: nn.Module) -> torch.memory_format:
    """The faster layout: depthwise convolutions want channels last on a CPU (half the time)."""
    convolutions = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    depthwise = any(layer.groups > 1 for layer in convolutions)
    return torch.channels_last if depthwise else torch.contiguous_format


def processor_name() -> str:
    """What this machine's CPU calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
