"""The display of progress: progress bars on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

WIDE = 200
"""Minimum line width, in characters, of output to a file or pipe; the default of 80 cuts tables."""


class Terminal(Console):
    """A console on standard output, for messages of runs and sweeps.

    Whether standard output is a terminal is determined by the system, regardless of FORCE_COLOR.
    If it is not, lines have at least `WIDE` characters. Output that cannot be written causes no
    error (see `autol2.cli.output.steady`).
    """

    def __init__(self) -> None:
        stream = sys.stdout
        terminal = stream is not None and not stream.closed and stream.isatty()
        super().__init__(highlight=False, soft_wrap=True, force_terminal=terminal)
        if not self.is_terminal:
            self.width = max(self.width, WIDE)


class RunProgress:
    """Shows the progress of one run on standard output.

    Args:
        steps: the number of optimizer steps of the whole run.
        done: the number of steps that earlier attempts have completed.
    """

    def __init__(self, steps: int, done: int = 0) -> None:
        self.console = Terminal()
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

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, *, epoch: str, loss: float, lambda_: float, test: str) -> None:
        """Redraw the bar, if there is one."""
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
        """Print a line, above the bar if there is one."""
        self.console.print(text, markup=False)

    def epoch_line(self, text: str) -> None:
        """Print a line, unless there is a bar that makes it unnecessary."""
        if self._bar is None:
            self.line(text)

    def seconds_left(self, step: int) -> float | None:
        """Estimate the seconds until the run ends, at its pace so far; None before any step."""
        done = step - self._first
        if done <= 0:
            return None
        return (time.monotonic() - self._started) / done * (self.steps - step)


class StudyProgress:
    """Shows a progress bar for a sweep and one for each active run, if there is a terminal.

    Args:
        runs: the number of runs to do.
        console: the console to print to.
    """

    ROWS = 8
    """Maximum number of runs that are shown."""

    def __init__(self, runs: int, console: Console) -> None:
        self.console, self.runs = console, runs
        self._started = time.monotonic()
        self._rows: dict[str, TaskID] = {}
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}")
        self._bars = Progress(*columns, console=console, transient=True)

    def __enter__(self) -> StudyProgress:
        if self.console.is_terminal:
            self._bars.start()
            self._whole = self._bars.add_task("sweep", total=self.runs, words="")
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:  # Otherwise, this would print an empty line.
            self._bars.stop()

    def update(self, done: int, under_way: Mapping[str, Mapping[str, Any]]) -> None:
        """Redraw the bars, if there is a terminal.

        Args:
            done: the number of runs that have ended.
            under_way: the content of run.json of the other runs, by run ID.
        """
        if not self.console.is_terminal:
            return
        parts = {
            run: state["progress"]
            for run, state in under_way.items()
            if state.get("status") == "running" and state.get("progress")
        }
        shares = {run: part["step"] / part["steps"] for run, part in parts.items()}
        share = (done + sum(shares.values())) / self.runs
        words = f"{done}/{self.runs} runs"
        if 0 < share < 1:
            elapsed = time.monotonic() - self._started
            words += f"  {duration(elapsed / share * (1 - share))} left"
        self._bars.update(self._whole, completed=share * self.runs, words=words)
        for run in self._rows.keys() - parts.keys():
            self._bars.remove_task(self._rows.pop(run))
        for run, part in parts.items():
            if run not in self._rows and len(self._rows) < self.ROWS:
                self._rows[run] = self._bars.add_task(f"  {run}", total=1.0, words="")
            if run in self._rows:
                words = f"epoch {part['epoch']}/{part['epochs']}  λ {float(part['lambda']):.3g}"
                self._bars.update(self._rows[run], completed=shares[run], words=words)


def duration(seconds: float | None) -> str:
    """Format `seconds` as h:mm:ss, or as m:ss below one hour."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(count: int, what: str = "run") -> str:
    """Return `count` with its noun, as in "1 run" and "2 runs"."""
    return f"{count} {what}{'' if count == 1 else 's'}"
