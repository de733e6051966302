"""Samples that depend on a seed and their index alone, whenever and wherever they are made."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from torch.utils.data import Dataset

T_co = TypeVar("T_co", covariant=True)


class SeededSamples(Dataset[T_co]):
    """Samples 0 .. length-1; a subclass makes sample i from ``self.draw_of(i)``.

    Args:
        seed: with the index, decides every sample.
        length: number of samples.
    """

    def __init__(self, seed: int, length: int) -> None:
        self.seed, self.length = seed, length
        one_thread_each()

    def __len__(self) -> int:
        """Number of samples."""
        return self.length

    def draw_of(self, index: int) -> np.random.Generator:
        """Where all randomness of a sample comes from.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        return np.random.default_rng((self.seed, index))


def one_thread_each(_worker: int = 0) -> None:
    """Keep OpenCV to the thread that calls it: samples are made by workers side by side.

    For ``DataLoader(worker_init_fn=...)`` too: a worker does not inherit it.
    """
    cv2.setNumThreads(0)
