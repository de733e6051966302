from __future__ import annotations

import os
from pathlib import Path

import pytest

from crispseg.evaluation.cases import Case
from crispseg.evaluation.journal import NAME, Journal
from crispseg.evaluation.scores import Row, Scores
from crispseg.types import InputError

SCORES = Scores(0.5, float("nan"), 0.25, 0.125, 1, 2)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Three cases; what is in their files does not matter."""
    found = []
    for name in "abc":
        paths = [tmp_path / f"{name}.{role}" for role in ("image", "coarse", "truth")]
        for path in paths:
            path.write_text(name)
        found.append(Case(name, *paths))
    return found


def row(name: str) -> Row:
    return Row(name, 3, 4, 5, SCORES, SCORES, 0.5)


def test_rows_are_taken_over_under_the_same_settings(tmp_path, cases) -> None:
    journal = Journal(tmp_path, {"tile_size": 900})
    assert journal.row(cases[0]) is None
    journal.add(cases[0], row("a"))
    journal.add(cases[1], row("b"))
    assert journal.row(cases[1])
    again = Journal(tmp_path, {"tile_size": 900})
    assert again.changed == []
    assert again.row(cases[0]).as_json() == row("a").as_json()
    assert again.row(cases[2]) is None
    again.add(cases[2], row("c"))
    assert Journal(tmp_path, {"tile_size": 900}).row(cases[2])


def test_other_settings_begin_anew_and_say_which(tmp_path, cases) -> None:
    Journal(tmp_path, {"tile_size": 900, "fast": False, "model": "m"}).add(cases[0], row("a"))
    other = Journal(tmp_path, {"tile_size": 512, "fast": False, "device": "cpu"})
    assert other.changed == ["device", "model", "tile_size"]
    assert other.row(cases[0]) is None
    assert (tmp_path / NAME).read_text().count("\n") == 1


def test_a_row_counts_only_while_its_files_are_the_same(tmp_path, cases) -> None:
    journal = Journal(tmp_path, {})
    for case in cases:
        journal.add(case, row(case.name))
    cases[0].coarse.write_text("longer")
    os.utime(cases[1].truth, ns=(1, 1))
    again = Journal(tmp_path, {})
    assert [again.row(case) is not None for case in cases] == [False, False, True]


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_line_that_was_cut_short_is_dropped(cut, tmp_path, cases) -> None:
    journal = Journal(tmp_path, {})
    journal.add(cases[0], row("a"))
    journal.add(cases[1], row("b"))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(tmp_path, {})
    assert again.row(cases[0])
    assert again.row(cases[1]) is None
    again.add(cases[1], row("b"))
    assert Journal(tmp_path, {}).row(cases[1])


@pytest.mark.parametrize("text", ["hello\n", "[]\n", "\n", '{"settings": {}}\n{"a": 1}\n'])
def test_another_file_of_that_name_is_left_alone(text, tmp_path) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(InputError, match="not a journal of crispseg evaluate"):
        Journal(tmp_path, {})
    assert (tmp_path / NAME).read_text() == text
