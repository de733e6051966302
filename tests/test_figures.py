"""Figures of MagNet's stages and of distributions: what is drawn is where it should be."""

from __future__ import annotations

import numpy as np

from crispseg.preview import (
    ADDED,
    CURVES,
    PAPER,
    REMOVED,
    StagePicture,
    render_distribution,
    render_stages,
)


def test_stages_show_points_output_and_errors() -> None:
    image = np.full((40, 60, 3), 120, np.uint8)
    points, wrong = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    points[:10], wrong[30:] = True, True
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 1
    colours = [(10, 200, 30), (250, 10, 20)]
    one = StagePicture("120 px", points, labels, wrong)
    sheet = render_stages(image, [one, one], colours).reshape(-1, 3)
    panel = 780 * 520

    def count(colour: tuple[int, int, int]) -> int:
        return int((sheet == colour).all(axis=1).sum())

    assert abs(count(ADDED) / panel - 2 * 0.25) < 0.02
    assert abs(count(REMOVED) / panel - 2 * 0.25) < 0.02
    assert abs(count(colours[0]) / panel - 2 * 0.5) < 0.02
    assert abs(count(colours[1]) / panel - 2 * 0.5) < 0.02


def test_a_distribution_rises_at_its_scores() -> None:
    picture = render_distribution({"input": [0.2, 0.4], "refined": [0.8, 0.8]})
    assert picture.shape == (560, 900, 3)
    left, top, width, height = 70, 30, 560, 450

    def at(share: float, score: float) -> tuple[int, ...]:
        y, x = top + height - round(height * share), left + round(width * score)
        return tuple(picture[y, x].tolist())

    assert at(0.5, 0.3) == CURVES[0]  # one of two images has no more than 0.3
    assert at(0.25, 0.2) == CURVES[0]
    assert at(0.5, 0.8) == CURVES[1]
    assert at(0.25, 0.6) not in (CURVES[0], CURVES[1])
    assert tuple(picture[-1, -1].tolist()) == PAPER
