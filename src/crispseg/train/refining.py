"""Training a refiner: coarse masks in, true masks out, in a global and a local step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from crispseg.data.samples import RefinerSamples, Sample
from crispseg.layers.blocks import pad_to_multiple, resize
from crispseg.metrics.boundary import intersection_over_union, mean_boundary_accuracy
from crispseg.models.build import SEGMENTATION_BUILDERS, build
from crispseg.models.cascadepsp import CascadeLogits, CascadeModule
from crispseg.train.config import TrainConfig
from crispseg.train.distributed import Group
from crispseg.train.losses import cascade_loss
from crispseg.train.task import normalised, step_seed
from crispseg.types import InputError

VALIDATION_SEED = 1
STRIDE = 8  # sizes that the published network takes
OWN_FACTORS = (1, 2, 2, 3)  # how much smaller the image of the network's own global step is


class Refining:
    """The task of ``crispseg.train.task`` for refiners.

    Args:
        config: a recipe without ``dataset``.
        group: the processes of the run.
    """

    best_by = "mba_after"

    def __init__(self, config: TrainConfig, group: Group) -> None:
        self.config, self.group = config, group

    def network(self) -> nn.Module:
        """The recipe's network.

        Raises:
            InputError: unknown, or no refiner.
        """
        if self.config.model in SEGMENTATION_BUILDERS:
            raise InputError(f"{self.config.model} is no refiner; the recipe needs a dataset")
        return build(self.config.model)

    def samples(self, length: int) -> RefinerSamples:
        """Crops of the training split and composites."""
        config = self.config
        return RefinerSamples(
            config.data,
            crop_size=config.crop_size,
            seed=config.seed,
            length=length,
            real_fraction=config.real_fraction,
            coarse=config.coarse,
            without=config.without,
            source_factors=config.source_factors,
            region_share=config.region_share,
            faithful_share=config.faithful_share,
            found_share=config.found_share,
            faded_share=config.faded_share,
        )

    def inputs(self, module: nn.Module, batch: Sample, step: int) -> list[Tensor]:
        """Image and masks, of the global or the local step."""
        config = self.config
        inputs = [*self._image_and_mask(batch)]
        # From seed and step alone, so that a resumed run, and every process, draws the same.
        draw = torch.Generator().manual_seed(step_seed(config, step))
        if float(torch.rand((), generator=draw)) < config.local_step_share:
            if float(torch.rand((), generator=draw)) < config.own_coarse_share:
                inputs[1:] = own_coarse(cast(CascadeModule, module), inputs[0], batch.coarse, draw)
            else:
                radius = int(torch.randint(1, 5, (), generator=draw))
                inputs.append(soften(batch.coarse, radius) * 2 - 1)
        return inputs

    def loss(self, outputs: CascadeLogits, batch: Sample) -> tuple[Tensor, dict[str, Tensor]]:
        """The cascade's loss: a mean over equally many samples of each process."""
        loss, parts = cascade_loss(outputs, batch.truth)
        return loss, parts | batch_errors(outputs.s1.detach(), batch)

    @torch.no_grad()
    def predict(self, module: nn.Module, sample: Sample) -> Tensor:
        """Global step as in use: (N, 1, H, W) probabilities, on the CPU.

        Args:
            module: in evaluation mode.
            sample: a batch, on any device.
        """
        sample = Sample(*(tensor.to(self.group.device) for tensor in sample))
        logits: CascadeLogits = module(*self._image_and_mask(sample))
        return logits.s1.sigmoid().cpu()

    def held_out(self, given: Dataset[Sample] | None) -> list[Sample]:
        """This process's share of the validation samples, in batches."""
        config, group = self.config, self.group
        samples = validation_samples(config) if given is None else given
        count = min(config.validate_count, len(cast(Sized, samples)))
        mine = range(group.rank, count, group.size)
        cuts = range(0, len(mine), config.batch_size)
        size = config.batch_size
        return [default_collate([samples[i] for i in mine[c : c + size]]) for c in cuts]

    def validate(self, module: nn.Module, held: Sequence[Sample]) -> dict[str, float]:
        """Mean IoU and mBA (released-code radii) of coarse and refined masks.

        A sample whose truth has no edge counts for IoU alone.
        """
        totals = [0.0] * 6
        for batch in held:
            refined = self.predict(module, batch)
            for pixels in zip(batch.coarse, refined, batch.truth, strict=True):
                coarse, mask, truth = (x[0].numpy() > 0.5 for x in pixels)
                scores = [intersection_over_union(m, truth) for m in (coarse, mask)]
                has_edge = bool(truth.any()) and not bool(truth.all())
                if has_edge:
                    scores += [mean_boundary_accuracy(m, truth) for m in (coarse, mask)]
                for i, score in enumerate(scores):
                    totals[i] += score
                totals[4] += 1
                totals[5] += has_edge
        *sums, count, edges = self.group.add(totals)
        names = ("iou_before", "iou_after", "mba_before", "mba_after")
        shares = (count, count, max(edges, 1), max(edges, 1))
        return {n: s / share for n, s, share in zip(names, sums, shares, strict=True)}

    def picture(self, module: nn.Module, batch: Sample, count: int = 4) -> Tensor:
        """Image, coarse, refined, true mask of the first samples: (3, count * H, 4 * W)."""
        few = Sample(*(tensor[:count].cpu() for tensor in batch))
        masks = (few.coarse, self.predict(module, few), few.truth)
        columns = [few.image / 255, *(mask.expand(-1, 3, -1, -1) for mask in masks)]
        return torch.cat(list(torch.cat(columns, dim=3)), dim=1)

    def line(self, values: Mapping[str, float]) -> str:
        """Errors of the batch before and after."""
        return f"1-IoU {values['error_before']:.4f} -> {values['error_after']:.4f}"

    def validation_line(self, scores: Mapping[str, float]) -> str:
        """IoU and mBA before and after."""
        before, after = (
            [scores[f"{name}_{when}"] for name in ("iou", "mba")] for when in ("before", "after")
        )
        iou, mba = (f"{b:.4f} -> {a:.4f}" for b, a in zip(before, after, strict=True))
        return f"IoU {iou}  mBA {mba}"

    def metadata(self) -> dict[str, str]:
        """Nothing that is not in the recipe."""
        return {}

    def _image_and_mask(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Image, normalised, and coarse mask in [-1, 1], as the network takes them."""
        return normalised(self.config, sample.image), sample.coarse * 2 - 1


def validation_samples(config: TrainConfig) -> RefinerSamples:
    """The first ``validate_count`` samples of the test split under a fixed seed.

    Raises:
        InputError: no data, or nothing of the test split in it.
    """
    return RefinerSamples(
        config.data,
        crop_size=config.validate_crop_size or config.crop_size,
        seed=VALIDATION_SEED,
        split="test",
        length=config.validate_count,
        real_fraction=config.real_fraction,
        coarse=config.coarse,
    )


@torch.no_grad()
def own_coarse(
    module: CascadeModule, image: Tensor, coarse: Tensor, draw: torch.Generator
) -> list[Tensor]:
    """What the local step gets in use: S1 and S4 of a global step, in [-1, 1].

    Trained on the coarse mask alone, the local step learns to make the global step's large
    corrections once more, where in use nearly everything is right already.

    Args:
        module: in training mode, as which it comes back.
        image: (N, 3, H, W) normalised.
        coarse: (N, 1, H, W) in [0, 1].
        draw: for how much smaller the global step's image is.

    Returns:
        Two masks, (N, 1, H, W).
    """
    factor = OWN_FACTORS[int(torch.randint(0, len(OWN_FACTORS), (), generator=draw))]
    full = (image.shape[-2], image.shape[-1])
    size = (full[0] // factor, full[1] // factor)
    small = F.interpolate(image, size, mode="area")
    rough = F.interpolate(coarse, size, mode="area")
    padded = pad_to_multiple(small, STRIDE, 0.0), pad_to_multiple(rough * 2 - 1, STRIDE, -1.0)
    module.eval()
    logits: CascadeLogits = module(*padded)
    module.train()
    final, stride4 = (
        resize(x[..., : size[0], : size[1]].sigmoid(), full, align_corners=False)
        for x in (logits.s1, logits.s4_3)
    )
    if not module.takes_soft:
        final = (final > 0.5).to(coarse.dtype)
    return [final * 2 - 1, stride4 * 2 - 1]


def soften(mask: Tensor, radius: int) -> Tensor:
    """A mask as the stride-4 head would give it, enlarged: two box filters of 2 * radius + 1."""
    for _ in range(2):
        padded = F.pad(mask, (radius,) * 4, mode="replicate")
        mask = F.avg_pool2d(padded, 2 * radius + 1, stride=1)
    return mask


def batch_errors(logits: Tensor, sample: Sample) -> dict[str, Tensor]:
    """1 - IoU of a batch taken as one, before and after; float32 scalars."""
    truth = sample.truth > 0.5

    def error(mask: Tensor) -> Tensor:
        return 1 - (mask & truth).sum() / (mask | truth).sum().clamp(min=1)

    return {"error_before": error(sample.coarse > 0.5), "error_after": error(logits > 0)}
