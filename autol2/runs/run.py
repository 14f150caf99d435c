"""A run's directory: ``<outputs>/<study>/<run_id>/``.

The directory alone decides what is known about a run. ``run.json`` holds its state and is replaced
atomically; ``measurements.csv`` and ``epochs.csv`` are appended to, and truncated to the checkpoint
on resume; ``train.log`` is for people. This module does not import torch, so that a finished run is
recognised at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from ..component import as_plain
from ..config import Config
from ..errors import UserError
from ..storage.files import remove_leftovers, to_json, write_atomically
from ..storage.lock import HEARTBEAT, PATIENCE, Lock
from .identity import identity, run_id
from .state import FINISHED, holder, last_attempt, read_state
from .surroundings import requeued, surroundings

KEPT = ("data", "code", "steps_per_epoch", "shown")
"""Entries of run.json that are kept when an attempt begins."""


class Held(UserError):
    """Another process is working in the run's directory."""

    status = 75  # EX_TEMPFAIL: try again later


class Run:
    """A run's directory, which may not exist yet.

    Attributes:
        config: the run's configuration.
        command: the command that the user types for this run.
        folder: the directory.
        state: the contents of run.json; empty before the first start.
    """

    def __init__(self, config: Config, overrides: Sequence[str] = ()) -> None:
        self.config = config
        self.command = command(overrides)
        self.folder = Path(config.outputs) / config.study / run_id(config)
        self.state: dict[str, Any] = read_state(self.folder)
        self._lock = Lock(self.folder / ".lock")
        self._beaten = 0.0
        self._saving = threading.Lock()
        self._saved: str | None = None
        """The last text that this process wrote to run.json."""
        self._log: IO[str] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.state.get("status") in FINISHED

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Create or enter the directory, as the only process in it.

        Raises:
            Held: another process is working in it.
            UserError: the directory cannot be written.
        """
        try:
            made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            self._acquire()
            try:
                self.state = read_state(self.folder)
                remove_leftovers(self.folder)
                with (self.folder / "train.log").open("a", encoding="utf-8") as self._log:
                    yield
            finally:
                self._log = None
                self._lock.release()
                if made and not (self.folder / "run.json").exists():
                    self._remove(made)  # the run was rejected before it began
        except BrokenPipeError:
            raise  # the reader of our output is gone, but the folder is fine
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written ({error.strerror or error}): "
                f"choose another folder with outputs=FOLDER, or free some disk space"
            ) from error

    def _remove(self, made: Iterable[Path]) -> None:
        """Remove the folders `made` for the run unless they contain anything else."""
        with contextlib.suppress(OSError):
            for name in ("train.log", ".lock"):
                (self.folder / name).unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()

    def set_aside(self) -> None:
        """Move the existing files into a subfolder, so that ``rerun=true`` loses nothing."""
        old = self.folder / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
        old.mkdir()
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in (".lock", "train.log"):
                path.rename(old / path.name)
        self.state = {}

    def _acquire(self) -> None:
        while not self._lock.try_acquire():
            if not self._lock.doubtful:
                raise Held(f"{self.folder} is held by {holder(read_state(self.folder))}")
            time.sleep(min(1.0, PATIENCE / 10))
        try:
            self._await_other_host()
        except BaseException:
            self._lock.release()
            raise

    def _await_other_host(self) -> None:
        """Check whether a run on another host is alive, if file locks do not work across hosts."""
        state = read_state(self.folder)
        last = last_attempt(state)
        if state.get("status") != "running" or last.get("host") == socket.gethostname():
            return
        if requeued(last):
            return
        deadline = time.monotonic() + PATIENCE - min(max(self._silence(), 0.0), PATIENCE)
        while time.monotonic() < deadline:
            time.sleep(min(1.0, PATIENCE / 10))
            if read_state(self.folder).get("updated") != state.get("updated"):
                raise Held(f"{self.folder} is held by {holder(state)}")

    def _silence(self) -> float:
        """Return the seconds since run.json changed.

        Both times come from the clock that dates the folder's files, since the clocks of two hosts
        may differ.
        """
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.write(b" ")
            file.flush()
            return os.fstat(file.fileno()).st_mtime - os.stat(self.folder / "run.json").st_mtime

    def begin(self, **facts: Any) -> None:
        """Record in run.json that an attempt starts, with `facts` about it (its device, …)."""
        attempts = self.state.get("attempts", [])
        if attempts and "ended" not in attempts[-1]:
            last = datetime.fromtimestamp(self.state["updated"], UTC)
            attempts[-1].update(ended=last.isoformat(timespec="seconds"), why="killed")
        attempts.append({**facts, **surroundings(), "started": now()})
        self.state = {
            "run_id": self.folder.name,
            "status": "running",
            "seed": self.config.seed,
            "command": self.command,
            "config": as_plain(self.config),
            "identity": identity(self.config),
            "method": {
                "label": self.config.method.label,
                "baseline": self.config.method.baseline and not self.config.control.identity(),
            },
            **{key: self.state[key] for key in KEPT if key in self.state},
            "attempts": attempts,
        }
        self.save()

    def end(self, status: str, why: str, **facts: Any) -> None:
        """Record in run.json how the attempt ended, with `facts` about the run."""
        self.state["attempts"][-1].update(ended=now(), why=why)
        self.state.update(status=status, **facts)
        self.save()

    def beat(self, progress: Callable[[], dict[str, Any]], *, at_once: bool = False) -> bool:
        """Save `progress` as a sign of life if the last one is at least `HEARTBEAT` seconds ago.

        With `at_once`, it is saved in any case. Return whether it was saved.

        Raises:
            Held: another process took over the directory because this one was silent for too long.
        """
        due = at_once or time.monotonic() - self._beaten >= HEARTBEAT
        if due:
            if self._lock.lost:
                raise Held(f"{self.folder} was taken over by {self._lock.holder}")
            self.state["progress"] = progress()
            self.save()
        return due

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Give signs of life from a thread while nobody calls `beat`, as in a slow step."""
        end = threading.Event()
        thread = threading.Thread(target=self._beat_alone, args=(end,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _beat_alone(self, end: threading.Event) -> None:
        while not end.wait(HEARTBEAT):
            with self._saving, contextlib.suppress(OSError):
                silent = time.monotonic() - self._beaten >= 2 * HEARTBEAT
                if self._saved is None or not silent or self._lock.lost:
                    continue
                state = json.loads(self._saved)
                if state["status"] == "running":
                    self._write({**state, "updated": time.time()})

    def save(self) -> None:
        """Write `state` to run.json."""
        with self._saving:
            self.state["updated"] = time.time()
            self._saved = self._write(self.state)
            self._beaten = time.monotonic()

    def _write(self, state: dict[str, Any]) -> str:
        text = to_json(state)
        write_atomically(self.folder / "run.json", text.encode())
        return text

    def log(self, line: str) -> None:
        """Append a line to train.log."""
        if self._log is not None:
            self._log.write(f"{now()} {line}\n")
            self._log.flush()


def command(overrides: Sequence[str]) -> str:
    """Return the command that the user types for a run."""
    return shlex.join(["python", "-m", "autol2.train", *overrides])


def now() -> str:
    """Return the current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
