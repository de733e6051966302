"""Validation: the averaged network on samples that stay the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset, default_collate

from crispseg.data.samples import RefinerSamples, Sample
from crispseg.metrics.boundary import intersection_over_union, mean_boundary_accuracy
from crispseg.train.config import TrainConfig
from crispseg.train.run import Run

VALIDATION_SEED = 1


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


def my_share(run: Run, samples: Dataset[Sample]) -> list[Sample]:
    """This process's share of the validation samples, in batches."""
    config, group = run.config, run.group
    mine = range(group.rank, config.validate_count, group.size)
    cuts = range(0, len(mine), config.batch_size)
    return [default_collate([samples[i] for i in mine[c : c + config.batch_size]]) for c in cuts]


def validate(run: Run, batches: Sequence[Sample]) -> dict[str, float]:
    """Mean IoU and mBA (released-code radii) of coarse and refined masks over all processes.

    A sample whose truth has no edge counts for IoU alone.

    Args:
        run: whose averaged network is tried.
        batches: ``my_share``.
    """
    totals = [0.0] * 6
    for batch in batches:
        refined = run.predict(batch)
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
    *sums, count, edges = run.group.add(totals)
    names = ("iou_before", "iou_after", "mba_before", "mba_after")
    shares = (count, count, max(edges, 1), max(edges, 1))
    return {n: s / share for n, s, share in zip(names, sums, shares, strict=True)}


def side_by_side(run: Run, batch: Sample, count: int = 4) -> torch.Tensor:
    """Image, coarse, refined, true mask of the first samples: (3, count * H, 4 * W) in [0, 1]."""
    few = Sample(*(tensor[:count].cpu() for tensor in batch))
    masks = (few.coarse, run.predict(few), few.truth)
    columns = [few.image / 255, *(mask.expand(-1, 3, -1, -1) for mask in masks)]
    return torch.cat(list(torch.cat(columns, dim=3)), dim=1)
