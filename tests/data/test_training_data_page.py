"""docs/training-data.md says what the code does, and its examples run."""

import re
from pathlib import Path

import pytest

from crispseg.data.pairs import MASK_FOLDERS, Pair, find_pairs
from crispseg.data.perturb import ERROR_SHARES

PAGE = (Path(__file__).parents[2] / "docs" / "training-data.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its two head lines."""
    section = PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})


def test_every_error_is_listed_with_its_share() -> None:
    listed = {name.strip("`"): share for name, _, share in rows("Coarse masks")}
    assert listed == {name: f"{100 * share:.0f} %" for name, share in ERROR_SHARES.items()}


@pytest.mark.parametrize("row", rows("Layouts"), ids=lambda row: row[0])
def test_every_layout_is_read(tmp_path: Path, row: list[str]) -> None:
    _, images, masks = row
    places = [re.findall(r"`(.*?)`", cell) for cell in (images, masks)]
    expected = []
    for image, mask in zip(*places, strict=True):
        names = (image + "name.jpg", mask + "name.png") if image.endswith("/") else (image, mask)
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        expected.append(Pair(*(tmp_path / name for name in names)))
    assert find_pairs(tmp_path) == sorted(expected)


def test_every_layout_is_on_the_page() -> None:
    for images, masks in MASK_FOLDERS.items():
        assert f"{images}/`" in PAGE
        assert all(f"{mask}/`" in PAGE for mask in masks)
