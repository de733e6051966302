"""Outputs appear complete or not at all: write to a temporary name, then rename."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crispseg.types import InputError

StrPath = str | os.PathLike[str]


def check_target(path: StrPath) -> None:
    """Make sure that a file can be written at ``path``; leaves nothing there, truncates nothing.

    Call it before long work, so that a wrong output path costs no time.

    Raises:
        InputError: ``path`` is a folder, a device or a write-protected file, or its folder is
            missing or not writable.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise InputError(f"{path}: is a folder; give the name of a file in it")
        if not target.parent.exists():
            raise InputError(f"{path}: the folder {target.parent} does not exist; create it first")
        if not target.parent.is_dir():
            raise InputError(f"{path}: {target.parent} is a file, not a folder")
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: is a device or pipe; give the name of a regular file")
        if target.exists() and not os.access(target, os.W_OK):
            raise InputError(f"{path}: exists and is write-protected; choose another name")
        _reserve(target).unlink()
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written: {_reason(error)}") from None


@contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Give a temporary file to fill; it replaces ``path`` when the block ends without exception.

    The temporary file lies in the folder of ``path`` (a rename is only atomic within a file
    system), has its suffix (some writers go by it) and the permissions the umask gives to any new
    file. On an exception, KeyboardInterrupt included, it is removed and ``path`` stays as it was.
    A symbolic link is followed: the file it points to is replaced, not the link.

    Raises:
        InputError: ``path`` cannot be written (see check_target). Exceptions of the block pass.
    """
    check_target(path)
    target = Path(os.path.realpath(path))
    try:
        temporary = _reserve(target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {_reason(error)}") from None
    try:
        yield temporary
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {_reason(error)}") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _reserve(target: Path) -> Path:
    """Create an empty file beside ``target``. Unlike tempfile's, its mode follows the umask."""
    temporary = target.with_name(f".crispseg-{secrets.token_hex(6)}{target.suffix}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
