"""Rough masks in, masks right to the pixel out, at any image size; and first masks, by class.

>>> import crispseg
>>> mask = crispseg.refine(image, mask)                    # doctest: +SKIP
>>> labels = crispseg.segment(image, model="net.safetensors")  # doctest: +SKIP
>>> refiner = crispseg.load_refiner("cascadepsp-lite")     # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crispseg.types import Box, CrispsegError, InputError, Size

if TYPE_CHECKING:
    from crispseg.pipeline import load_refiner, refine, refine_file, refine_labels, segment
    from crispseg.refiners.cascade import CascadeRefiner
    from crispseg.runtime.memory import keep_freed_memory
    from crispseg.segmenters.load import load_segmenter

__version__ = "0.1.0"

__all__ = [
    "Box",
    "CascadeRefiner",
    "CrispsegError",
    "InputError",
    "Size",
    "__version__",
    "keep_freed_memory",
    "load_refiner",
    "load_segmenter",
    "refine",
    "refine_file",
    "refine_labels",
    "segment",
]

_LAZY = {
    "CascadeRefiner": "crispseg.refiners.cascade",
    "keep_freed_memory": "crispseg.runtime.memory",
    "load_refiner": "crispseg.pipeline",
    "load_segmenter": "crispseg.segmenters.load",
    "refine": "crispseg.pipeline",
    "refine_file": "crispseg.pipeline",
    "refine_labels": "crispseg.pipeline",
    "segment": "crispseg.pipeline",
}


def __getattr__(name: str) -> object:
    # torch takes seconds to import; `import crispseg` and `crispseg --help` do without it.
    if name not in _LAZY:
        raise AttributeError(f"module 'crispseg' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_LAZY[name]), name)
