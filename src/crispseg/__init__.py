"""Rough masks in, masks right to the pixel out, at any image size.

>>> import crispseg
>>> mask = crispseg.refine(image, mask)                    # doctest: +SKIP
>>> refiner = crispseg.load_refiner("cascadepsp-lite")     # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crispseg.types import Box, CrispsegError, InputError, Size

if TYPE_CHECKING:
    from crispseg.pipeline import load_refiner, refine, refine_file
    from crispseg.refiners.cascade import CascadeRefiner

__version__ = "0.1.0"

__all__ = [
    "Box",
    "CascadeRefiner",
    "CrispsegError",
    "InputError",
    "Size",
    "__version__",
    "load_refiner",
    "refine",
    "refine_file",
]

_LAZY = {
    "CascadeRefiner": "crispseg.refiners.cascade",
    "load_refiner": "crispseg.pipeline",
    "refine": "crispseg.pipeline",
    "refine_file": "crispseg.pipeline",
}


def __getattr__(name: str) -> object:
    # torch takes seconds to import; `import crispseg` and `crispseg --help` do without it.
    if name not in _LAZY:
        raise AttributeError(f"module 'crispseg' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_LAZY[name]), name)
