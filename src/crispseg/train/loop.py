"""The training loop. A run is decided by its recipe; killed and resumed, it goes on the same."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Sized
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from crispseg.data.samples import RefinerSamples, Sample
from crispseg.models.build import build
from crispseg.models.cascadepsp import CascadeLogits, RefinementModule
from crispseg.models.efficientnet import EfficientNetLite, load_imagenet
from crispseg.models.weights import save_weights
from crispseg.train.checkpoint import load_checkpoint, save_checkpoint
from crispseg.train.config import TrainConfig
from crispseg.train.losses import cascade_loss
from crispseg.types import CrispsegError

LOG_EVERY = 20
ENDLESS = 1_000_000_000
# What a recipe says of the machine it ran on, and what save_weights says itself.
LOCAL_KEYS = ("data", "output", "threads", "workers", "mean", "std", "model")


class Run:
    """The state of a run: network, averaged network, optimiser, step, minutes so far."""

    def __init__(self, config: TrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.module = cast(RefinementModule, build(config.model))
        if config.imagenet_trunk:
            load_imagenet(cast(EfficientNetLite, self.module.trunk))
        self.module.to(memory_format=torch.channels_last).train()
        self.average = build(config.model)
        self.average.load_state_dict(self.module.state_dict())
        trunk = {id(parameter) for parameter in self.module.trunk.parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [], "height": config.learning_rate * factor}
            for factor in (config.trunk_factor, 1.0)
        ]
        for parameter in self.module.parameters():
            groups[id(parameter) not in trunk]["params"].append(parameter)
        self.optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        self.step = 0
        self.minutes = 0.0

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.minutes = state["step"], state["minutes"]

    def progress(self) -> float:
        """Share of the run that is done, by steps or by minutes, whichever ends it first."""
        config = self.config
        by_steps = self.step / config.iterations if config.iterations else 0.0
        by_minutes = self.minutes / config.max_minutes if config.max_minutes else 0.0
        return max(by_steps, by_minutes)

    def advance(self, sample: Sample) -> dict[str, float]:
        """One step; returns the parts of the loss.

        Raises:
            CrispsegError: the loss is no longer finite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = group["height"] * rate(self.step, self.config.warmup, self.progress())
        logits = self._forward(sample)
        loss, parts = cascade_loss(logits, sample.truth)
        if not bool(loss.isfinite()):
            raise CrispsegError(f"the loss is {loss.item()} at step {self.step}; lower the rate")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        self.step += 1
        self._update_average()
        values = {"loss": loss.item()} | {name: part.item() for name, part in parts.items()}
        return values | _errors(logits.s1, sample)

    def _forward(self, sample: Sample) -> CascadeLogits:
        config = self.config
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
        image = ((sample.image.float() / 255 - mean) / std).contiguous(
            memory_format=torch.channels_last
        )
        seg = sample.coarse * 2 - 1
        # From seed and step alone, so that a resumed run draws the same.
        draw = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        if float(torch.rand((), generator=draw)) >= config.local_step_share:
            return cast(CascadeLogits, self.module(image, seg))
        radius = int(torch.randint(1, 5, (), generator=draw))
        return cast(CascadeLogits, self.module(image, seg, soften(sample.coarse, radius) * 2 - 1))

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.config.ema_decay, self.step / (self.step + 9))
        for mine, theirs in zip(
            self.average.state_dict().values(), self.module.state_dict().values(), strict=True
        ):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - keep)
            else:
                mine.copy_(theirs)


def rate(step: int, warmup: int, progress: float) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine down to 1 %."""
    decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
    return min(1.0, (step + 1) / max(warmup, 1)) * decay


def soften(mask: Tensor, radius: int) -> Tensor:
    """A mask as the stride-4 head would give it, enlarged: two box filters of 2 * radius + 1."""
    for _ in range(2):
        padded = F.pad(mask, (radius,) * 4, mode="replicate")
        mask = F.avg_pool2d(padded, 2 * radius + 1, stride=1)
    return mask


def _errors(logits: Tensor, sample: Sample) -> dict[str, float]:
    """1 - IoU of the batch, before and after."""
    truth = sample.truth > 0.5

    def error(mask: Tensor) -> float:
        return 1 - int((mask & truth).sum()) / max(int((mask | truth).sum()), 1)

    return {"error_before": error(sample.coarse > 0.5), "error_after": error(logits > 0)}


def train(
    config: TrainConfig,
    *,
    resume: bool = True,
    samples: Dataset[Sample] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Run a recipe to its end, or go on with one that was stopped.

    Every ``checkpoint_minutes``, at the end and at Ctrl-C, the folder ``config.output`` gets
    ``checkpoint.pt``, ``log.jsonl`` and the averaged weights, ``<model>.safetensors``.

    Args:
        config: the recipe.
        resume: go on from the checkpoint in the output folder, if there is one.
        samples: instead of those in ``config.data``.
        say: receives a line of progress now and then.

    Returns:
        The file of averaged weights.

    Raises:
        InputError: no data, or a damaged checkpoint.
        CrispsegError: the loss is no longer finite.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(config)
    state = load_checkpoint(folder) if resume else None
    if state:
        run.load(state)
        say(f"resumed at step {run.step} after {run.minutes:.1f} min")
    if samples is None:
        samples = RefinerSamples(
            config.data, crop_size=config.crop_size, seed=config.seed, length=ENDLESS
        )
    weights = folder / f"{config.model}.safetensors"
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        try:
            _run_steps(run, samples, log, say, weights)
        finally:
            _save(run, weights)
    return weights


def _run_steps(
    run: Run, samples: Dataset[Sample], log: TextIO, say: Callable[[str], None], weights: Path
) -> None:
    smooth: dict[str, float] = {}
    saved_at, first_step, begun = run.minutes, run.step, time.monotonic()
    already = run.minutes
    with closing(_batches(run.config, samples, run.step)) as batches:
        for sample in batches:
            if run.progress() >= 1:
                return
            parts = run.advance(sample)
            run.minutes = already + (time.monotonic() - begun) / 60
            for name, value in parts.items():
                smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
            if run.step % LOG_EVERY == 0:
                seconds = max(60 * (run.minutes - already), 1e-9)
                speed = (run.step - first_step) * run.config.batch_size / seconds
                record = {"step": run.step, "minutes": round(run.minutes, 2), **smooth}
                log.write(json.dumps(record) + "\n")
                log.flush()
                say(_line(run, smooth, speed))
            if run.minutes - saved_at >= run.config.checkpoint_minutes:
                _save(run, weights)
                saved_at = run.minutes


def _line(run: Run, smooth: dict[str, float], speed: float) -> str:
    done = run.progress()
    left = run.minutes * (1 - done) / max(done, 1e-9)
    return (
        f"step {run.step}  loss {smooth['loss']:.3f}  1-IoU {smooth['error_before']:.4f} -> "
        f"{smooth['error_after']:.4f}  {speed:.1f} samples/s  {100 * done:.1f} %  "
        f"{left:.0f} min left"
    )


def _batches(config: TrainConfig, samples: Dataset[Sample], step: int) -> Generator[Sample]:
    """Batches from ``step`` on: samples are random already and are taken in order."""
    loader = DataLoader(
        samples,
        batch_size=config.batch_size,
        sampler=range(step * config.batch_size, len(cast(Sized, samples))),
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        drop_last=True,
    )
    yield from loader


def _save(run: Run, weights: Path) -> None:
    save_checkpoint(weights.parent, run.state())
    config = run.config
    recipe = {key: str(value) for key, value in asdict(config).items() if key not in LOCAL_KEYS}
    save_weights(
        weights,
        run.average,
        architecture=config.model,
        mean=config.mean,
        std=config.std,
        metadata=recipe | {"step": str(run.step), "minutes": f"{run.minutes:.1f}"},
    )
