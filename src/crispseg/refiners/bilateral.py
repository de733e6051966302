"""Bilateral filtering in time that does not grow with its reach: a grid in space and colour.

Gaussian weights over positions and colours together would cost every pixel all others. Values are
spread onto a coarse grid with one axis for each of y, x and the three colours, smoothed along each
axis, and read back, as in Chen et al., "Real-time edge-aware image processing with the bilateral
grid", SIGGRAPH 2007; only cells with pixels in them or beside them exist.
"""

from __future__ import annotations

import itertools
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = NDArray[np.float32]
Values = NDArray[np.float32]

KERNEL = (0.25, 0.5)  # beside, middle
# Spreading and reading are linear, of variance 1/6 each, and the kernel's is 1/2: one in all.
SPACING = sqrt(1 / (1 / 6 + 1 / 6 + 1 / 2))


class SparseGrid:
    """A Gaussian filter over features, prepared for one image.

    Args:
        features: (N, D) float32, one row a pixel; a distance of 1 is one standard deviation.
    """

    def __init__(self, features: Features) -> None:
        axes = features.shape[1]
        scaled = features.astype(np.float64) / SPACING
        base = np.floor(scaled).astype(np.int64)
        part = scaled - base
        base -= base.min(axis=0) - 1  # a rim of one cell, so that neighbours never wrap around
        shape = base.max(axis=0) + 3
        strides = np.append(np.cumprod(shape[:0:-1])[::-1], 1).astype(np.int64)
        corners = np.array(list(itertools.product((0, 1), repeat=axes)))
        code = base @ strides
        codes = np.stack([code + corner @ strides for corner in corners])
        self._cells, places = np.unique(codes, return_inverse=True)
        self._places = torch.from_numpy(places.reshape(codes.shape))
        weights = [np.prod(np.where(c, part, 1 - part), axis=1) for c in corners]
        self._weights = torch.from_numpy(np.stack(weights).astype(np.float32))
        self._neighbours = [self._beside(int(s)) for s in strides]

    def _beside(self, stride: int) -> tuple[Tensor, Tensor]:
        """For each cell the places of its two neighbours along an axis; the last + 1 if none."""
        places = []
        for step in (-stride, stride):
            wanted = self._cells + step
            found = np.searchsorted(self._cells, wanted)
            there = found < len(self._cells)
            there[there] = self._cells[found[there]] == wanted[there]
            places.append(torch.from_numpy(np.where(there, found, len(self._cells))))
        return places[0], places[1]

    def filter(self, values: Values) -> Values:
        """(C, N) -> (C, N) float32: sums of all values, weighted by nearness in features.

        What it makes of ones says how much weight each pixel found; a factor that is the same
        for all pixels is left open.
        """
        given = torch.from_numpy(np.ascontiguousarray(values.T))  # (N, C)
        grid = torch.zeros(len(self._cells) + 1, given.shape[1])
        for places, weights in zip(self._places, self._weights, strict=True):
            grid.index_add_(0, places, given * weights[:, None])
        for before, after in self._neighbours:
            grid[:-1] = KERNEL[1] * grid[:-1] + KERNEL[0] * (grid[before] + grid[after])
        result = torch.zeros_like(given)
        for places, weights in zip(self._places, self._weights, strict=True):
            result += grid[places] * weights[:, None]
        return np.ascontiguousarray(result.numpy().T)


def exact_filter(features: Features, values: Values) -> Values:
    """What ``SparseGrid`` approximates, every pixel with every other: exp(-distance^2 / 2).

    Args:
        features: (N, D); N^2 numbers are held.
        values: (C, N).
    """
    distance = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    return np.asarray(values @ np.exp(-distance / 2), np.float32)
