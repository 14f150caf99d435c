"""Signals that ask a run to stop at its next step boundary."""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C; a cluster's preemption; a cluster's warning before the time limit (as submitit's)."""


class StopRequest:
    """While entered, notes the first of `SIGNALS` instead of dying of it.

    A second Ctrl-C has its usual effect, at once.

    Attributes:
        signal: the signal that arrived, None so far.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
