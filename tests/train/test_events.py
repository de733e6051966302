"""TensorBoard's files, read with TensorBoard."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Discs, recipe

from crispseg.train.loop import train
from crispseg.types import InputError


def test_curves_and_pictures(tmp_path) -> None:
    keys = {"tensorboard": True, "picture_every": 2, "validate_every": 3, "validate_count": 2}
    for iterations in (3, 4):  # resumed once
        config = recipe(tmp_path, iterations=iterations, warmup=0, **keys)
        train(config, samples=Discs(), validation=Discs(), say=lambda _line: None)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    scalars = {"loss", "ce", "l1_l2", "gradient", "learning_rate", "gradient_norm"}
    scalars |= {"samples_per_second", "error_before", "error_after", "validation/mba_after"}
    assert scalars <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4]
    assert board.Scalars("learning_rate")[0].value == pytest.approx(1e-3)
    assert [event.step for event in board.Scalars("validation/iou_after")] == [3]
    pictures = board.Images("samples")
    assert [event.step for event in pictures] == [2, 4]
    pixels = np.asarray(Image.open(io.BytesIO(pictures[0].encoded_image_string)))
    assert pixels.shape == (2 * 48, 4 * 48, 3)
    sample = Discs()[2]  # the first of the second batch
    assert np.array_equal(pixels[:48, :48], sample.image.numpy().transpose(1, 2, 0))
    assert np.array_equal(pixels[:48, -48:, 0], sample.truth[0].numpy() * 255)


def test_without_tensorboard_nothing_but_its_key_asks_for_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if not installed
    train(recipe(tmp_path, iterations=1), samples=Discs(), say=lambda _line: None)
    with pytest.raises(InputError, match=r"install crispseg\[train\]") as caught:
        train(recipe(tmp_path, iterations=1, tensorboard=True), samples=Discs())
    assert "\n" not in str(caught.value)
