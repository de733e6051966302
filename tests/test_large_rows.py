"""Parts of a large result that are known to be flat."""

from __future__ import annotations

import numpy as np

from crispseg.io.raster import BLOCK
from crispseg.large_rows import FlatParts, Rows, Tally, WholeRows
from crispseg.types import Box


def test_parts_cover_rows_and_are_asked_for_once_a_band() -> None:
    asked = []

    def known(box: Box) -> tuple[float, float] | None:
        asked.append(box)
        return None if box.x0 == 2 * BLOCK else (0.0, 0.0) if box.x0 < 4 * BLOCK else (255.0, 1.0)

    parts, width = FlatParts(known), 5 * BLOCK + 17
    rows = [Box(y, 0, y + 128, width) for y in range(0, 2 * BLOCK, 128)]
    for box in rows:
        found = list(parts.of(box))
        assert [(part.x0, part.x1, value) for part, value in found] == [
            (0, 2 * BLOCK, (0.0, 0.0)),
            (2 * BLOCK, 3 * BLOCK, None),
            (3 * BLOCK, 4 * BLOCK, (0.0, 0.0)),
            (4 * BLOCK, width, (255.0, 1.0)),
        ]
        assert all((part.y0, part.y1) == (box.y0, box.y1) for part, _ in found)
    assert len(asked) == 2 * 6


def test_a_flat_part_counts_and_is_placed_as_its_pixels() -> None:
    rng = np.random.default_rng(0)
    given, refined = rng.random((2, 8, 30)) > 0.5
    given[:, 10:20] = refined[:, 10:20] = True
    tally, whole = Tally(), WholeRows(30)
    done = None
    for x0 in (0, 10, 20):
        box = Box(4, x0, 12, x0 + 10)
        at = np.s_[:, x0 : x0 + 10]
        part = Rows(box, refined[at].astype(np.uint8), given[at], refined[at])
        part = Rows.flat(box, np.uint8(255), given=True) if x0 == 10 else part
        assert done is None
        tally.add(part)
        done = whole.add(part)
    np.testing.assert_array_equal(done, refined)
    expected = Tally(int(given.sum()), int(refined.sum()), int((given != refined).sum()))
    assert tally == expected
