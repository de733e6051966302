"""Ctrl-C, and Ctrl-C again."""

from __future__ import annotations

import signal
import threading

import pytest

from crispseg.train import signals
from crispseg.train.signals import StopSignals


def test_the_first_is_noted_and_an_impatient_second_leaves(monkeypatch) -> None:
    with StopSignals() as stop:
        assert stop.received is None
        signal.raise_signal(signal.SIGINT)
        assert stop.received == signal.SIGINT
        signal.raise_signal(signal.SIGINT)  # torchrun passes on what the terminal has sent
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == signal.SIGINT
        monkeypatch.setattr(signals, "IMPATIENT_SECONDS", 0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    inside = []

    def enter() -> None:
        with StopSignals() as stop:
            inside.append((signal.getsignal(signal.SIGINT), stop.received))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == [(before, None)]
