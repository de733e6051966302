"""Training losses: CascadePSP's as the released code has it, and the cross entropy of classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from crispseg.data.datasets.base import VOID
from crispseg.models.cascadepsp import CascadeLogits
from crispseg.train.config import TrainConfig
from crispseg.types import InputError

# In the order of CascadeLogits. The paper's "1/2 (L1 + L2)" at stride 4 is 0.25 of each here:
# the released code averages L1 and L2 first.
CE_WEIGHTS = (0.0, 1.0, 0.5, 1.0, 1.0, 0.5)
L1_L2_WEIGHTS = (1.0, 0.0, 0.25, 0.0, 0.0, 0.25)
GRADIENT_WEIGHT = 5.0


def cascade_loss(logits: CascadeLogits, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss and its parts; outputs that were skipped (None) count nothing.

    Args:
        logits: (N, 1, H, W) each.
        truth: (N, 1, H, W) in [0, 1]; binarised at 0.5 for the cross entropy.
    """
    hard = (truth > 0.5).to(truth.dtype)
    zero = truth.new_zeros(())
    parts = {"ce": zero, "l1_l2": zero}
    for output, ce_weight, distance_weight in zip(logits, CE_WEIGHTS, L1_L2_WEIGHTS, strict=True):
        if output is None:
            continue
        if ce_weight:
            entropy = F.binary_cross_entropy_with_logits(output, hard)
            parts["ce"] = parts["ce"] + ce_weight * entropy
        if distance_weight:
            difference = output.sigmoid() - truth
            distance = difference.abs().mean() + difference.square().mean()
            parts["l1_l2"] = parts["l1_l2"] + distance_weight * distance
    steepness = gradient_magnitude(logits.s1.sigmoid()) - gradient_magnitude(truth)
    parts["gradient"] = GRADIENT_WEIGHT * steepness.abs().mean()
    return torch.stack(list(parts.values())).sum(), parts


def class_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy summed over all pixels that are not void; scalar.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) int64, 255 where void.
        weights: (C,) of each class.
    """
    return F.cross_entropy(logits, labels, weights, ignore_index=VOID, reduction="sum")


def hard_class_loss(
    logits: Tensor, labels: Tensor, below: float, least: int, weights: Tensor | None = None
) -> Tensor:
    """Mean cross entropy of the hard pixels (OHEM, as MagNet's released code trains).

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) int64, 255 where void.
        below: a pixel is hard if its true class is less probable.
        least: the hardest so many count even if they are not; 0 or too few pixels: all count.
        weights: (C,) of the classes in the mean; which pixels are hard does not depend on them.
    """
    each = F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")
    valid = labels != VOID
    each, weight = each[valid], None if weights is None else weights[labels[valid]]
    if each.numel() == 0:
        return logits.sum() * 0
    if 0 < least < each.numel():
        hardest = each.detach().topk(least).values[-1]
        # A loss above -log(below) is a probability under it.
        limit = torch.minimum(hardest, hardest.new_tensor(-math.log(max(below, 1e-12))))
        hard = each.detach() >= limit
        each, weight = each[hard], None if weight is None else weight[hard]
    return each.mean() if weight is None else (weight * each).sum() / weight.sum().clamp(min=1e-12)


def class_weights(config: TrainConfig, num_classes: int, device: torch.device) -> Tensor | None:
    """(num_classes,) float32 from a recipe; None for equal ones.

    Raises:
        InputError: another number of them.
    """
    weights = config.class_weights
    if not weights:
        return None
    if len(weights) != num_classes:
        raise InputError(
            f"class_weights has {len(weights)} values, but {config.dataset} has "
            f"{num_classes} classes"
        )
    return torch.tensor(weights, dtype=torch.float32, device=device)


def gradient_magnitude(x: Tensor) -> Tensor:
    """(N, 1, H, W) -> sqrt(gx^2 + gy^2 + 1e-4) of the Sobel gradient / 4 of the 3x3 mean."""
    smooth = F.pad(F.avg_pool2d(x, 3, stride=1, padding=1), (1, 1, 1, 1))
    # Slices: convolutions of one channel take a CPU ten times as long.
    down = smooth[..., :-2, :] + 2 * smooth[..., 1:-1, :] + smooth[..., 2:, :]
    across = smooth[..., :-2] + 2 * smooth[..., 1:-1] + smooth[..., 2:]
    gx, gy = down[..., 2:] - down[..., :-2], across[..., 2:, :] - across[..., :-2, :]
    return ((gx.square() + gy.square()) / 16 + 1e-4).sqrt()
