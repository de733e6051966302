"""Training MagNet's refinement module on a frozen segmentation network.

Huynh et al., CVPR 2021, section 3.4. The released code refines only what the first, coarsest stage
gives; in use, a stage refines what earlier stages made of it. Here every step goes through a chain
of tiles as in use, over stages drawn anew for each step, and learns from every one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.data.datasets import Dataset, open_dataset
from crispseg.data.datasets.base import VOID
from crispseg.data.views import StageSamples, StageViews
from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.models.magnet import MagnetRefinement
from crispseg.models.segmentation import ClassLogits, SegmentationModule
from crispseg.models.weights import load_model
from crispseg.train.config import TrainConfig
from crispseg.train.distributed import Group
from crispseg.train.losses import class_weights, hard_class_loss
from crispseg.train.task import step_seed
from crispseg.types import InputError, Size


class TrainedMagnet(MagnetRefinement):
    """The module as ``Run`` wants it: a trunk (it has none), outputs with names."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.trunk = nn.Sequential()

    def forward(self, coarse: Tensor, fine: Tensor) -> ClassLogits:  # type: ignore[override]
        """Two (N, C, H, W) probabilities -> logits."""
        return ClassLogits(super().forward(coarse, fine))


class Progressing:
    """The task of ``crispseg.train.task`` for MagNet's refinement module.

    Args:
        config: a recipe with ``segmenter`` and ``dataset``.
        group: the processes of the run.

    Raises:
        InputError: no such data set or network, or one of other classes.
    """

    best_by = "mean_iou"

    def __init__(self, config: TrainConfig, group: Group) -> None:
        if config.model != "magnet":
            raise InputError(f"segmenter is for model = 'magnet', not {config.model!r}")
        self.config, self.group = config, group
        self.dataset = open_dataset(config.dataset, config.data, config.train_split)
        loaded = load_model(config.segmenter)
        if not isinstance(loaded.module, SegmentationModule):
            raise InputError(f"segmenter: {config.segmenter} is no segmentation network")
        if loaded.module.num_classes != self.dataset.num_classes:
            raise InputError(
                f"segmenter: {config.segmenter} knows {loaded.module.num_classes} classes, "
                f"{config.dataset} has {self.dataset.num_classes}"
            )
        self.frozen = loaded.module.to(group.device).eval().requires_grad_(False)
        self._mean, self._std = loaded.mean, loaded.std
        self._weights = class_weights(config, self.dataset.num_classes, group.device)
        self._path: tuple[int, ...] = ()

    def network(self) -> nn.Module:
        """A random refinement module for the data set's classes."""
        return TrainedMagnet(self.dataset.num_classes)

    def samples(self, length: int) -> StageSamples:
        """Chains of tiles of the training split."""
        return self._chains(self.dataset, self.config.seed, length)

    def _chains(self, dataset: Dataset, seed: int, length: int) -> StageSamples:
        config = self.config
        tile = Size(config.crop_size, config.crop_width or config.crop_size)
        return StageSamples(dataset, config.stage_sides, tile, seed=seed, length=length)

    @torch.no_grad()
    def fine(self, batch: StageViews) -> Tensor:
        """The frozen network's probabilities for every view: (N, S, C, h, w)."""
        images = batch.images.to(self.group.device)
        count, stages = images.shape[:2]
        x = images.flatten(0, 1).float() / 255
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (self._mean, self._std))
        logits: ClassLogits = self.frozen((x - mean) / std)
        probabilities = logits.logits.float().softmax(dim=1)
        return probabilities.view(count, stages, *probabilities.shape[1:])

    @torch.no_grad()
    def coarse_of_path(
        self, module: nn.Module, fine: Tensor, boxes: Tensor, path: Sequence[int]
    ) -> list[Tensor]:
        """What each stage of a path is given of the map so far, and the map after the last.

        Args:
            module: in its present state.
            fine: (N, S, C, h, w) probabilities of the views.
            boxes: (N, S, 4) shares.
            path: numbers of the stages, rising, from 1.

        Returns:
            len(path) + 1 of (N, C, h, w) probabilities.
        """
        was_training = module.training
        module.eval()
        current, before, found = fine[:, 0], boxes[:, 0], []
        for stage in path:
            coarse = cut_out(current, before, boxes[:, stage])
            found.append(coarse)
            refined = cast(ClassLogits, module(coarse, fine[:, stage])).logits.softmax(dim=1)
            current = replace_points(coarse, refined, self.config.point_share)
            before = boxes[:, stage]
        module.train(was_training)
        return [*found, current]

    def inputs(self, module: nn.Module, batch: StageViews, step: int) -> list[Tensor]:
        """Coarse and fine probabilities of all stages of this step's path, one below the other."""
        later = range(1, batch.images.shape[1])
        draw = torch.Generator().manual_seed(step_seed(self.config, step))
        flags = (torch.rand(len(later), generator=draw) < 0.5).tolist()
        only = int(torch.randint(len(later), (), generator=draw))
        self._path = tuple(s for s, flag in zip(later, flags, strict=True) if flag) or (
            later[only],
        )
        fine = self.fine(batch)
        *coarse, _ = self.coarse_of_path(module, fine, batch.boxes, self._path)
        return [torch.cat(coarse), torch.cat([fine[:, stage] for stage in self._path])]

    def loss(self, outputs: ClassLogits, batch: StageViews) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy of the hard pixels, of all stages of the path."""
        labels = torch.cat([batch.labels[:, stage] for stage in self._path]).long()
        config = self.config
        loss = hard_class_loss(
            outputs.logits, labels, config.hard_below, config.hard_least, self._weights
        )
        valid = labels != VOID
        right = (outputs.logits.detach().argmax(dim=1) == labels) & valid
        return loss, {
            "cross_entropy": loss,
            "pixel_accuracy": right.sum() / valid.sum().clamp(min=1),
        }

    def held_out(self, given: Dataset | None) -> list[StageViews]:
        """This process's share of chains of the validation split, always the same ones."""
        config, group = self.config, self.group
        if given is None:
            given = open_dataset(config.dataset, config.data, config.validate_split)
        chains = self._chains(given, 0, len(given))
        return [chains[which] for which in range(group.rank, len(given), group.size)]

    def validate(self, module: nn.Module, held: Sequence[StageViews]) -> dict[str, float]:
        """Mean IoU in the last stage's tiles: of the first stage enlarged, and after all stages."""
        before, after = (ConfusionMatrix(self.dataset.num_classes) for _ in range(2))
        for views in held:
            first, last = self.predict(module, views)
            truth = views.labels[-1].numpy()
            before.add(first.numpy(), truth)
            after.add(last.numpy(), truth)
        for matrix in (before, after):
            together = np.array(self.group.add([float(n) for n in matrix.counts.ravel()]))
            matrix.counts = together.astype(np.int64).reshape(matrix.counts.shape)
        return {"mean_iou": after.mean_iou(), "mean_iou_before": before.mean_iou()}

    @torch.no_grad()
    def predict(self, module: nn.Module, views: StageViews) -> tuple[Tensor, Tensor]:
        """Labels (h, w) of one sample's last tile: of the first stage, and after all stages."""
        batch = StageViews(*(tensor[None].to(self.group.device) for tensor in views))
        fine = self.fine(batch)
        path = range(1, fine.shape[1])
        current = self.coarse_of_path(module, fine, batch.boxes, path)[-1]
        first = cut_out(fine[:, 0], batch.boxes[:, 0], batch.boxes[:, -1])
        before, after = (x[0].argmax(dim=0).to(torch.uint8).cpu() for x in (first, current))
        return before, after

    def picture(self, module: nn.Module, batch: StageViews, count: int = 4) -> Tensor:
        """Tile, first stage, all stages, truth of the first samples: (3, count * h, 4 * w)."""
        colours = torch.zeros(VOID + 1, 3)
        colours[: self.dataset.num_classes] = torch.tensor(self.dataset.colours) / 255
        rows = []
        for views in (
            StageViews(*(t[i].cpu() for t in batch)) for i in range(count)[: len(batch.boxes)]
        ):
            maps = [*self.predict(module, views), views.labels[-1]]
            panels = [colours[labels.long()].permute(2, 0, 1) for labels in maps]
            rows.append(torch.cat([views.images[-1] / 255, *panels], dim=2))
        return torch.cat(rows, dim=1)

    def line(self, values: Mapping[str, float]) -> str:
        """Share of the pixels of all stages that are right."""
        return f"pixel accuracy {values['pixel_accuracy']:.4f} over stages"

    def validation_line(self, scores: Mapping[str, float]) -> str:
        """Mean IoU before and after."""
        return f"mIoU {scores['mean_iou_before']:.4f} -> {scores['mean_iou']:.4f}"

    def metadata(self) -> dict[str, str]:
        """The number of classes, and the stages in which the module is used."""
        config = self.config
        return {
            "num_classes": str(self.dataset.num_classes),
            "stage_sides": ",".join(map(str, config.stage_sides)),
            "tile": f"{config.crop_size},{config.crop_width or config.crop_size}",
            "point_share": str(config.point_share),
        }


def cut_out(maps: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """The part ``inner`` of maps that show ``outer``, enlarged to their size.

    Args:
        maps: (N, C, h, w).
        outer: (N, 4) shares of the image, y0, x0, y1, x1.
        inner: (N, 4) inside ``outer``.

    Returns:
        (N, C, h, w): bilinear, align_corners=False, the border repeated.
    """
    height, width = maps.shape[-2:]
    axes = []
    for axis, length in ((0, height), (1, width)):
        steps = (torch.arange(length, device=maps.device) + 0.5) / length
        low, high = inner[:, axis, None], inner[:, axis + 2, None]
        start, stop = outer[:, axis, None], outer[:, axis + 2, None]
        axes.append(2 * (low + steps * (high - low) - start) / (stop - start) - 1)  # (N, length)
    y, x = axes[0][:, :, None], axes[1][:, None, :]
    shape = (-1, height, width)
    grid = torch.stack([x.expand(*shape), y.expand(*shape)], dim=-1)  # (N, h, w, 2), x first
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def replace_points(coarse: Tensor, refined: Tensor, share: float) -> Tensor:
    """``coarse`` with the share of points of highest Yu * (1 - Ru) taken from ``refined``.

    The median over the scores is left out: over tiles of a batch it costs more than it changes.
    """
    count, _, height, width = coarse.shape
    (first, second), (sure, less) = (x.topk(2, dim=1).values.unbind(1) for x in (coarse, refined))
    scores = ((1 - (first - second)) * (sure - less)).view(count, -1)
    k = max(round(share * height * width), 1)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen.scatter_(1, scores.topk(k, dim=1).indices, True)
    return torch.where(chosen.view(count, 1, height, width), refined, coarse)
