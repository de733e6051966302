"""The training loop. A run is decided by its recipe; killed and resumed, it goes on the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sized
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from crispseg.data.seeded import one_thread_each
from crispseg.models.weights import save_weights
from crispseg.train.checkpoint import (
    CHECKPOINT,
    check_same_recipe,
    load_checkpoint,
    recipe_of,
    save_checkpoint,
)
from crispseg.train.config import TrainConfig, recipe_text, recipe_values
from crispseg.train.distributed import Group, process_group
from crispseg.train.events import Events
from crispseg.train.run import Run
from crispseg.train.signals import StopSignals, ignore_in_worker, leave
from crispseg.types import InputError

ENDLESS = 1_000_000_000
# What a recipe says of the machine it ran on, and what save_weights says itself.
LOCAL_KEYS = {"data", "output", "device", "threads", "workers", "trunk_weights"}
LOCAL_KEYS |= {"start_from"}
LOCAL_KEYS |= {"mean", "std", "model"}

Say = Callable[[str], None]


def train(
    config: TrainConfig,
    *,
    resume: bool = True,
    samples: Dataset[Any] | None = None,
    validation: Dataset[Any] | None = None,
    say: Say = print,
) -> Path:
    """Run a recipe to its end, or go on with one that was stopped.

    Every ``checkpoint_minutes``, at the end, and at Ctrl-C or SIGTERM after the step in progress,
    the folder ``config.output`` gets ``checkpoint.pt`` and the averaged weights,
    ``<model>.safetensors``; ``log.jsonl`` grows all the time. Under torchrun the steps are shared
    by all processes, and the first one writes.

    Args:
        config: the recipe.
        resume: go on from the checkpoint in the output folder, if there is one.
        samples: instead of those in ``config.data``.
        validation: instead of those held out in ``config.data``.
        say: receives a line of progress now and then, in the first process.

    Returns:
        The file of averaged weights.

    Raises:
        InputError: no data, a damaged checkpoint, or one of another recipe.
        CrispsegError: the loss is no longer finite.
        KeyboardInterrupt: after Ctrl-C, when all is saved.
        SystemExit: after SIGTERM, when all is saved.
    """
    folder = Path(config.output)
    with process_group(config.device) as group, StopSignals() as stop:
        say = say if group.rank == 0 else _say_nothing
        run = _prepare(config, group, folder, resume, say)
        if samples is None:
            samples = run.task.samples(ENDLESS)
        held = run.task.held_out(validation) if config.validate_every else []
        if not resume:  # what is there would else be resumed if this run were killed early
            (folder / CHECKPOINT).unlink(missing_ok=True)
        board = config.tensorboard
        mine = folder if group.rank == 0 else None
        with closing(Events(mine, run.step, say, tensorboard=board)) as events:
            _run_steps(run, samples, held, events, stop)
        _save(run)
    if stop.received:
        say(f"stopped at step {run.step}; all is saved, and the same command goes on from here")
        leave(stop.received)
    return _weights(config)


def try_out(config: TrainConfig, *, samples: Dataset[Any] | None = None, say: Say = print) -> None:
    """Say what a recipe means and make one step of it; nothing is written.

    Raises:
        InputError: no data, or trunk weights missing.
        CrispsegError: the first loss is not finite.
    """
    with process_group(config.device) as group:
        say = say if group.rank == 0 else _say_nothing
        _use_threads(config)
        say(recipe_text(config))
        run = Run(config, group)
        say(f"# {sum(p.numel() for p in run.module.parameters()):,} parameters on {group.device}")
        begun = time.monotonic()
        if samples is None:
            samples = run.task.samples(ENDLESS)
        with closing(_batches(run, samples)) as batches:
            batch = next(batches)
            made = time.monotonic()
            values = run.advance(batch)
        seconds = f"{made - begun:.1f} s for the first batch, {time.monotonic() - made:.1f} s"
        say(f"# one step: loss {values['loss']:.3f}; {seconds} for the step; nothing was written")


def _prepare(config: TrainConfig, group: Group, folder: Path, resume: bool, say: Say) -> Run:
    """A run that begins, or goes on from the checkpoint in ``folder``."""
    _use_threads(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output folder {folder} cannot be made: {error.strerror}") from None
    state = load_checkpoint(folder) if resume else None
    if state and "recipe" in state:
        check_same_recipe(state["recipe"], recipe_of(config, group.size), folder)
    elif state:
        say("the checkpoint is of an older version, which did not keep the recipe")
    run = Run(config, group, state)
    total, squares = group.add([run.step, run.step**2])
    if group.size * squares != total**2:  # where not all are the same; all see that
        raise InputError(f"all processes must see the same folder {folder}, and they do not")
    if state:
        say(f"resumed at step {run.step} after {run.minutes:.1f} min")
    return run


def _use_threads(config: TrainConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)


def _run_steps(
    run: Run, samples: Dataset[Any], held: list[Any], events: Events, stop: StopSignals
) -> None:
    """Step after step until the recipe's end, or a signal.

    Time and signals are looked at between steps only; the first process's clock and any process's
    signal count for all, so that all do the same.
    """
    config = run.config
    begun, already, first_step = time.monotonic(), run.minutes, run.step
    saved_at = already
    with closing(_batches(run, samples)) as batches:
        while run.progress() < 1:
            try:
                sample = next(batches, None)
            except RuntimeError:
                if stop.received:  # took a worker that had only begun to start
                    return
                raise
            if sample is None:
                events.say(f"no samples are left at step {run.step}")
                return
            values = run.advance(sample)
            minutes = already + (time.monotonic() - begun) / 60
            run.minutes, stopped = run.group.agree(minutes, stop.received is not None)
            if _due(run, config.log_every):
                values["samples_per_second"] = _speed(run, first_step, run.minutes - already)
                _report(run, values, events)
            if config.tensorboard and _due(run, config.picture_every) and run.group.rank == 0:
                events.picture(run.step, run.task.picture(run.average, sample))
            if _due(run, config.validate_every):
                _validate(run, held, events)
            if stopped:
                return
            if run.minutes - saved_at >= config.checkpoint_minutes:
                _save(run)
                saved_at = run.minutes


def _due(run: Run, every: int) -> bool:
    return every > 0 and run.step % every == 0


def _speed(run: Run, first_step: int, minutes: float) -> float:
    """Samples a second, of all processes."""
    count = (run.step - first_step) * run.config.batch_size * run.group.size
    return count / max(60 * minutes, 1e-9)


def _report(run: Run, values: dict[str, float], events: Events) -> None:
    smooth = values | run.smooth
    events.scalars(run.step, run.minutes, smooth)
    done = run.progress()
    left = run.minutes * (1 - done) / max(done, 1e-9)
    events.say(
        f"step {run.step}  loss {smooth['loss']:.3f}  {run.task.line(smooth)}  "
        f"{smooth['samples_per_second']:.1f} samples/s  "
        f"{100 * done:.1f} %  {left:.0f} min left"
    )


def _validate(run: Run, held: list[Any], events: Events) -> None:
    """Try the averaged network; keep it if it is the best so far."""
    scores = run.task.validate(run.average, held)
    named = {f"validation/{name}": score for name, score in scores.items()}
    events.scalars(run.step, run.minutes, named)
    score = scores[run.task.best_by]
    better = run.config.keep_best and score > run.best
    events.say(
        f"step {run.step}  validation  {run.task.validation_line(scores)}"
        + ("  best so far" if better else "")
    )
    if better:
        run.best = score
        texts = {name: f"{score:.6f}" for name, score in named.items()}
        _save_weights(run, _weights(run.config, "-best"), texts)


def _batches(run: Run, samples: Dataset[Any]) -> Generator[Any]:
    """This process's batches from the run's step on; samples are random already.

    Step s of n processes takes n * batch_size samples in order, the r-th of them its r-th part:
    two processes see what one with twice the batch sees.
    """
    config, group = run.config, run.group
    together = config.batch_size * group.size
    end = len(cast(Sized, samples)) - together + 1
    starts = range(run.step * together, end, together)
    first, size = group.rank * config.batch_size, config.batch_size
    mine = (list(range(start + first, start + first + size)) for start in starts)
    yield from DataLoader(
        samples,
        batch_sampler=mine,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        pin_memory=group.device.type == "cuda",
        worker_init_fn=_begin_worker,
        # Not forked: libvips has threads, and one that has read an image here would hang there.
        multiprocessing_context="spawn" if config.workers else None,
    )


def _begin_worker(number: int) -> None:
    ignore_in_worker(number)
    one_thread_each(number)


def _save(run: Run) -> None:
    """Checkpoint and weights, by the first process; all of them check that they are finite."""
    config = run.config
    state = run.state() | {"recipe": recipe_of(config, run.group.size)}
    if run.group.rank == 0:
        save_checkpoint(Path(config.output), state)
        _save_weights(run, _weights(config), {})


def _weights(config: TrainConfig, suffix: str = "") -> Path:
    return Path(config.output) / f"{config.model}{suffix}.safetensors"


def _save_weights(run: Run, path: Path, more: dict[str, str]) -> None:
    if run.group.rank:
        return
    config = run.config
    recipe = {k: str(v) for k, v in recipe_values(config).items() if k not in LOCAL_KEYS}
    progress = {"step": str(run.step), "minutes": f"{run.minutes:.1f}"}
    save_weights(
        path,
        run.average,
        architecture=config.model,
        mean=config.mean,
        std=config.std,
        metadata=recipe | progress | run.task.metadata() | more,
    )


def _say_nothing(_line: str) -> None:
    pass
