"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class RunProgress:
    """Shows the progress of one run on standard output.

    Args:
        steps: optimiser steps of the whole run.
        done: steps that earlier attempts did.
    """

    def __init__(self, steps: int, done: int = 0) -> None:
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.steps = steps
        self._first = done
        self._started = time.monotonic()
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:3.0f}%"),
                TextColumn("loss {task.fields[loss]}  λ {task.fields[lambda_]}"),
                TextColumn("test {task.fields[test]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(
                "", total=steps, completed=done, epoch="", loss="–", lambda_="–", test="–"
            )

    def __enter__(self) -> RunProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, *, epoch: str, loss: float, lambda_: float, test: str) -> None:
        """Redraw the bar; nothing where there is none."""
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=step,
                epoch=epoch,
                loss=f"{loss:.4f}",
                lambda_=f"{lambda_:.3g}",
                test=test,
            )

    def line(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self.console.print(text, markup=False)

    def epoch_line(self, text: str) -> None:
        """Print a line that the bar makes needless."""
        if self._bar is None:
            self.line(text)

    def seconds_left(self, step: int) -> float | None:
        """Seconds until the run ends at the pace so far; None before the first step."""
        done = step - self._first
        if done <= 0:
            return None
        return (time.monotonic() - self._started) / done * (self.steps - step)


def duration(seconds: float | None) -> str:
    """`seconds` as h:mm:ss, or mm:ss below an hour."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
