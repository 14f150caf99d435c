"""One run's directory: ``<outputs>/<study>/<run_id>/``.

The directory is the run's own truth. ``run.json`` says how it stands and is replaced atomically;
``measurements.csv`` and ``epochs.csv`` are appended to, and cut back to the checkpoint on resume;
``train.log`` is for reading. No torch here, so that a finished run is recognised at once.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import statistics
import subprocess
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
from .files import remove_leftovers, to_json, write_atomically
from .identity import identity, run_id
from .lock import HEARTBEAT, PATIENCE, Lock

FINISHED = ("completed", "diverged")
"""The statuses of a run that is never done again."""
KEPT = ("data", "code", "steps_per_epoch")
"""Of run.json, what an attempt knows before it begins."""
PACKAGES = ("autol2", "torch", "torchvision", "numpy", "hydra-core", "omegaconf")


class Held(UserError):
    """Another process works in the run's directory."""

    status = 75  # EX_TEMPFAIL: try again later


class Run:
    """A run's directory, there or not yet.

    Attributes:
        config: the run's configuration.
        command: what the user types to do this run.
        folder: the directory.
        state: what run.json says; empty before the first start.
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
        """What this process last wrote to run.json."""
        self._log: IO[str] | None = None

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state.get("status") in FINISHED

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Make the directory, or enter it, as the only process in it.

        Raises:
            Held: another process is in it.
            UserError: it cannot be written.
        """
        try:
            made = [one for one in (self.folder, *self.folder.parents) if not one.exists()]
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
                    self._remove(made)  # the run was refused before it began
        except BrokenPipeError:
            raise  # whoever read our output is gone; the folder is well
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written ({error.strerror or error}): "
                f"choose another folder with outputs=FOLDER, or make room"
            ) from error

    def _remove(self, made: Iterable[Path]) -> None:
        """Take away the folders `made` for the run, as far as there is nothing else in them."""
        with contextlib.suppress(OSError):
            for name in ("train.log", ".lock"):
                (self.folder / name).unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()

    def set_aside(self) -> None:
        """Move what is there into a folder inside: ``rerun=true`` loses nothing."""
        old = self.folder / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
        old.mkdir()
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in (".lock", "train.log"):
                path.rename(old / path.name)
        self.state = {}

    def _acquire(self) -> None:
        while not self._lock.try_acquire():
            if not self._lock.doubtful:
                raise Held(f"{self.folder} is held by {_holder(read_state(self.folder))}")
            time.sleep(min(1.0, PATIENCE / 10))
        try:
            self._await_other_host()
        except BaseException:
            self._lock.release()
            raise

    def _await_other_host(self) -> None:
        """Where file locks do not cross hosts: see whether the run on another host still lives."""
        state = read_state(self.folder)
        last = _last_attempt(state)
        if state.get("status") != "running" or last.get("host") == socket.gethostname():
            return
        if _requeued(last):
            return
        deadline = time.monotonic() + PATIENCE - min(max(self._silence(), 0.0), PATIENCE)
        while time.monotonic() < deadline:
            time.sleep(min(1.0, PATIENCE / 10))
            if read_state(self.folder).get("updated") != state.get("updated"):
                raise Held(f"{self.folder} is held by {_holder(state)}")

    def _silence(self) -> float:
        """Seconds since run.json changed, by the clock that dates the folder's files: those of two
        hosts may differ."""
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.write(b" ")
            file.flush()
            return os.fstat(file.fileno()).st_mtime - os.stat(self.folder / "run.json").st_mtime

    def begin(self, **facts: Any) -> None:
        """Note in run.json that an attempt starts, with `facts` about it (from_step, device, …)."""
        attempts = self.state.get("attempts", [])
        if attempts and "ended" not in attempts[-1]:
            last = datetime.fromtimestamp(self.state["updated"], UTC)
            attempts[-1].update(ended=last.isoformat(timespec="seconds"), why="killed")
        attempts.append({**facts, **_surroundings(), "started": now()})
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
        """Note in run.json that the attempt ended: its status, why, and `facts` about the run."""
        self.state["attempts"][-1].update(ended=now(), why=why)
        self.state.update(status=status, **facts)
        self.save()

    def beat(self, progress: Callable[[], dict[str, Any]]) -> bool:
        """A sign of life with the run's `progress`, if the last is `HEARTBEAT` seconds ago.

        Raises:
            Held: another process took the directory over, since this one was silent for too long.
        """
        due = time.monotonic() - self._beaten >= HEARTBEAT
        if due:
            if self._lock.lost:
                raise Held(f"{self.folder} was taken over by {self._lock.holder}")
            self.state["progress"] = progress()
            self.save()
        return due

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Signs of life also where nobody calls `beat` for long: in a slow step, in a save."""
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
        """Add a line to train.log."""
        if self._log is not None:
            self._log.write(f"{now()} {line}\n")
            self._log.flush()


def read_state(folder: Path) -> dict[str, Any]:
    """What a run's run.json says; empty where there is none or it cannot be used."""
    try:
        state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if _usable(state) else {}


PARTS = ("result", "progress", "config", "identity", "data", "method", "diverged", "code")
"""What of a run.json are objects."""


def _is_figure(value: Any) -> bool:
    """Whether it is a number, or null, or one that is not finite, as JSON has it: a string."""
    if isinstance(value, str):
        return value.lstrip("-").lower() in ("nan", "inf", "infinity")
    return value is None or isinstance(value, int | float)


def _usable(state: Any) -> bool:
    """Whether it is the content of a run.json, as far as every command relies on it."""
    if not isinstance(state, dict) or not isinstance(state.get("status", ""), str):
        return False
    attempts = state.get("attempts", [])
    figures = state.get("result") or {}
    return (
        isinstance(attempts, list)
        and all(isinstance(one, dict) for one in attempts)
        and all(isinstance(one.get("pid") or 0, int) for one in attempts)
        and isinstance(state.get("updated", 0.0), int | float)
        and all(isinstance(state.get(one) or {}, dict) for one in PARTS)
        and all(_is_figure(one) for one in figures.values())
        and (state.get("status") != "completed" or bool(state.get("result") or attempts))
    )


def late(evaluated: int) -> int:
    """How many of a run's last evaluated epochs its figure is the mean of: one in ten, 1 to 10."""
    return min(10, max(1, evaluated // 10))


def result(folder: Path) -> dict[str, Any]:
    """The final figures of a run, from its epochs.csv. Accuracies in percent.

    ``final_…`` is the last evaluation; ``mean_last_tenth`` the mean test accuracy of the last
    `late` evaluated epochs, each by its last evaluation (the published table's mean of ten, for 200
    epochs); ``best_epoch`` the first of the highest validation accuracy, or test accuracy where
    there are no validation images, and ``best_test_accuracy`` the test accuracy of that evaluation.
    With validation images, both means have a ``…_validation`` beside them.
    """
    with (folder / "epochs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return {}
    last = rows[-1]
    of_epoch = list({row["epoch"]: row for row in rows}.values())
    end = of_epoch[-late(len(of_epoch)) :]
    chosen_on = "validation_accuracy" if last.get("validation_accuracy") else "test_accuracy"
    best = max(rows, key=lambda row: float(row[chosen_on]))
    figures = {
        "final_test_accuracy": float(last["test_accuracy"]),
        "best_test_accuracy": float(best["test_accuracy"]),
        "best_epoch": int(best["epoch"]),
        "mean_last_tenth": statistics.fmean(float(row["test_accuracy"]) for row in end),
        "final_test_loss": float(last["test_loss"]),
        "final_train_loss": float(last["train_loss"]),
        "final_train_accuracy": float(last["train_accuracy"]),
        "final_lambda": float(last["lambda"]),
    }
    if chosen_on == "validation_accuracy":
        figures["final_validation_accuracy"] = float(last[chosen_on])
        figures["mean_last_tenth_validation"] = statistics.fmean(
            float(row[chosen_on]) for row in end
        )
    return figures


def summary(state: dict[str, Any]) -> str:
    """How a finished run ended, in a line."""
    if state["status"] == "diverged":
        where = state["diverged"]
        return (
            f"diverged: the loss is not finite at step {where['step']} "
            f"(epoch {where['epoch']}), with λ = {where['lambda']:g}"
        )
    figures = state["result"]
    return (
        f"completed: test accuracy {figures['final_test_accuracy']:.2f} % "
        f"(best epoch {figures['best_test_accuracy']:.2f} %, "
        f"mean of the last tenth {figures['mean_last_tenth']:.2f} %)"
    )


def command(overrides: Sequence[str]) -> str:
    """What the user types to do a run."""
    return shlex.join(["python", "-m", "autol2.train", *overrides])


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _last_attempt(state: dict[str, Any]) -> dict[str, Any]:
    attempts = state.get("attempts") or [{}]
    last: dict[str, Any] = attempts[-1]
    return last


def _requeued(last: dict[str, Any]) -> bool:
    """Whether SLURM requeued this very job since the attempt `last`, which so has ended.

    The job's number alone is no proof: a job can have several tasks.
    """
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT") or 0
    same = job is not None and last.get("slurm_job_id") == job
    return same and int(restarts) > int(last.get("slurm_restarts") or 0)


def _holder(state: dict[str, Any]) -> str:
    last = _last_attempt(state)
    if not last:
        return "a process that is just starting"
    job = f" (SLURM job {last['slurm_job_id']})" if last.get("slurm_job_id") else ""
    return f"process {last.get('pid')} on {last.get('host')}{job} since {last.get('started')}"


def _surroundings() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "slurm_restarts": os.environ.get("SLURM_RESTART_COUNT"),
        "slurm_node": os.environ.get("SLURMD_NODENAME"),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "git": _git(),
        "versions": {"python": platform.python_version()},
    }
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts["versions"][package] = importlib.metadata.version(package)
    return facts


def _git() -> dict[str, Any] | None:
    """Commit of the source tree and whether it has uncommitted changes; None outside of one."""

    def ask(*words: str) -> str:
        here = Path(__file__).resolve().parent
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    try:
        if not ask("ls-files", Path(__file__).name):  # installed inside somebody else's tree
            return None
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
