"""The global step: a look at the whole image, and another where the first changed the mask much."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crispseg.refiners.network import CascadeNetwork
from crispseg.refiners.reach import within_reach

Array = NDArray[np.float32]
Flags = NDArray[np.bool_]

MUCH = 0.85
"""IoU of the given mask and the first look's result below which there is a second look."""


def look_at_whole(
    network: CascadeNetwork,
    image: Tensor,
    given: Array,
    channels: int = 2,
    *,
    after_run: Callable[[], None],
) -> Array:
    """The global step (section 3.3 of the paper), repeated where it changed much.

    A mask that is far off tells the network little of where the object ends. What it makes of such
    a mask is nearer, so it is given that in turn, as the mask and in place of the first run's
    result: the probabilities as they are, which say where the network was not sure. The published
    network gets what its local step gets.

    Args:
        network: that looks.
        image: (1, 3, h, w) normalised, or what ``CascadeNetwork.enlarged`` gives.
        given: (h, w) share of each pixel that the caller's mask covers.
        channels: see ``CascadeNetwork.probabilities``.
        after_run: called after every run of the network, once or twice.

    Returns:
        (channels, h, w) float32 probabilities, 0 out of reach of the given mask.
    """
    values = _look(network, image, [given * 2 - 1], given, channels)
    after_run()
    if _has_changed_much(given > 0.5, values[0] > 0.5):
        found = values[0] * 2 - 1
        masks = [found, found] if network.takes_soft else [_sides(found), values[-1] * 2 - 1]
        values = _look(network, image, masks, given, channels)
        after_run()
    return values


def _look(
    network: CascadeNetwork, image: Tensor, masks: list[Array], given: Array, channels: int
) -> Array:
    [values] = network.probabilities([image], [masks], channels)
    return within_reach(given, values)


def _has_changed_much(before: Flags, after: Flags) -> bool:
    either = int(np.count_nonzero(before | after))
    return int(np.count_nonzero(before & after)) < MUCH * either


def _sides(mask: Array) -> Array:
    return np.where(mask > 0, np.float32(1), np.float32(-1))
