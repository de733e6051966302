"""The state of a training run, and one step of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from crispseg.layers.norm import freeze_norms
from crispseg.train.config import TrainConfig
from crispseg.train.distributed import Group
from crispseg.train.progressing import Progressing
from crispseg.train.refining import Refining
from crispseg.train.schedule import rate
from crispseg.train.segmenting import Segmenting
from crispseg.train.task import Task, step_seed
from crispseg.train.trunk import start_from, start_trunk
from crispseg.types import CrispsegError, InputError

ALONE = Group()
OPTIMISERS: dict[str, type[torch.optim.Adam]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
}
MOMENTUM = 0.9
SMOOTHING = 0.95


def task_of(config: TrainConfig, group: Group) -> Task:
    """What a recipe's network learns."""
    if config.segmenter:
        return Progressing(config, group)
    return Segmenting(config, group) if config.dataset else Refining(config, group)


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
        self.task = task_of(config, group)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.module, self.average = self.task.network(), self.task.network()
        if state is None:
            start_trunk(config, cast(nn.Module, self.module.trunk))
            start_from(config, self.module)
        if config.sync_bn and group.size > 1:
            if group.device.type != "cuda":
                raise InputError("sync_bn needs CUDA; set sync_bn = false")
            convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
            self.module = convert(self.module)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.module.to(group.device).to(memory_format=layout).train()
        if config.freeze_bn:
            freeze_norms(self.module)
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
        trunk = {id(p) for p in cast(nn.Module, self.module.trunk).parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [], "height": config.learning_rate * factor}
            for factor in (config.trunk_factor, 1.0)
        ]
        for parameter in self.module.parameters():
            groups[id(parameter) not in trunk]["params"].append(parameter)
        if config.optimiser == "sgd":
            decay = config.weight_decay
            return torch.optim.SGD(groups, config.learning_rate, MOMENTUM, weight_decay=decay)
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

    def advance(self, batch: Any) -> dict[str, float]:
        """One step on this process's part of the batch; returns what there is to log.

        Args:
            batch: a NamedTuple of tensors, as the task's samples collate.

        Raises:
            CrispsegError: the loss or its gradient is no longer finite; nothing was changed but
                BatchNorm's statistics.
        """
        factor = rate(self.config, self.step, self.progress())
        for group in self.optimiser.param_groups:
            group["lr"] = group["height"] * factor
        batch = type(batch)(*(tensor.to(self.group.device) for tensor in batch))
        loss, parts = self.task.loss(self.forward(batch), batch)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        found = {"loss": loss.detach()} | {k: v.detach() for k, v in parts.items()}
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

        The mean of the processes' losses is the loss of the whole batch, so the mean of the
        gradients is its gradient.
        """
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        statistics = [b for b in self.module.buffers() if b.is_floating_point()]
        self.group.average_([*gradients, *statistics, *found.values()])

    def forward(self, batch: Any) -> Any:
        """The network's outputs for a batch on the device, in float32."""
        config, device = self.config, self.group.device
        inputs = self.task.inputs(self.module, batch, self.step)
        short = config.precision == "bfloat16"
        cuda = [device] if device.type == "cuda" else []
        with (
            torch.random.fork_rng(cuda),
            torch.autocast(device.type, torch.bfloat16, enabled=short),
        ):
            # Of dropout, where a network has it.
            torch.manual_seed(step_seed(config, self.step) + self.group.rank)
            outputs = self.module(*inputs)
        return type(outputs)._make(None if x is None else x.float() for x in outputs)

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
