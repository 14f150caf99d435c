"""Signals that ask a run to stop at its next step boundary."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Ctrl-C; a cluster's preemption; a terminal that is closed; a cluster's warning before the time
limit (as submitit's)."""

TOGETHER = 1.0
"""Seconds within which two Ctrl-C are one."""


@contextlib.contextmanager
def caught(
    handler: Callable[[int, FrameType | None], None], signals: Iterable[signal.Signals] = SIGNALS
) -> Iterator[None]:
    """Let `signals` call `handler` in the ``with`` block; under nohup, SIGHUP stays ignored."""
    before = {
        number: signal.signal(number, handler)
        for number in signals
        if not (number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN)
    }
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


class StopRequest:
    """While entered, notes the first of `SIGNALS` instead of dying of it.

    A second Ctrl-C has its usual effect, at once; within a second of the first it is the same one,
    which a terminal and a program around this one have both passed on.

    Attributes:
        signal: the signal that arrived, None so far.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._pressed = math.inf

    def __enter__(self) -> StopRequest:
        self._caught = caught(self._note)
        self._caught.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._caught.__exit__(None, None, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
        if number == signal.SIGINT and time.monotonic() - self._pressed > TOGETHER:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        elif number == signal.SIGINT:
            self._pressed = min(self._pressed, time.monotonic())
