"""Learning rates by hand."""

from __future__ import annotations

import pytest
from tiny import recipe

from crispseg.train.schedule import rate


def test_warm_up_and_cosine(tmp_path) -> None:
    config = recipe(tmp_path, warmup=100)
    assert rate(config, 0, 0.0) == pytest.approx(0.01)
    assert rate(config, 49, 0.0) == pytest.approx(0.5)
    assert rate(config, 99, 0.0) == pytest.approx(1)
    assert rate(config, 1000, 0.5) == pytest.approx(0.505)
    assert rate(config, 1000, 1.0) == pytest.approx(0.01)


def test_step_falls_to_a_tenth_at_each_milestone(tmp_path) -> None:
    config = recipe(tmp_path, warmup=0, schedule="step", milestones=(30, 50))
    heights = [rate(config, step, step / 60) for step in (0, 29, 30, 49, 50, 59)]
    assert heights == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_poly(tmp_path) -> None:
    config = recipe(tmp_path, warmup=0, schedule="poly")
    assert rate(config, 0, 0.0) == 1
    assert rate(config, 5, 0.75) == pytest.approx(0.25**0.9)
    assert rate(config, 9, 1.0) == 0
