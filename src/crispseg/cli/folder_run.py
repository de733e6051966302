"""What the results of a folder were made with, so that those of two runs do not mix."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from crispseg.io.atomic import atomic_path
from crispseg.io.journal import check_subject, checksum, read_journal, run_folder
from crispseg.models.zoo import KNOWN, local_file
from crispseg.types import InputError

JOURNAL = ".crispseg.json"
SAME_RESULT = ("device", "batch_size", "workers")
"""Options that may change when a run goes on."""


class FolderRun:
    """A run over a folder; use it in a ``with`` block, in which no other has the folder.

    A hidden file says what the results were made from and with, and since when: those that are
    older were not.

    Args:
        folder: of the results, which exists.
        outputs: files to write there.
        places: what they are made from, name -> folder.
        settings: what they are made with, option -> value; "model" among them.
        restart: none that is there counts.

    Raises:
        InputError: another process is at work there; what is there was made from or with something
            else, or not by such a run.
    """

    def __init__(
        self,
        folder: Path,
        outputs: Sequence[Path],
        places: Mapping[str, Path],
        settings: Mapping[str, Any],
        *,
        restart: bool,
    ) -> None:
        self._folder = folder
        self._outputs = outputs
        self._subject: dict[str, Any] = {name: str(p.resolve()) for name, p in places.items()}
        for name, value in settings.items():
            if name not in SAME_RESULT:
                self._subject[name.replace("_", " ")] = value
        self._subject["model"] = _identity(settings["model"])
        self._restart = restart
        self._since: int | None = None

    def __enter__(self) -> Self:
        self._lock = os.open(self._folder, os.O_RDONLY)
        try:
            self._take_lock()
            if not self._restart:
                self._since = self._begun()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def begin(self) -> None:
        """Results follow: from now on they are this run's. Call it when nothing else can fail.

        Raises:
            InputError: the folder cannot be written.
        """
        if self._since is None:
            self._since = time.time_ns()
            with atomic_path(self._folder / JOURNAL) as temporary:
                content = {"since": self._since, "of": self._subject}
                temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def is_done(self, output: Path, inputs: Iterable[Path]) -> bool:
        """Whether a result is there, whole, of this run, and newer than its inputs."""
        if self._since is None or not output.is_file():
            return False
        now = time.time_ns()
        try:
            made = output.stat()
            changed = [path.stat().st_mtime_ns for path in inputs]
        except OSError:
            return False  # what reads it says what is wrong
        latest = max([self._since, *(when for when in changed if when <= now)])
        return made.st_size > 0 and latest <= made.st_mtime_ns <= now

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self._folder}: another process is at work in it; wait for it or stop it"
            ) from None
        except OSError:
            return  # a file system without locks

    def _begun(self) -> int | None:
        journal = self._folder / JOURNAL
        if journal.exists():
            before = read_journal(journal)
            check_subject(before.get("of"), self._subject, self._folder)
            return int(before.get("since", 0))
        there = [p for p in self._outputs if p.exists() or run_folder(p).exists()]
        if there:
            raise InputError(
                f"{self._folder}: holds {there[0].name}, which no run over a folder has made; give "
                "another folder, or write over it with --restart"
            )
        return None


def _identity(model: str) -> str:
    """What tells weights from any other: of a file, or of what is known by a name."""
    spec = KNOWN.get(model)
    path = local_file(spec) if spec else Path(model)
    return checksum(path) if path and path.is_file() else model
