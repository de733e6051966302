"""BatchNorm that stays as it is, for training on top of statistics learnt elsewhere."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class FrozenNorm(nn.Module):
    """BatchNorm with its statistics and its gain fixed, in training as well.

    Its state has BatchNorm's names, but nothing in it is a parameter: no optimizer, no weight
    decay and no conversion to synchronised statistics can reach it.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        for name, value in norm.state_dict().items():
            self.register_buffer(name, value.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def freeze_norms(module: nn.Module) -> int:
    """Replace every BatchNorm in ``module`` by a ``FrozenNorm``; returns how many there were.

    For the second stage of DeepLabv3's training (section 4.1), and for trunks trained with one
    image a batch (RefineNet). Make the optimizer afterwards.
    """
    frozen = 0
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm):
                setattr(parent, name, FrozenNorm(child))  # type: ignore[arg-type]
                frozen += 1
    return frozen


def set_norm_momentum(module: nn.Module, momentum: float) -> None:
    """Momentum of every BatchNorm: the new batch's share, which TensorFlow calls 1 - decay.

    Args:
        module: the network.
        momentum: in [0, 1]; PyTorch's default is 0.1, DeepLabv3 has 0.0003.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
            layer.momentum = momentum
