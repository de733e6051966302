"""MagNet's refinement module (Huynh et al., CVPR 2021, section 3.3), written from the paper.

Class probabilities at two magnifications in, class logits out; no pixel of the image enters it, so
that it fits any segmentation network.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from crispseg.models.resnet import Bottleneck
from crispseg.models.statefile import read_state
from crispseg.types import InputError

WIDTH, PLANES = 64, 32
MOMENTUM = 0.01  # of BatchNorm


class MagnetRefinement(nn.Module):
    """Two convolutions and two residual blocks from 2 C probabilities to C logits.

    Args:
        num_classes: C, at least 2.

    Raises:
        ValueError: fewer than two classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"MagNet refines two classes or more, not {num_classes}")
        self.num_classes = num_classes
        deep = PLANES * Bottleneck.expansion
        self.layers = nn.Sequential(
            nn.BatchNorm2d(2 * num_classes),
            nn.Conv2d(2 * num_classes, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
            Bottleneck(WIDTH, PLANES, 1, 1),
            Bottleneck(deep, PLANES, 1, 1),
            nn.Conv2d(deep, num_classes, 1, bias=False),
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Refine; the order of the two is the same in training and in use.

        Args:
            coarse: (N, C, H, W) probabilities of the stages so far, enlarged.
            fine: (N, C, H, W) probabilities of the segmentation network on this stage's tile.

        Returns:
            (N, C, H, W) logits.
        """
        return cast(Tensor, self.layers(torch.cat([coarse, fine], dim=1)))


def load_magnet(path: str | Path) -> MagnetRefinement:
    """A trained refinement module, from a file that ``crispseg train`` wrote.

    Raises:
        InputError: no such file, damaged, or of another network.
    """
    path = Path(path)
    state, metadata = read_state(path)
    try:
        module = MagnetRefinement(int(metadata["num_classes"]))
        module.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError):
        raise InputError(f"{path} holds no refinement module of MagNet") from None
    return module.eval()
