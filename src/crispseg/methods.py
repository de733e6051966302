"""Every way to refine, by name: the cascade, MagNet, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from crispseg.models.magnet import load_magnet
from crispseg.models.statefile import read_state
from crispseg.models.zoo import DEFAULT_SEGMENTER, bundled_refinement
from crispseg.pipeline import DEFAULT_MODEL, load_refiner
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.refiners.classical import BoundaryOffset, ClassicalRefiner, DenseCrf, GuidedFilter
from crispseg.refiners.points import Budget
from crispseg.refiners.progressive import ProgressiveRefiner, Stage
from crispseg.refiners.scene import Way, check_labels
from crispseg.segmenters.load import load_segmenter
from crispseg.tiling.area import resize_area
from crispseg.tiling.grid import fit_size
from crispseg.types import Image, InputError, Size, check_image

MethodName = Literal["cascade", "divide", "magnet", "magnet-fast", "densecrf", "guided", "offset"]
METHODS: tuple[str, ...] = get_args(MethodName)
PAPERS_BUDGET = Budget(tiles=3)
"""MagNet-Fast: three patches of each stage, those of the highest mean uncertainty."""


class LabelRefiner(Protocol):
    """Anything that improves label maps."""

    def refine_labels(
        self, image: Image, labels: NDArray[Any], *, ignore_index: int = 255
    ) -> NDArray[Any]:
        """(H, W, 3) RGB and (H, W) uint8 or uint16 labels -> (H, W) labels of the same dtype."""


CLASSICAL: dict[str, Callable[[], ClassicalRefiner]] = {
    "densecrf": DenseCrf,
    "guided": GuidedFilter,
    "offset": BoundaryOffset,
}


def load_label_refiner(
    method: str = "cascade",
    *,
    model: str | Path = DEFAULT_MODEL,
    segmenter: str | Path | None = None,
    refinement: str | Path | None = None,
    budget: Budget | None = None,
    device: str = "auto",
) -> LabelRefiner:
    """A way to refine label maps.

    Args:
        method: "cascade" refines all objects in one pass, "divide" one after the other (both with
            ``model``); "magnet" and "magnet-fast" take ``segmenter`` and ``refinement``;
            "densecrf", "guided" and "offset" need no weights.
        model: CascadePSP's, a name or a weights file.
        segmenter: the network MagNet was trained on, a name or a file; None for
            lwrefinenet-camvid.
        refinement: MagNet's own weights, a file that ``crispseg train`` wrote; None for those that
            ship with ``segmenter``.
        budget: makes MagNet MagNet-Fast; None for "magnet-fast": three tiles of every stage, as in
            the paper.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        InputError: unknown method, or weights that are missing or do not fit.
    """
    if method in CLASSICAL:
        return CLASSICAL[method]()
    if method in ("cascade", "divide"):
        way: Way = "one-pass" if method == "cascade" else "divide-and-conquer"
        return CascadeLabels(load_refiner(model, device=device), way)
    if method not in ("magnet", "magnet-fast"):
        raise InputError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if method == "magnet-fast":
        budget = budget or PAPERS_BUDGET
    segmenter = segmenter or DEFAULT_SEGMENTER
    refinement = refinement or bundled_refinement(segmenter)
    return load_magnet_refiner(segmenter, refinement, budget=budget, device=device)


class CascadeLabels:
    """CascadePSP's network, one of the two ways for label maps.

    Args:
        refiner: with its network.
        way: all objects in one pass, or one after the other.
    """

    def __init__(self, refiner: CascadeRefiner, way: Way) -> None:
        self.refiner, self.way = refiner, way

    def refine_labels(
        self, image: Image, labels: NDArray[Any], *, ignore_index: int = 255
    ) -> NDArray[Any]:
        """See ``CascadeRefiner.refine_labels``."""
        return self.refiner.refine_labels(image, labels, way=self.way, ignore_index=ignore_index)


class MagnetLabels:
    """MagNet that begins with a label map instead of its own first stage.

    Args:
        progressive: with its network and stages.
        num_classes: of both.
    """

    def __init__(self, progressive: ProgressiveRefiner, num_classes: int) -> None:
        self.progressive, self.num_classes = progressive, num_classes

    def refine_labels(
        self, image: Image, labels: NDArray[Any], *, ignore_index: int = 255
    ) -> NDArray[Any]:
        """Refine; the shares of the labels in each pixel of the first stage are its probabilities.

        Raises:
            InputError: shapes or dtypes that cannot be used, or labels that are no class.
        """
        image = check_image(image)
        size = Size(*image.shape[:2])
        labels = check_labels(labels, size)
        void = labels == ignore_index
        known = labels[~void]
        if known.size == 0:
            return labels.copy()
        if int(known.max()) >= self.num_classes:
            raise InputError(
                f"the label map holds {int(known.max())}, but the segmenter has "
                f"{self.num_classes} classes (0..{self.num_classes - 1})"
            )
        small = fit_size(size, min(self.progressive.stages[0].long_side or max(size), max(size)))
        shares = np.stack([resize_area(labels == c, small) for c in range(self.num_classes)])
        total = shares.sum(axis=0)
        shares = np.where(total > 0, shares / np.maximum(total, 1e-6), 1 / self.num_classes)
        result = self.progressive.run(image, coarse=shares.astype(np.float32)).labels
        return np.asarray(np.where(void, ignore_index, result).astype(labels.dtype))


def load_magnet_refiner(
    segmenter: str | Path,
    refinement: str | Path,
    *,
    budget: Budget | None = None,
    median_px: int = 5,
    device: str = "auto",
) -> MagnetLabels:
    """MagNet from weights; its stages, tiles and share of points are those of its training.

    Raises:
        InputError: weights that are missing, damaged, or for another number of classes.
    """
    network = load_segmenter(segmenter, tile_size=0, device=device)
    module = load_magnet(refinement)
    if module.num_classes != network.num_classes:
        raise InputError(
            f"{refinement} refines {module.num_classes} classes, but {segmenter} has "
            f"{network.num_classes}"
        )
    _, about = read_state(Path(refinement))
    try:
        first, *later = (int(side) for side in about["stage_sides"].split(","))
        tile = Size(*(int(side) for side in about["tile"].split(",")))
        share = float(about["point_share"])
    except (KeyError, ValueError, TypeError):
        raise InputError(f"{refinement} does not say its stages and tiles") from None
    stages = [Stage(first), *(Stage(side or None, tile, share) for side in later)]
    progressive = ProgressiveRefiner(
        network.probabilities,
        module,
        stages,
        median_px=median_px,
        overlap_px=min(tile) // 3,  # where the paper's tiles meet, objects break off
        budget=budget,
        device=device,
    )
    return MagnetLabels(progressive, module.num_classes)
