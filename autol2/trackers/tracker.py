"""The base class of the config group ``logger``, and the mirror that keeps a tracker up to date.

A tracker receives the rows of the run's CSV files each time these are flushed: nothing is measured
for it, and the GPU never waits. It is only a copy; if it fails, the run continues without it.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..component import Component
from ..errors import first_line, require

Figures = dict[str, float]
"""Finite values by name, such as ``epochs/test_accuracy``."""


@dataclass(frozen=True)
class Shown:
    """What a tracker needs to know about a run."""

    folder: Path
    """The run's directory, which has the run's name."""
    study: str
    """The name of the run's study."""
    id: str
    """An identifier that all attempts at the run share; a new one after ``rerun=true``."""
    options: Mapping[str, Any]
    """The run's identity with flattened names, such as ``method.name``."""
    first: int
    """The number of steps before this attempt; they are not repeated."""
    begun: bool
    """Whether an earlier attempt was shown to this tracker."""


class Tracker(Protocol):
    """Shows a run while it is running."""

    def log(self, rows: Sequence[tuple[int, Figures]]) -> None:
        """Log figures; each row has the step of the run that it belongs to."""

    def close(self, status: str) -> None:
        """End the attempt, with its `status` in run.json."""


@dataclass
class TrackerOptions(Component):
    """Base class of the trackers. None of their options is part of a run's identity."""

    package: ClassVar[str] = ""
    """A required package, which the extra with the tracker's name installs."""

    def require_installed(self) -> None:
        """Check that `package` is installed (see `Component`)."""
        require(
            not self.package or importlib.util.find_spec(self.package) is not None,
            f"logger={self.name} needs the package {self.package}: "
            f"pip install 'autol2[{self.name}]'",
        )

    def open(self, run: Shown) -> Tracker | None:
        """Open the tracker of a run that has begun, with its records flushed; None for no tracker.

        It may raise any exception; the run then continues without a tracker.
        """
        raise NotImplementedError


@dataclass
class NoTracker(TrackerOptions):
    """No experiment tracker."""

    name = "none"

    def open(self, run: Shown) -> Tracker | None:
        """Return None (see `TrackerOptions`)."""
        return None


class Mirror:
    """Sends the new rows of a run's records to a tracker.

    Args:
        tracker: the tracker.
        folder: the run's directory.
        shown: number of bytes of each record that the tracker has received; it is kept up to date.
        length: number of steps in an epoch.
        warn: called once if the tracker fails.
    """

    def __init__(
        self,
        tracker: Tracker,
        folder: Path,
        shown: dict[str, int],
        length: int,
        warn: Callable[[str], None],
    ) -> None:
        self._tracker: Tracker | None = tracker
        self._shown, self._length, self._warn = shown, length, warn
        self._columns: dict[Path, list[str]] = {}
        self._seen: dict[Path, int] = {}
        for path in (folder / "measurements.csv", folder / "epochs.csv"):
            with path.open("rb") as file:
                header = file.readline()
            (self._columns[path],) = csv.reader([header.decode()])
            # the run may have resumed from an earlier position
            before = shown.get(path.name, len(header))
            self._seen[path] = min(before, path.stat().st_size)

    def update(self) -> None:
        """Send what has been flushed since the last call."""
        if self._tracker is not None:
            self._attempt(lambda tracker: tracker.log(list(self._news())))
        if self._tracker is not None:
            self._shown.update({path.name: size for path, size in self._seen.items()})

    def close(self, status: str) -> None:
        """Send the rest, and close the tracker with the `status` in run.json."""
        self.update()
        self._attempt(lambda tracker: tracker.close(status))
        self._tracker = None

    def _attempt(self, what: Callable[[Tracker], None]) -> None:
        try:
            if self._tracker is not None:
                what(self._tracker)
        except Exception as error:
            self._tracker = None
            self._warn(f"the logger failed, the run continues without it: {first_line(error)}")

    def _news(self) -> Iterator[tuple[int, Figures]]:
        for path, columns in self._columns.items():
            with path.open("rb") as file:
                file.seek(self._seen[path])
                content = file.read()
            content = content[: content.rfind(b"\n") + 1]  # the last row may be incomplete
            self._seen[path] += len(content)
            for row in csv.DictReader(io.StringIO(content.decode()), columns):
                step = int(row.pop("epoch")) * self._length + int(row.pop("step"))
                row.pop("event", None)
                figures = {f"{path.stem}/{name}": float(value) for name, value in row.items()}
                yield step, {name: value for name, value in figures.items() if math.isfinite(value)}


def mirror(
    options: TrackerOptions,
    run: Shown,
    shown: dict[str, int],
    length: int,
    warn: Callable[[str], None],
) -> Mirror | None:
    """Return the mirror of `run` for the tracker of `options`; None if there is none or it fails.

    Args:
        options: the tracker's options.
        run: the run, which has begun, with its records flushed.
        shown: see `Mirror`.
        length: number of steps in an epoch.
        warn: called if the tracker cannot be opened, or fails later.
    """
    try:
        tracker = options.open(run)
    except ModuleNotFoundError as error:
        warn(
            f"logger={options.name} needs the package {error.name}, the run continues without it: "
            f"pip install {error.name}"
        )
        return None
    except Exception as error:
        words = first_line(error)
        warn(f"logger={options.name} cannot be used, the run continues without it: {words}")
        return None
    return None if tracker is None else Mirror(tracker, run.folder, shown, length, warn)
