"""Signals that ask a run to stop after the current step."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Ctrl-C; a cluster's preemption; a closed terminal; a cluster's warning before the time limit (as
sent by submitit)."""

TOGETHER = 1.0
"""Two Ctrl-C within this many seconds count as one."""


@contextlib.contextmanager
def caught(
    handler: Callable[[int, FrameType | None], None], signals: Iterable[signal.Signals] = SIGNALS
) -> Iterator[None]:
    """Handle `signals` with `handler` in the ``with`` block; under nohup, SIGHUP stays ignored."""
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
    """While entered, records the first of `SIGNALS` instead of ending the process.

    A second Ctrl-C has its usual effect at once. Within a second of the first it counts as the same
    one, passed on by both a terminal and a program around this one.

    Attributes:
        signal: the signal that arrived; None before that.
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
