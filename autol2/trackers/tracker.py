"""A tracker: the base class of the config group ``logger``, and what keeps it up to date.

A tracker is shown what the run's CSV files say, row for row, each time they are flushed: nothing is
measured for it, and the GPU never waits. It is a copy: when it fails the run goes on without it.
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
"""By name, as in ``epochs/test_accuracy``; all finite."""


@dataclass(frozen=True)
class Shown:
    """What a tracker is told of a run."""

    folder: Path
    """The run's directory; its name is the run's."""
    study: str
    """Its study."""
    id: str
    """The same for every attempt at the run, another one after ``rerun=true``."""
    options: Mapping[str, Any]
    """The run's identity, flat, as in ``method.name``."""
    first: int
    """The last step that is not done again."""
    begun: bool
    """Whether an earlier attempt was shown to this tracker."""


class Tracker(Protocol):
    """What shows a run while it runs."""

    def log(self, rows: Sequence[tuple[int, Figures]]) -> None:
        """Take figures, each row with the step of the run that it belongs to."""

    def close(self, status: str) -> None:
        """The attempt ended; `status` as in run.json."""


@dataclass
class TrackerOptions(Component):
    """Base class of the trackers. None of their options is part of a run's identity."""

    package: ClassVar[str] = ""
    """A package that it needs, where the extra of its name installs it."""

    def require_installed(self) -> None:
        """See `Component`."""
        require(
            not self.package or importlib.util.find_spec(self.package) is not None,
            f"logger={self.name} needs the package {self.package}: "
            f"pip install 'autol2[{self.name}]'",
        )

    def open(self, run: Shown) -> Tracker | None:
        """The tracker of a run that has begun, with its records flushed; None for no tracker.

        May raise anything: the run then goes on without it.
        """
        raise NotImplementedError


@dataclass
class NoTracker(TrackerOptions):
    """No tracker."""

    name = "none"

    def open(self, run: Shown) -> Tracker | None:
        """See `TrackerOptions`."""
        return None


class Mirror:
    """Shows a tracker what is new in a run's records.

    Args:
        tracker: the tracker.
        folder: the run's.
        shown: how many bytes of each record the tracker has been shown; it is kept up to date.
        length: steps of an epoch.
        warn: told once if the tracker fails.
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
            before = shown.get(path.name, len(header))  # which the run may not have resumed from
            self._seen[path] = min(before, path.stat().st_size)

    def update(self) -> None:
        """Show what has been flushed since the last time."""
        if self._tracker is not None:
            self._attempt(lambda tracker: tracker.log(list(self._news())))
        if self._tracker is not None:
            self._shown.update({path.name: size for path, size in self._seen.items()})

    def close(self, status: str) -> None:
        """Show the rest and let the tracker go; `status` as in run.json."""
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
            content = content[: content.rfind(b"\n") + 1]  # a row may be half flushed
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
    """What shows `run` to the tracker of `options`; None where there is none or it fails.

    Args:
        options: the tracker.
        run: begun, with its records flushed.
        shown: see `Mirror`.
        length: steps of an epoch.
        warn: told if the tracker cannot be had, or later fails.
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
