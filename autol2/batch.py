"""Several runs on one machine, each a process of its own, so many at a time.

A laptop's sweep is one batch; on a cluster every job is one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import to_json, write_atomically
from .run import FINISHED, now, read_state
from .study import Record, common_error

POLL = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Task:
    """One run to be done."""

    folder: str
    """The run's directory."""
    overrides: tuple[str, ...]
    """What ``python -m autol2.train`` is given."""

    @property
    def run_id(self) -> str:
        """The run's name."""
        return Path(self.folder).name


@dataclass
class Batch:
    """Runs to be done here.

    Args:
        tasks: the runs, in order.
        at_once: how many at a time.
        threads: CPU threads of each; 0 leaves PyTorch's choice.
        gpus: devices to share out, one a run at a time; none leaves CUDA_VISIBLE_DEVICES alone.
        root: the folder that paths in the overrides are relative to.
    """

    tasks: Sequence[Task]
    at_once: int = 1
    threads: int = 0
    gpus: Sequence[str] = ()
    root: str = field(default_factory=os.getcwd)

    def __post_init__(self) -> None:
        self._processes: dict[Task, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def __call__(self) -> dict[str, int]:
        """Do the runs; the exit status of each that was begun (0 for one that was done before)."""
        return self.work(lambda statuses: None)

    def work(self, look: Callable[[dict[str, int]], None]) -> dict[str, int]:
        """Do the runs, calling `look` with the statuses so far several times a second."""
        waiting = list(self.tasks)
        free = list(self.gpus) or [""] * self.at_once
        gpu_of: dict[Task, str] = {}
        statuses: dict[str, int] = {}
        while self._processes or (waiting and not self._stopping):
            while waiting and free and len(self._processes) < self.at_once and not self._stopping:
                if hopeless(self.tasks):
                    waiting.clear()
                    break
                task = waiting.pop(0)
                if read_state(Path(task.folder)).get("status") in FINISHED:
                    statuses[task.run_id] = 0
                    continue
                gpu_of[task] = free.pop(0)
                self._processes[task] = self._start(task, gpu_of[task])
            for task, process in list(self._processes.items()):
                status = process.poll()
                if status is not None:
                    del self._processes[task]
                    free.append(gpu_of[task])
                    statuses[task.run_id] = status
                    if status not in (2, 75):  # of these two it is not this process's run
                        correct(Path(task.folder), status)
            look(statuses)
            time.sleep(POLL)
        return statuses

    def stop(self) -> None:
        """Ask the runs to save and leave, and begin no more."""
        self._stopping = True
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    def checkpoint(self) -> Any:
        """For submitit, when the job is about to be taken away: save, and say how to go on."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        for process in list(self._processes.values()):
            process.wait()
        return DelayedSubmission(
            Batch(self.tasks, self.at_once, self.threads, self.gpus, self.root)
        )

    def _start(self, task: Task, gpu: str) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        overrides = list(task.overrides)
        if self.threads and not any(word.startswith("threads=") for word in overrides):
            overrides.append(f"threads={self.threads}")
        log = Path(task.folder).parent / ".launch" / "logs" / f"{task.run_id}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "autol2.train", *overrides],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the launcher, which passes it on
            )


def correct(folder: Path, status: int) -> None:
    """Mend the run.json of a run whose process ended without a last word."""
    state = read_state(folder)
    if state.get("status") != "running":
        return
    if status < 0:
        state["status"], why = "interrupted", f"killed by {signal.Signals(-status).name}"
    else:
        state["status"], why = "failed", f"exited with status {status}"
        state["error"] = f"the process {why} without a word"
    state["attempts"][-1].update(ended=now(), why=why)
    state["updated"] = time.time()
    write_atomically(folder / "run.json", to_json(state).encode())


def hopeless(tasks: Sequence[Task]) -> bool:
    """Whether the first runs have all failed with the same error, so that the rest would too."""
    return common_error([Record(Path(t.folder), read_state(Path(t.folder))) for t in tasks]) != ""
