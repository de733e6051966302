"""Training a segmentation network: cross entropy at the image's size, mean IoU of whole images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from crispseg.data.crops import LabelledCrop, LabelledCrops, decode
from crispseg.data.datasets import Dataset, open_dataset
from crispseg.data.datasets.base import VOID
from crispseg.data.transforms import Augmentation
from crispseg.metrics.confusion import ConfusionMatrix
from crispseg.models.build import build_segmentation
from crispseg.models.segmentation import ClassLogits
from crispseg.train.config import TrainConfig
from crispseg.train.distributed import Group
from crispseg.train.losses import class_loss, class_weights
from crispseg.train.task import normalised
from crispseg.types import InputError, Size


class Segmenting:
    """The task of ``crispseg.train.task`` for networks from an image to classes.

    Args:
        config: a recipe with ``dataset``.
        group: the processes of the run.

    Raises:
        InputError: no such data set, it is not there, or weights for another number of classes.
    """

    best_by = "mean_iou"

    def __init__(self, config: TrainConfig, group: Group) -> None:
        self.config, self.group = config, group
        self.dataset = open_dataset(config.dataset, config.data, config.train_split)
        self._weights = class_weights(config, self.dataset.num_classes, group.device)

    def network(self) -> nn.Module:
        """The recipe's network, for the data set's classes.

        Raises:
            InputError: unknown, or its output stride cannot be changed so.
        """
        name, stride = self.config.model, self.config.output_stride
        module = build_segmentation(name, self.dataset.num_classes)
        if stride:
            try:
                module.set_output_stride(stride)
            except ValueError as error:
                raise InputError(f"output_stride = {stride}: {error}") from None
        return module

    def samples(self, length: int) -> LabelledCrops:
        """Crops of the training split."""
        config = self.config
        sides = config.short_side or (0.0, math.inf)
        return LabelledCrops(
            self.dataset,
            Augmentation(
                Size(config.crop_size, config.crop_width or config.crop_size),
                scales=(config.scales[0], config.scales[1]),
                scale_step=config.scale_step,
                short_side=(sides[0], sides[1]),
                rotation=config.rotation,
                blur=config.blur,
                colour=config.colour,
                mean=config.mean,
            ),
            seed=config.seed,
            length=length,
            sampling=config.sampling,
            repeat_classes=config.repeat_classes,
            repeat_factor=config.repeat_factor,
        )

    def inputs(self, module: nn.Module, batch: LabelledCrop, step: int) -> list[Tensor]:
        """The images."""
        return [normalised(self.config, batch.image)]

    def loss(self, outputs: ClassLogits, batch: LabelledCrop) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy over the valid pixels of the whole batch, and the auxiliary head's."""
        labels = batch.labels.long()
        valid = labels != VOID
        weights = self._weights
        mass = valid.sum() if weights is None else weights[labels[valid]].sum()
        (total,) = self.group.add([float(mass)])
        share = max(total, 1e-6) / self.group.size
        loss = class_loss(outputs.logits, labels, weights) / share
        parts = {"cross_entropy": loss}
        if outputs.aux is not None:
            parts["aux"] = class_loss(outputs.aux, labels, weights) / share
            loss = loss + self.config.aux_weight * parts["aux"]
        right = (outputs.logits.detach().argmax(dim=1) == labels) & valid
        parts["pixel_accuracy"] = right.sum() / valid.sum().clamp(min=1)
        return loss, parts

    def held_out(self, given: Dataset | None) -> list[tuple[Dataset, int]]:
        """This process's share of the validation split: a data set and an image's number each."""
        config, group = self.config, self.group
        if given is None:
            given = open_dataset(config.dataset, config.data, config.validate_split)
        return [(given, which) for which in range(group.rank, len(given), group.size)]

    @torch.no_grad()
    def predict(self, module: nn.Module, image: Tensor) -> Tensor:
        """Classes as in use: (N, 3, H, W) uint8 on any device -> (N, H, W) int64 on the CPU."""
        logits: ClassLogits = module(normalised(self.config, image.to(self.group.device)))
        return logits.logits.argmax(dim=1).cpu()

    def validate(self, module: nn.Module, held: Sequence[tuple[Dataset, int]]) -> dict[str, float]:
        """Mean IoU, pixel and mean accuracy over the pixels of whole images, at one scale."""
        matrix = ConfusionMatrix(self.dataset.num_classes)
        for given, which in held:
            image, labels = decode(given, which)
            pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            matrix.add(self.predict(module, pixels[None])[0].numpy(), labels)
        together = np.array(self.group.add([float(n) for n in matrix.counts.ravel()]))
        matrix.counts = together.astype(np.int64).reshape(matrix.counts.shape)
        return {
            "mean_iou": matrix.mean_iou(),
            "pixel_accuracy": matrix.pixel_accuracy(),
            "mean_accuracy": matrix.mean_accuracy(),
        }

    def picture(self, module: nn.Module, batch: LabelledCrop, count: int = 4) -> Tensor:
        """Image, classes found, true classes of the first crops: (3, count * H, 3 * W)."""
        images, labels = batch.image[:count].cpu(), batch.labels[:count].cpu().long()
        colours = torch.zeros(VOID + 1, 3)
        colours[: self.dataset.num_classes] = torch.tensor(self.dataset.colours) / 255
        maps = (colours[x].permute(0, 3, 1, 2) for x in (self.predict(module, images), labels))
        columns = [images / 255, *maps]
        return torch.cat(list(torch.cat(columns, dim=3)), dim=1)

    def line(self, values: Mapping[str, float]) -> str:
        """Share of the batch's pixels that are right."""
        return f"pixel accuracy {values['pixel_accuracy']:.4f}"

    def validation_line(self, scores: Mapping[str, float]) -> str:
        """Mean IoU, pixel and mean accuracy."""
        return (
            f"mIoU {scores['mean_iou']:.4f}  pixel accuracy {scores['pixel_accuracy']:.4f}  "
            f"mean accuracy {scores['mean_accuracy']:.4f}"
        )

    def metadata(self) -> dict[str, str]:
        """Classes, their names and colours, as JSON."""
        return {
            "num_classes": str(self.dataset.num_classes),
            "class_names": json.dumps(self.dataset.class_names),
            "colours": json.dumps(self.dataset.colours),
        }
