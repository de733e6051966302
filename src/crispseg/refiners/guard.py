"""Calibrated confidence, and the guard that keeps a refined mask from being worse than its input.

Networks are surer than they are right, what they learned edges from may have been traced a little
wide, and a refiner's worst mistakes have a form of their own: a large, thick piece taken away or
added at once. ``calibrate`` corrects the first two by a temperature (Guo et al., ICML 2017) and a
bias (Platt's scaling). The guard judges the third: every connected piece of change is described
by a few numbers, a logistic model that was fitted on validation images says how likely the change
is right, and what is not trusted goes back to the input, piece by piece, or whole objects where
most is doubtful. Both models are a handful of numbers in the weights' metadata, fitted by
``recipes/fit_guard.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from crispseg.tiling.pieces import bounding_box, bounding_boxes, components, rim
from crispseg.types import Box, InputError, Mask, Size

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

NEGLIGIBLE = 0.01
"""Calibrated probabilities this near to 0 or 1 are 0 or 1. On validation photographs, 0.4 to 0.8 %
of the background far from edges is wrong where the network is just that sure, and still 0.3 % where
it is surest: what is left there says nothing, but is a haze over the background."""
FEATURES = ("constant", "log_share", "log_thickness", "certainty", "added")
ADDED, REMOVED = 1, 2
MOST_BIAS = 5.0
MISUNDERSTOOD = 0.5
DOUBTFUL = 0.35
"""Trust below which a change is undone. At one half, with the weights it was chosen for, the guard
gained nothing on its validation images and cost 0.2 points of IoU on DAVIS's low-resolution masks
(93.90 without, 93.70 at a half, 93.79 at 0.35)."""
AT_A_LOSS = 0.25
"""Share of an object's pixels that the network itself expects to have wrong, above which it is not
trusted with the object at all. On CamVid's street scenes that is poles and signs a few pixels wide:
of 124 objects 17 are above, and their IoU falls by 5 points where it rises by 7 for the others. No
object of the test photographs and of DAVIS comes to more than 0.13."""
LEAST_KEPT = 0.2
"""Share of the given pixels of which less must not be left. On flat or noisy pictures a network may
take an object away altogether; of 258 in test and validation sets none kept less than 0.6."""
CERTAINTY_SCALE = 1 << 24
"""Certainties are summed in whole numbers of this, so that no order of pixels matters."""
SMALLEST_SHARE = 0.005
"""Changes smaller than this share of what was given are never undone: there are thousands of them
along every edge, they are a matter of taste as often as of truth, and none makes a mask bad."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns a network's probabilities into honest ones, and judges its changes.

    Attributes:
        temperature: divides logits; 1 changes nothing.
        bias: the logit at which a pixel is as likely object as not; 0 in images that are enlarged.
        guard: weights of ``FEATURES`` in the logistic model of trust; None: no guard.
    """

    temperature: float = 1.0
    bias: float = 0.0
    guard: tuple[float, ...] | None = None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Read what ``recipes/fit_guard.py`` wrote into a weights file; neutral if nothing.

        Raises:
            InputError: entries that are not what that recipe writes.
        """
        try:
            temperature = float(metadata.get("temperature", "1"))
            bias = float(metadata.get("bias", "0"))
            guard = json.loads(metadata.get("guard", "null"))
            weights = None if guard is None else tuple(float(guard[name]) for name in FEATURES)
        except (ValueError, KeyError, TypeError):
            raise InputError(
                "the weights' temperature, bias or guard is damaged; fit them anew"
            ) from None
        if not 0.05 < temperature < 20:
            raise InputError(f"the weights' temperature is {temperature}, not in 0.05..20")
        if not abs(bias) <= MOST_BIAS:
            raise InputError(f"the weights' bias is {bias}, not in -{MOST_BIAS}..{MOST_BIAS}")
        return cls(temperature, bias, weights)


@dataclass(frozen=True, slots=True)
class Kept:
    """A place where the guard kept the input.

    Attributes:
        box: around the change that was undone, in pixels of the image.
        pixels: how many pixels went back to the input.
        trust: estimated probability that the change was right.
        whole_object: whether all changes of the object were undone.
    """

    box: Box
    pixels: int
    trust: float
    whole_object: bool


def shifted(kept: tuple[Kept, ...], part: Box) -> tuple[Kept, ...]:
    """Places found in a part of an image, in pixels of the image."""
    return tuple(replace(k, box=k.box.shift(part.y0, part.x0)) for k in kept)


def calibrate(probability: Mask, temperature: float, bias: float = 0.0) -> Mask:
    """sigmoid((logit(p) - bias) / temperature), stretched by ``NEGLIGIBLE``.

    Args:
        probability: (H, W) float32 in [0, 1].
        temperature: above 1 makes less sure; 1 changes nothing.
        bias: above 0 makes objects smaller; 0 leaves the decisions as they are.

    Returns:
        (H, W) float32, no further than ``NEGLIGIBLE`` from the sigmoid.
    """
    if temperature == 1 and bias == 0:
        return probability
    result = probability.copy()
    between = np.flatnonzero((probability > 0) & (probability < 1))  # mostly few; others stay
    found = probability.ravel()[between]
    with np.errstate(over="ignore"):
        odds: Mask = np.log((1 - found) / found)  # powers take four times as long
        if bias:
            odds += np.float32(bias)
        odds /= np.float32(temperature)
        np.exp(odds, out=odds)
    odds += 1
    np.reciprocal(odds, out=odds)
    odds -= 0.5
    odds /= np.float32(1 - 2 * NEGLIGIBLE)
    odds += 0.5
    result.reshape(-1)[between] = np.clip(odds, 0, 1, out=odds)
    return result


def negligible(temperature: float, bias: float = 0.0) -> float:
    """The probability below which ``calibrate`` returns 0, and as near to 1, 1, bias or none."""
    if temperature == 1 and bias == 0:
        return 0.0
    return 1 / (1 + math.exp(temperature * math.log(1 / NEGLIGIBLE - 1) + abs(bias)))


def sure_enough(temperature: float, bias: float, least: float) -> float:
    """How near to 0 or 1 a probability must be to be within ``least`` of it when calibrated."""
    sure = np.float32(0.04)
    while True:
        ends = np.array([[sure, 1 - sure]], np.float32)
        low, high = calibrate(ends, temperature, bias)[0]
        if max(low, 1 - high) <= least:
            return float(sure) * 0.999
        sure *= np.float32(0.9)


def confidence(probability: Mask) -> Mask:
    """Probability that the binary mask is right: max(p, 1 - p), in [0.5, 1]."""
    return np.asarray(np.maximum(probability, 1 - probability), np.float32)


@dataclass(frozen=True)
class Changes:
    """The connected pieces (4 neighbours) in which a refined mask differs from the given one.

    Attributes:
        label: (H, W) int32, 0 where nothing changed, else the number of the piece, 1 .. n.
        pixels: (n,) their sizes.
        first: (n,) a pixel of each, as an index into the flattened label.
        features: (n, len(FEATURES)), what trust is judged by.
    """

    label: NDArray[np.int32]
    pixels: Counts
    first: Counts
    features: Floats

    @property
    def boxes(self) -> Counts:
        """(n, 4) y0, x0, y1, x1."""
        return bounding_boxes(self.label, len(self.pixels))


def find_changes(given: Flags, probability: Mask) -> Changes:
    """Describe all changes between a given mask and a refined one.

    Args:
        given: (H, W) bool.
        probability: (H, W) float32, calibrated; above 0.5 is the refined mask.
    """
    refined = probability > 0.5
    changed = given != refined
    size = Size(*given.shape)
    box = bounding_box(changed).grow(1).clip(size)  # with all that touches a piece
    at = box.slices
    kind = (REMOVED - (REMOVED - ADDED) * refined[at].view(np.uint8)) * changed[at]
    part, first = components(kind)
    label = np.zeros(size, np.int32)
    label[at] = part
    added = kind.ravel()[first] == ADDED
    first = (first // box.width + box.y0) * size.width + first % box.width + box.x0
    count = len(first)
    inside = np.flatnonzero(changed[at])
    numbers = part.ravel()[inside]
    pixels = np.bincount(numbers, minlength=count + 1)[1:]
    certainty = np.abs(2 * probability[at].ravel()[inside].astype(np.float64) - 1)
    # whole numbers: float64 adds them exactly, in any order
    weights = np.rint(certainty * CERTAINTY_SCALE)
    sums = np.bincount(numbers, weights, minlength=count + 1)[1:].astype(np.float64)
    edge = np.bincount(part[rim(part)], minlength=count + 1)[1:]
    features = describe(pixels, edge, sums, added, int(np.count_nonzero(given)))
    return Changes(label, pixels, first, features)


def describe(
    pixels: Counts, edge: Counts, certainty: Floats | Counts, added: Flags, given_pixels: int
) -> Floats:
    """``FEATURES`` of pieces of change.

    Args:
        pixels: (n,) sizes.
        edge: (n,) how many of these have a neighbour outside the piece.
        certainty: (n,) sums over the pixels, in whole numbers of ``CERTAINTY_SCALE``.
        added: (n,) whether the piece was added, not taken away.
        given_pixels: size of the given mask.

    Returns:
        (n, len(FEATURES)) float64.
    """
    thickness = 2 * pixels / np.maximum(edge, 1)
    share = pixels / max(given_pixels, 1)
    columns = (
        np.ones(len(pixels)),
        np.log(np.maximum(share, 1e-9)),
        np.log(np.maximum(thickness, 1e-9)),
        certainty / CERTAINTY_SCALE / np.maximum(pixels, 1),
        added.astype(np.float64),
    )
    return np.stack(columns, axis=1)


def judged(features: Floats) -> Flags:
    """(n,) whether each change is large enough to be judged."""
    return np.asarray(features[:, 1] >= np.log(SMALLEST_SHARE))


def trust_in(features: Floats, weights: tuple[float, ...]) -> Floats:
    """(n,) probability that each change is right."""
    logits = (features * np.asarray(weights)).sum(axis=1)  # row by row: no order of a matrix
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -50, 50))))


def is_at_a_loss(given: Flags, probability: Mask) -> bool:
    """Whether a network is too unsure of an object as a whole, by ``AT_A_LOSS``, or cannot see it.

    Args:
        given: (H, W) bool, the input.
        probability: (H, W) float32, calibrated.
    """
    refined = probability > 0.5
    if np.count_nonzero(given & refined) < LEAST_KEPT * np.count_nonzero(given):
        return True
    either = given | refined
    wrong = np.minimum(probability, 1 - probability)[either]  # how likely each decision is
    return bool(wrong.size and wrong.mean(dtype=np.float64) > AT_A_LOSS)


def keep_better(
    given: Flags, probability: Mask, weights: tuple[float, ...], *, seen_whole: bool = False
) -> tuple[Mask, tuple[Kept, ...]]:
    """Undo the changes that are not trusted.

    A piece of change that is large enough (``SMALLEST_SHARE``) is undone if its trust is below
    ``DOUBTFUL``. All changes of an object (a connected component of both masks together) are undone
    if those pieces are larger than half of what was given of it: then the network has not
    understood the object at all. So are all changes where ``is_at_a_loss``.

    Args:
        given: (H, W) bool, the input.
        probability: (H, W) float32, calibrated.
        weights: of ``FEATURES``.
        seen_whole: whether this is an image that fits a tile; only there is it asked whether the
            network is at a loss, with all that was given together.

    Returns:
        (H, W) float32: ``probability``, but on the side of ``given`` where changes were undone, as
        sure as the change was mistrusted; and the places, largest first.
    """
    changes = find_changes(given, probability)
    if not len(changes.pixels):
        return probability, ()
    trust = trust_in(changes.features, weights)
    doubtful = (trust < DOUBTFUL) & judged(changes.features)
    lost = seen_whole and is_at_a_loss(given, probability)
    if not (lost or doubtful.any()):
        return probability, ()
    objects, _ = components(((probability > 0.5) | given).astype(np.uint8))
    owner = objects.ravel()[changes.first]
    areas = np.bincount(objects[given], minlength=int(objects.max()) + 1)
    wrong = np.bincount(owner, changes.pixels * doubtful, minlength=len(areas))
    whole = (wrong > MISUNDERSTOOD * areas)[owner] | lost
    undone = doubtful | whole
    back = np.concatenate(([False], undone))[changes.label]
    doubted = np.concatenate(([0.0], np.minimum(trust, 0.49))).astype(np.float32)[changes.label]
    result = np.where(back, np.where(given, 1 - doubted, doubted), probability)
    boxes = changes.boxes
    order = np.flatnonzero(undone)[np.argsort(-changes.pixels[undone], kind="stable")]
    places = tuple(
        Kept(Box(*boxes[k].tolist()), int(changes.pixels[k]), float(trust[k]), bool(whole[k]))
        for k in order
    )
    return result, places
