"""PSPNet: the scene at four pooled resolutions beside the features, on any trunk.

Zhao et al., Pyramid Scene Parsing Network (CVPR 2017); details that the paper leaves open are
those of the authors' PyTorch release.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from crispseg.layers.blocks import resize
from crispseg.layers.pyramid import Pooling, PyramidPooling
from crispseg.models.resnet import ResNet
from crispseg.models.segmentation import ClassHead, ClassLogits, SegmentationModule, Trunk


class PSPNet(SegmentationModule):
    """Pyramid pooling on the trunk's deepest stage, then a convolutional head.

    Images of 8 k + 1 pixels (473, 713) put the features of a trunk of output stride 8 exactly
    onto pixels when corners are aligned, as in the paper; other sizes are taken as well.

    Args:
        trunk: a ``Trunk``; the auxiliary head stands on its last stage but one (layer3 of a
            ResNet, section 3.3).
        num_classes: number of classes.
        bin_sizes: of the pyramid; (1,) is the paper's global pooling.
        pooling: "average" or "max".
        windows: fixed pooling windows instead of ``bin_sizes``, for the Caffe release's form.
        reduce: every branch of the pyramid has 1/N of the trunk's channels, N branches; without,
            it has them all and no convolution.
        head_channels: hidden channels of the head.
        dropout: share of the head's channels that are dropped in training.
        aux: with an auxiliary head, for training (weight 0.4 in the paper).
        align_corners: of the pooled grids and of the logits. Turn it off for sizes that are no
            multiple of the output stride plus one: features would be stretched, by up to half an
            output stride, and by another amount at every size.
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_classes: int,
        *,
        bin_sizes: Sequence[int] = (1, 2, 3, 6),
        pooling: Pooling = "average",
        windows: Sequence[int] = (),
        reduce: bool = True,
        head_channels: int = 512,
        dropout: float = 0.1,
        aux: bool = True,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.num_classes = num_classes
        self.align_corners = align_corners
        *_, before, deep = cast(Trunk, trunk).channels
        self.pyramid = PyramidPooling(
            deep,
            deep // len(windows or bin_sizes) if reduce else None,
            bin_sizes,
            align_corners=align_corners,
            pooling=pooling,
            norm=True,
            windows=windows,
        )
        self.head = ClassHead(
            self.pyramid.out_channels,
            num_classes,
            hidden=head_channels,
            dropout=nn.Dropout2d(dropout),
        )
        self.aux_head = (
            ClassHead(before, num_classes, dropout=nn.Dropout2d(dropout)) if aux else None
        )

    def forward(self, image: Tensor) -> ClassLogits:
        """(N, 3, H, W) -> logits, and those of the auxiliary head while training."""
        size = (image.shape[-2], image.shape[-1])
        *_, before, deep = self.trunk(image)
        logits = resize(self.head(self.pyramid(deep)), size, align_corners=self.align_corners)
        if self.aux_head is None or not self.training:
            return ClassLogits(logits)
        aux = resize(self.aux_head(before), size, align_corners=self.align_corners)
        return ClassLogits(logits, aux)


def pspnet_resnet(depth: int, num_classes: int) -> PSPNet:
    """The paper's network on a ResNet of 18, 34, 50, 101, 152 or 269 layers, without weights."""
    trunk = ResNet(depth, output_stride=8, first_dilation="stage", deep_stem=True)
    return PSPNet(trunk, num_classes)
