"""Files of weights as named tensors: safetensors and PyTorch's pickles, no code of theirs run."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crispseg.types import InputError

if TYPE_CHECKING:
    from torch import Tensor


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors and metadata of a safetensors file or a PyTorch state dict.

    No code that a file might carry is run.

    Raises:
        InputError: not a file, not of weights, damaged, or more than named tensors.
    """
    if os.path.exists(path) and not path.is_file():
        what = "a folder" if path.is_dir() else "a device or pipe"
        raise InputError(f"{path} is {what}, not a weights file")
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise InputError(f"cannot read weights file {path}: {error.strerror}") from None
    if len(head) < 16:
        raise InputError(f"{path} is not a weights file: it has {len(head)} bytes")
    text = head.decode("latin-1")
    if text.isascii() and "".join(text.split()).isprintable():
        raise InputError(f"{path} is text or a web page, not a weights file: it begins {text!r}")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    return _unwrap(_read_pickle(path, zipped=head.startswith(b"PK")), path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is not a usable safetensors file: {one_line(error)}") from None


def _read_pickle(path: Path, *, zipped: bool) -> Any:
    import torch  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles; what matters is the outcome
            # Only the zip format, PyTorch's since 1.6, can be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is damaged or not a file of weights alone; files that could run code are not "
            "loaded: save the network's state_dict()"
        ) from None
    except Exception as error:  # a damaged pickle fails in any way there is
        raise InputError(f"{path} is damaged or not a weights file: {one_line(error)}") from None


def one_line(text: object) -> str:
    """``text`` without line breaks, at most 300 characters."""
    return " ".join(str(text).split())[:300]


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    import torch  # noqa: PLC0415

    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded:
        raise InputError(f"{path} holds no state dict")
    if not all(isinstance(key, str) and isinstance(v, torch.Tensor) for key, v in loaded.items()):
        raise InputError(f"{path} holds more than named tensors; save its state dict alone")
    if all(key.startswith("module.") for key in loaded):
        return {key.removeprefix("module."): value for key, value in loaded.items()}
    return loaded
