"""docs/cli.md is what --help says; CRISPSEG_UPDATE_DOCS=1 renews it."""

from __future__ import annotations

import os
from pathlib import Path

from crispseg.cli import main as cli

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
COMMANDS = [
    "",
    "refine",
    "segment",
    "demo",
    "evaluate",
    "datasets",
    "reproduce",
    "models",
    "models download",
    "train",
    "bench",
    "doctor",
]


def test_every_option_is_documented(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    parts = ["# The command line\n", "Written from `--help` by `tests/cli/test_docs.py`.\n"]
    for command in COMMANDS:
        assert cli.run([*command.split(), "--help"]) == 0
        text = "\n".join(line.rstrip() for line in capsys.readouterr().out.strip().splitlines())
        parts.append(f"## crispseg {command}".rstrip() + f"\n\n```\n{text}\n```\n")
    page = "\n".join(parts)
    if os.environ.get("CRISPSEG_UPDATE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page
