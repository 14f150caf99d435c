"""Execute several runs on one machine, each in its own process, some of them in parallel.

A sweep on a laptop is one batch; on a cluster, every job is one.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..cli.progress import Terminal
from ..runs.run import Held
from .process import Process
from .run_status import HOPELESS, RETRIES, common_error, status_of
from .task import Task

POLL = 0.1
"""Seconds between two checks of the processes."""
LOOK_AGAIN = 3.0
"""Seconds between two checks of runs that other processes execute."""


@dataclass
class Batch:
    """Runs to execute on this machine.

    Args:
        tasks: the runs, in order.
        first: the first runs of the sweep; if all of them fail alike, no more are started.
        at_once: number of parallel runs.
        threads: CPU threads of each run; 0 leaves the choice to PyTorch.
        gpus: devices to distribute, one per run; if empty, CUDA_VISIBLE_DEVICES is left alone.
        retries: how often to repeat a killed run in this batch, and how often without progress.
        root: the folder that paths in the overrides are relative to.
        grace: seconds that the runs have to save when the batch is stopped; None for any time.
        await_others: whether to wait for runs that another process executes, and to continue them
            if that process stops early. Those on this machine occupy a place in the meantime.
    """

    tasks: Sequence[Task]
    first: Sequence[Task] = ()
    at_once: int = 1
    threads: int = 0
    gpus: Sequence[str] = ()
    retries: int = RETRIES
    root: str = field(default_factory=os.getcwd)
    grace: float | None = None
    await_others: bool = True

    def __post_init__(self) -> None:
        self._processes: list[Process] = []
        self._stopping = False
        self._elsewhere = Elsewhere()
        self._redone: Counter[Task] = Counter()

    def __call__(self) -> None:
        """Execute the runs."""
        self.work(lambda ended, under_way: None)
        if why := hopeless(self.first):
            print(f"the first {HOPELESS} runs all failed, so no more were started: {why}")

    def work(self, look: Callable[[list[Task], list[Task]], None]) -> None:
        """Execute the runs, calling `look` several times a second.

        Args:
            look: called with the runs that have ended since the last call and those in progress.
        """
        try:
            self._work(look)
        except BaseException:  # whatever the reason, nobody will look after the runs any more
            self._terminate()
            raise

    def _work(self, look: Callable[[list[Task], list[Task]], None]) -> None:
        waiting, deadline = deque(self.tasks), math.inf
        free = list(self.gpus) or [""] * self.at_once
        while self._processes or (not self._stopping and (waiting or self._elsewhere)):
            ended: list[Task] = []
            self._elsewhere.look(waiting, ended)
            while waiting and not self._stopping:
                if hopeless(self.first):
                    waiting.clear()
                    break
                if self._over(waiting[0]):
                    ended.append(waiting.popleft())
                elif self.await_others and status_of(waiting[0].state, None).under_way:
                    self._elsewhere.add(waiting.popleft())
                elif room := self._elsewhere.room(free):
                    task = waiting.popleft()
                    if self._begin(task, room[0]):
                        free.remove(room[0])
                    else:
                        ended.append(task)
                else:
                    break
            for process in list(self._processes):
                if (status := process.poll()) is None:
                    continue
                self._processes.remove(process)
                free.append(process.gpu)
                self._end(process, status, waiting, ended)
            look(ended, [process.task for process in self._processes])
            if self._stopping:
                deadline = min(deadline, time.monotonic() + (self.grace or math.inf))
                self._terminate()
                if time.monotonic() > deadline:
                    return
            time.sleep(POLL)

    def _begin(self, task: Task, gpu: str) -> bool:
        self.begins(task)
        try:
            self._processes.append(Process(task, gpu, self.threads, self.root))
        except OSError as error:
            _say(task, f"cannot be started ({error.strerror or error})")
            return False
        return True

    def begins(self, task: Task) -> None:
        """Called before a run is started; subclasses may override it."""

    def _end(self, process: Process, status: int, waiting: deque[Task], ended: list[Task]) -> None:
        """Record how a run's process ended, and arrange for the run to continue if necessary."""
        task = process.task
        try:
            process.mend(status)
        except OSError as error:  # a full disk, another user's folder, a file in its place
            _say(task, f"its end cannot be recorded ({error.strerror or error}); see {task.log}")
        if status == Held.status and self.await_others:
            self._elsewhere.add(task)
            return
        how = status_of(task.state, None, self.retries)
        again = status < 0 and how.status == "stopped" and self._redone[task] < self.retries
        if again and not self._stopping:
            self._redone[task] += 1
            waiting.appendleft(task)
        else:
            ended.append(task)

    def _over(self, task: Task) -> bool:
        """Return whether a run is finished, or failed in an earlier life of a requeued job."""
        state = task.state
        status = state.get("status")
        tried = len(state.get("attempts", [])) > task.attempts
        return task.finished(state) or (
            tried
            and status in ("failed", "interrupted")
            and status_of(state, None, self.retries).status == "failed"
        )

    def stop(self) -> None:
        """Let the runs save and exit, and start no more; may be called from a signal handler."""
        self._stopping = True

    def _terminate(self) -> None:
        for process in self._processes:
            if not process.told:
                process.told = True
                process.terminate()


class Elsewhere:
    """Runs that other processes execute, here or on another machine."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._looked = 0.0

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def add(self, task: Task) -> None:
        """Add a run."""
        self._tasks.append(task)
        self._looked = time.monotonic()

    def look(self, stopped: deque[Task], ended: list[Task]) -> None:
        """Check, every few seconds, which runs are no longer in progress.

        Args:
            stopped: receives the runs that have to be continued.
            ended: receives the runs that have ended.
        """
        if time.monotonic() - self._looked < LOOK_AGAIN:
            return
        self._looked = time.monotonic()
        for task in list(self._tasks):
            how = status_of(task.state, None)
            if not how.under_way:
                self._tasks.remove(task)
                (stopped if how.wanted else ended).append(task)

    def room(self, places: Sequence[str]) -> list[str]:
        """Return `places` (devices, or "") without those that runs on this machine occupy."""
        left = list(places)
        for task in self._tasks:
            last = (task.state.get("attempts") or [{}])[-1]
            if left and last.get("host") == socket.gethostname():
                left.remove(last["gpus"] if last.get("gpus") in left else left[0])
        return left


def _say(task: Task, words: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads it
        Terminal().print(f"{task.run_id}: {words}", markup=False)


def hopeless(first: Sequence[Task]) -> str:
    """Return the error with which the first runs of a sweep all failed; empty if they did not.

    If they did, the other runs would fail, too.
    """
    states = {task: task.state for task in first[:HOPELESS]}
    tried = all(len(state.get("attempts", [])) > task.attempts for task, state in states.items())
    return common_error(list(states.values())) if tried and len(states) == HOPELESS else ""
