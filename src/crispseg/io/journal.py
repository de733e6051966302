"""A run that can be interrupted: its folder beside the output, its lock, and what it is about.

The folder holds ``journal.json``, which says what the run is about, and whatever the run has
finished (``io.store``). The same command finds it and goes on. Another image, model or option under
the same output is noticed and refused; nothing of two runs can ever mix.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from crispseg.io.atomic import StrPath, atomic_path
from crispseg.types import InputError

JOURNAL, LOCK = "journal.json", "lock"
SAMPLE_BYTES = 1 << 20


class RunFolder:
    """The folder of one run; use it in a ``with`` block, which holds its lock.

    Args:
        output: what the run makes; the folder lies beside it.
        subject: what the run is about, name -> anything JSON knows; see ``fingerprint``.
        restart: throw away what an earlier run has left.

    Raises:
        InputError: another process works on the same output, an earlier run was about something
            else, or the folder cannot be written.
    """

    def __init__(self, output: StrPath, subject: Mapping[str, Any], *, restart: bool) -> None:
        self.path = run_folder(output)
        self._output = output
        self._subject = subject
        self._restart = restart
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(exist_ok=True)
            self._lock = open(self.path / LOCK, "ab")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(
                f"{self._output}: another process is at work on it; wait for it or stop it"
            ) from None
        try:
            if os.fstat(self._lock.fileno()).st_nlink == 0:  # the run ended while we came
                raise InputError(f"{self._output}: another process has just finished it")
            self._agree()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        assert self._lock
        if kind is None or not any(self.path.rglob("*.strip")):
            # After a mistake it is tried: what went wrong first is what has to be told.
            shutil.rmtree(self.path, ignore_errors=kind is not None)
        self._lock.close()

    def _agree(self) -> None:
        journal = self.path / JOURNAL
        if self._restart:
            for path in self.path.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
        if journal.exists():
            check_subject(read_journal(journal), self._subject, self._output)
            return
        with atomic_path(journal) as temporary:
            temporary.write_text(json.dumps(self._subject, indent=1), encoding="utf-8")


def read_journal(journal: Path) -> dict[str, Any]:
    """What is written down of a run.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return dict(json.loads(journal.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise InputError(f"{journal}: is damaged; begin again with --restart") from None


def check_subject(before: Any, subject: Mapping[str, Any], output: StrPath) -> None:
    """Make sure that a run is about what an earlier one was about.

    Args:
        before: what is written down of that.
        subject: name -> anything JSON knows.
        output: what the run makes.

    Raises:
        InputError: it is about something else.
    """
    known = before if isinstance(before, dict) else {}
    now = json.loads(json.dumps(subject))
    changed = [name for name, value in now.items() if known.get(name) != value]
    if changed or set(known) != set(now):
        what = ", ".join(changed) or "what is done"
        raise InputError(
            f"{output}: was begun with another {what}; go on with the same, or begin again with "
            "--restart"
        )


def run_folder(output: StrPath) -> Path:
    """Where the run that makes ``output`` keeps what it has done."""
    return Path(output).with_name(f"{Path(output).name}.crispseg")


def checksum(path: StrPath, kind: str = "sha256") -> str:
    """Hexadecimal digest of a file's content; ``kind`` as ``hashlib`` calls it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def fingerprint(path: StrPath) -> dict[str, Any]:
    """What tells a file, or a folder of files, from any other: sizes, times, first and last bytes.

    Raises:
        InputError: there is no such file.
    """
    root = Path(path)
    files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    digest = hashlib.sha256()
    total = 0
    try:
        for file in files:
            status = file.stat()
            total += status.st_size
            digest.update(
                f"{file.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode()
            )
            if len(files) == 1:
                digest.update(_ends(file, status.st_size))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return {"name": root.name, "bytes": total, "sha256": digest.hexdigest()}


def check_unchanged(before: Mapping[Path, Mapping[str, Any]]) -> None:
    """Make sure that files are what they were; file -> its fingerprint then.

    Raises:
        InputError: one has changed.
    """
    for path, known in before.items():
        if fingerprint(path) != known:
            raise InputError(f"{path}: has changed during the run; begin again with --restart")


@contextmanager
def honest(output: Path) -> Iterator[None]:
    """Say what is left where the run that makes ``output`` ends early, and what to do."""
    folder = run_folder(output)
    try:
        yield
    except InputError as error:
        said = "--restart" in str(error) or "another process" in str(error)
        if said or not any(folder.rglob("*.strip")):
            raise
        raise InputError(
            f"{error}; what is done is kept in {folder}, and the same command goes on from there"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise InputError(
            f"{folder}: no space left on the disk; free some, and the same command goes on"
        ) from None


def _ends(path: Path, length: int) -> bytes:
    with open(path, "rb") as file:
        first = file.read(SAMPLE_BYTES)
        file.seek(max(length - SAMPLE_BYTES, 0), os.SEEK_SET)
        return first + file.read(SAMPLE_BYTES)
