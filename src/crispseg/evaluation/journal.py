"""Rows on disk as they are made, so that an evaluation that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crispseg.evaluation.cases import Case
from crispseg.evaluation.scores import Row
from crispseg.io import atomic_path
from crispseg.types import InputError

NAME = "rows.jsonl"
Settings = Mapping[str, Any]


class Journal:
    """The file ``rows.jsonl`` of a folder: a line of settings, then a line for each row.

    Rows count only under the same settings, and each only while its files have the same path,
    size and time of change. A last line that was not finished is dropped.

    Args:
        folder: that exists.
        settings: all that decides about results, as JSON can hold it.

    Attributes:
        path: of the file.
        changed: the settings that differ from those of the file found, which was begun anew;
            empty if they are the same, or if there was no file.

    Raises:
        InputError: the file cannot be read or written, or is not such a journal.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.path = folder / NAME
        self.changed: list[str] = []
        self._rows: dict[str, tuple[Any, dict[str, Any]]] = {}
        lines = self._read()
        if lines:
            old = self._settings(lines[0])
            self.changed = sorted(k for k in {*old, *settings} if old.get(k) != settings.get(k))
        if self.changed:
            lines = []
        for line in lines[1:]:
            self._take(line)
        head = json.dumps({"settings": dict(settings)})
        write_text(self.path, "\n".join([head, *lines[1:]]) + "\n")

    def row(self, case: Case) -> Row | None:
        """The row of a case, if it was made from the files as they are now.

        Raises:
            InputError: it is no row of masks.
        """
        values = self.values(case.name, case.files())
        try:
            return None if values is None else Row.from_json(values)
        except (ValueError, KeyError, TypeError):
            raise self._foreign() from None

    def add(self, case: Case, row: Row) -> None:
        """Write down the row of a case.

        Raises:
            InputError: as ``put``.
        """
        self.put(case.files(), row.as_json())

    def values(self, name: str, files: Mapping[str, Path]) -> dict[str, Any] | None:
        """What was written down under a name, if its files are as they were."""
        found, values = self._rows.get(name, (None, None))
        return values if found == _fingerprint(files) else None

    def put(self, files: Mapping[str, Path], values: Mapping[str, Any]) -> None:
        """Write down values; they are on disk when this returns.

        Args:
            files: role -> file that they were made from.
            values: as JSON can hold them, with a "name".

        Raises:
            InputError: they cannot be written.
        """
        found = _fingerprint(files)
        line = json.dumps({"files": found, "row": dict(values)})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._rows[values["name"]] = found, dict(values)

    def _read(self) -> list[str]:
        """Whole lines; the last piece is empty, or a line that was cut short."""
        try:
            return self.path.read_text(encoding="utf-8").split("\n")[:-1]
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: cannot be read: {error}") from None

    def _settings(self, line: str) -> dict[str, Any]:
        try:
            return dict(json.loads(line)["settings"])
        except (ValueError, KeyError, TypeError):
            raise self._foreign() from None

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
            self._rows[entry["row"]["name"]] = entry["files"], dict(entry["row"])
        except (ValueError, KeyError, TypeError):
            raise self._foreign() from None

    def _foreign(self) -> InputError:
        return InputError(f"{self.path} is not a journal of crispseg evaluate; delete or move it")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _fingerprint(files: Mapping[str, Path]) -> dict[str, list[Any]]:
    """Role -> path, size and time of change."""
    stats = {role: (path.resolve(), path.stat()) for role, path in files.items()}
    return {r: [str(path), stat.st_size, stat.st_mtime_ns] for r, (path, stat) in stats.items()}
