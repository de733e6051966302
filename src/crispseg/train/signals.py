"""Ctrl-C and SIGTERM: a step is never cut in two."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

IMPATIENT_SECONDS = 1.0


class StopSignals:
    """While active, SIGINT and SIGTERM only set ``received``; the loop looks between steps.

    A second Ctrl-C raises KeyboardInterrupt at once, unless it comes within a second: torchrun
    passes on to its processes what the terminal has already sent them.

    Outside the main thread, where Python handles no signals, this does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as for a script's jobs
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._since = signal.Signals(number), now
        elif number == signal.SIGINT and now - self._since > IMPATIENT_SECONDS:
            raise KeyboardInterrupt


def leave(received: signal.Signals) -> None:
    """End the program as the signal would have, once everything is saved.

    Raises:
        KeyboardInterrupt: for Ctrl-C.
        SystemExit: for SIGTERM, with the shell's code for it.
    """
    if received == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + received)


def ignore_in_worker(_worker: int) -> None:
    """For ``DataLoader(worker_init_fn=...)``: workers end when the main process lets them go.

    Ctrl-C reaches every process of the terminal, and a scheduler sends SIGTERM to all of them; a
    worker that went would take the step in progress with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
