"""The state of a training run, and one step of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crispseg.data.samples import Sample
from crispseg.layers.blocks import resize
from crispseg.models.build import build
from crispseg.models.cascadepsp import CascadeLogits, CascadeModule
from crispseg.train.config import TrainConfig
from crispseg.train.distributed import Group
from crispseg.train.losses import cascade_loss
from crispseg.train.schedule import rate
from crispseg.train.trunk import start_from, start_trunk
from crispseg.types import CrispsegError, InputError

ALONE = Group()
OPTIMISERS: dict[str, type[torch.optim.Adam]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
}
SMOOTHING = 0.95
OWN_FACTORS = (1, 2, 2, 3)  # how much smaller the image of the network's own global step is


class Run:
    """Network, averaged network, optimiser, step, minutes so far, and what is logged.

    Args:
        config: the recipe.
        group: the processes of this run.
        state: of an earlier run, to go on from; None begins afresh.

    Raises:
        InputError: unknown network, weights of the trunk missing, or a state that does not fit.
    """

    def __init__(
        self, config: TrainConfig, group: Group = ALONE, state: dict[str, Any] | None = None
    ) -> None:
        self.config, self.group = config, group
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.module = cast(CascadeModule, build(config.model))
            self.average = build(config.model)
        if state is None:
            start_trunk(config, self.module.trunk)
            start_from(config, self.module)
        if config.sync_bn and group.size > 1:
            if group.device.type != "cuda":
                raise InputError("sync_bn needs CUDA; set sync_bn = false")
            convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
            self.module = cast(CascadeModule, convert(self.module))
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.module.to(group.device).to(memory_format=layout).train()
        self.average.to(group.device).eval().requires_grad_(False)
        self.average.load_state_dict(self.module.state_dict())
        self.optimiser = self._optimiser()
        self.step = 0
        self.minutes = 0.0
        self.smooth: dict[str, float] = {}
        self.best = -math.inf
        if state:
            self._load(state)

    def _optimiser(self) -> torch.optim.Optimizer:
        config = self.config
        trunk = {id(parameter) for parameter in self.module.trunk.parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [], "height": config.learning_rate * factor}
            for factor in (config.trunk_factor, 1.0)
        ]
        for parameter in self.module.parameters():
            groups[id(parameter) not in trunk]["params"].append(parameter)
        kind = OPTIMISERS[config.optimiser]
        return kind(groups, weight_decay=config.weight_decay)

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, beside its recipe.

        Raises:
            CrispsegError: the weights are no longer finite, and not worth keeping.
        """
        for name, tensor in (self.module.state_dict() | self.average.state_dict()).items():
            if not bool(tensor.isfinite().all()):
                raise CrispsegError(_diverged(f"{name} is no longer finite", self.step))
        return {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
            "smooth": dict(self.smooth),
            "best": self.best,
        }

    def _load(self, state: dict[str, Any]) -> None:
        try:
            self.module.load_state_dict(state["module"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.minutes = state["step"], state["minutes"]
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"the checkpoint does not fit {self.config.model} as it is now ({reason}); "
                "give the run another output folder, or begin again with --restart"
            ) from None
        self.smooth, self.best = state.get("smooth", {}), state.get("best", -math.inf)

    def progress(self) -> float:
        """Share of the run that is done, by steps or by minutes, whichever ends it first."""
        config = self.config
        by_steps = self.step / config.iterations if config.iterations else 0.0
        by_minutes = self.minutes / config.max_minutes if config.max_minutes else 0.0
        return max(by_steps, by_minutes)

    def advance(self, sample: Sample) -> dict[str, float]:
        """One step on this process's part of the batch; returns what there is to log.

        Raises:
            CrispsegError: the loss or its gradient is no longer finite; nothing was changed but
                BatchNorm's statistics.
        """
        factor = rate(self.config, self.step, self.progress())
        for group in self.optimiser.param_groups:
            group["lr"] = group["height"] * factor
        sample = Sample(*(tensor.to(self.group.device) for tensor in sample))
        logits = self._forward(sample)
        loss, parts = cascade_loss(logits, sample.truth)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        found = {"loss": loss.detach()} | {k: v.detach() for k, v in parts.items()}
        found |= batch_errors(logits.s1.detach(), sample)
        self._share(found)
        norm = nn.utils.clip_grad_norm_(
            self.module.parameters(), self.config.gradient_clip or math.inf
        )
        names = [*found, "gradient_norm"]
        values = dict(zip(names, torch.stack([*found.values(), norm]).tolist(), strict=True))
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(values[name]):
                raise CrispsegError(_diverged(f"{name} is {values[name]}", self.step))
        self.optimiser.step()
        self.step += 1
        self._update_average()
        for name, value in values.items():
            self.smooth[name] = SMOOTHING * self.smooth.get(name, value) + (1 - SMOOTHING) * value
        return values | {"learning_rate": self.config.learning_rate * factor}

    def _share(self, found: dict[str, Tensor]) -> None:
        """Average gradients, BatchNorm's statistics and ``found`` over all processes.

        Every loss is a mean over equally many samples of each process, so the mean of the
        gradients is the gradient of the whole batch.
        """
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        statistics = [b for b in self.module.buffers() if b.is_floating_point()]
        self.group.average_([*gradients, *statistics, *found.values()])

    def _forward(self, sample: Sample) -> CascadeLogits:
        """Logits in float32, of the global or the local step."""
        config, device = self.config, self.group.device
        inputs = [*self._inputs(sample)]
        # From seed and step alone, so that a resumed run, and every process, draws the same.
        seed = config.seed * 1_000_003 + self.step
        draw = torch.Generator().manual_seed(seed)
        if float(torch.rand((), generator=draw)) < config.local_step_share:
            if float(torch.rand((), generator=draw)) < config.own_coarse_share:
                inputs[1:] = self._own_coarse(inputs[0], sample.coarse, draw)
            else:
                radius = int(torch.randint(1, 5, (), generator=draw))
                inputs.append(soften(sample.coarse, radius) * 2 - 1)
        short = config.precision == "bfloat16"
        cuda = [device] if device.type == "cuda" else []
        with (
            torch.random.fork_rng(cuda),
            torch.autocast(device.type, torch.bfloat16, enabled=short),
        ):
            torch.manual_seed(seed + self.group.rank)  # of dropout, where a network has it
            logits: CascadeLogits = self.module(*inputs)
        return CascadeLogits._make(None if x is None else x.float() for x in logits)

    @torch.no_grad()
    def _own_coarse(self, image: Tensor, coarse: Tensor, draw: torch.Generator) -> list[Tensor]:
        """What the local step gets in use: S1 (binarised) and S4 of a global step, in [-1, 1].

        Trained on the coarse mask alone, the local step learns to make the global step's large
        corrections once more, where in use nearly everything is right already.
        """
        factor = OWN_FACTORS[int(torch.randint(0, len(OWN_FACTORS), (), generator=draw))]
        full = (image.shape[-2], image.shape[-1])
        size = (full[0] // factor, full[1] // factor)
        small = F.interpolate(image, size, mode="area")
        rough = F.interpolate(coarse, size, mode="area")
        self.module.eval()
        logits: CascadeLogits = self.module(small, rough * 2 - 1)
        self.module.train()
        final, stride4 = (
            resize(x.sigmoid(), full, align_corners=False) for x in (logits.s1, logits.s4_3)
        )
        return [(final > 0.5).to(coarse.dtype) * 2 - 1, stride4 * 2 - 1]

    def _inputs(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Image, normalised, and coarse mask in [-1, 1], as the network takes them."""
        image = sample.image.float() / 255
        constants = (self.config.mean, self.config.std)
        mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in constants)
        image = (image - mean) / std
        if self.config.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return image, sample.coarse * 2 - 1

    @torch.no_grad()
    def predict(self, sample: Sample) -> Tensor:
        """Global step of the averaged network, as in use: (N, 1, H, W) probabilities, on the CPU.

        Args:
            sample: a batch, on any device.
        """
        sample = Sample(*(tensor.to(self.group.device) for tensor in sample))
        logits: CascadeLogits = self.average(*self._inputs(sample))
        return logits.s1.sigmoid().cpu()

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


def _diverged(what: str, step: int) -> str:
    return (
        f"{what} at step {step}; nothing is saved since the last checkpoint; begin again with "
        "--restart and a lower learning_rate or gradient_clip"
    )


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
