"""What a run tells: lines on the screen, ``log.jsonl``, and TensorBoard if wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from crispseg.io.atomic import atomic_path
from crispseg.types import InputError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"


class Events:
    """Where the first process of a run reports.

    Args:
        folder: of the run; gets ``log.jsonl``, and ``tensorboard/``. None: nothing is written.
        step: where the run begins or goes on; what an earlier one logged after it is dropped.
        say: receives lines for people.
        tensorboard: write for TensorBoard too.

    Raises:
        InputError: TensorBoard is wanted but not installed, or the folder cannot be written.
    """

    def __init__(
        self, folder: Path | None, step: int, say: Callable[[str], None], *, tensorboard: bool
    ) -> None:
        self.say = say
        self._board = self._log = None
        if folder:
            self._board = _writer(folder / "tensorboard", step) if tensorboard else None
            try:
                _keep_until(folder / LOG, step)
                self._log = (folder / LOG).open("a", encoding="utf-8")
            except OSError as error:
                raise InputError(f"{folder / LOG} cannot be written: {error.strerror}") from None

    def scalars(self, step: int, minutes: float, values: Mapping[str, float]) -> None:
        """One line of ``log.jsonl``; for TensorBoard a curve of each value."""
        if self._log:
            record = {"step": step, "minutes": round(minutes, 2), **values}
            self._log.write(json.dumps(record) + "\n")
            self._log.flush()
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, pixels: Tensor) -> None:
        """A (3, H, W) picture in [0, 1], for TensorBoard only."""
        if self._board:
            self._board.add_image("samples", pixels, step)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._log:
            self._log.close()
        if self._board:
            self._board.close()


def _writer(folder: Path, step: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError:
        raise InputError("tensorboard = true needs TensorBoard; install crispseg[train]") from None
    return SummaryWriter(folder, purge_step=step + 1)


def _keep_until(path: Path, step: int) -> None:
    """Drop records after ``step``, of a run that got further than its last checkpoint."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line for line in lines if _step(line) <= step), "utf-8")


def _step(line: str) -> float:
    with suppress(ValueError, KeyError, TypeError):
        record: dict[str, Any] = json.loads(line)
        return float(record["step"])
    return float("inf")  # cut off by a kill
