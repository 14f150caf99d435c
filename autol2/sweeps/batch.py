"""Several runs on one machine, each a process of its own, so many at a time.

A laptop's sweep is one batch; on a cluster every job is one.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cli.progress import Terminal
from ..runs.files import to_json, write_atomically
from ..runs.run import Held, command, now
from ..runs.state import FINISHED, read_state
from .forkserver import FOR_RUNS, SERVER
from .run_status import HOPELESS, RETRIES, common_error, last_line, status_of

POLL = 0.1
"""Seconds between two looks at the processes."""
LOOK_AGAIN = 3.0
"""Seconds between two looks at runs that others do."""
NO_PROCESS = 71  # EX_OSERR
"""The exit status of a process that could not be started."""


@dataclass(frozen=True)
class Task:
    """One run to be done."""

    folder: str
    """The run's directory."""
    overrides: tuple[str, ...]
    """What ``python -m autol2.train`` would be given, for messages."""
    attempts: int = 0
    """How often it had been tried when it was planned."""
    updated: float = 0.0
    """When its run.json had last changed then, as that says itself."""
    config: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Its whole configuration, resolved (`autol2.cli.composition.resolved`): what is done, whatever
    becomes of the files that it was composed from."""

    @property
    def run_id(self) -> str:
        """The run's name."""
        return Path(self.folder).name

    @property
    def study(self) -> Path:
        """Its study's folder."""
        return Path(self.folder).parent

    @property
    def log(self) -> Path:
        """What its processes print, when a sweep started them."""
        return self.study / ".launch" / "logs" / f"{self.run_id}.log"

    @property
    def state(self) -> dict[str, Any]:
        """Its run.json as it is now."""
        return read_state(Path(self.folder))

    def finished(self, state: Mapping[str, Any]) -> bool:
        """Whether `state`, its run.json, says that there is nothing left to do.

        With ``rerun=true`` that takes a result which is newer than the plan.
        """
        again = self.config.get("rerun") and state.get("updated", 0.0) == self.updated
        return state.get("status") in FINISHED and not again


@dataclass
class Batch:
    """Runs to be done here.

    Args:
        tasks: the runs, in order.
        first: the first runs of the sweep: if they all fail alike, no more are begun.
        at_once: how many at a time.
        threads: CPU threads of each; 0 leaves PyTorch's choice.
        gpus: devices to share out, one a run at a time; none leaves CUDA_VISIBLE_DEVICES alone.
        retries: how often a run is done again that was killed without having got further.
        root: the folder that paths in the overrides are relative to.
        grace: seconds that the runs have to save when the batch is stopped; None for any time.
        await_others: whether runs that another process does are waited for, and done here when
            that process stops without an end. Those on this machine take a place meanwhile.
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
        """Do the runs."""
        self.work(lambda ended, under_way: None)
        if why := hopeless(self.first):
            print(f"the first {HOPELESS} runs all failed, so no more were begun: {why}")

    def work(self, look: Callable[[list[Task], list[Task]], None]) -> None:
        """Do the runs, calling `look` several times a second.

        Args:
            look: is given the runs that have ended since it was last called, and those under way.
        """
        try:
            self._work(look)
        except BaseException:  # whatever it is, nobody will look after the runs any more
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
            _say(task, f"cannot be begun ({error.strerror or error})")
            return False
        return True

    def begins(self, task: Task) -> None:
        """Called before a run is begun."""

    def _end(self, process: Process, status: int, waiting: deque[Task], ended: list[Task]) -> None:
        """Note how a run's process ended; if it is to be done again, or by others, see to it."""
        task = process.task
        try:
            process.mend(status)
        except OSError as error:  # a full disk, another user's folder, a file in its place
            _say(task, f"how it ended cannot be noted ({error.strerror or error}); see {task.log}")
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
        """Whether there is nothing to do, or an earlier life of a requeued job has failed at it."""
        state = task.state
        status = state.get("status")
        tried = len(state.get("attempts", [])) > task.attempts
        return task.finished(state) or (
            tried
            and status in ("failed", "interrupted")
            and status_of(state, None, self.retries).status == "failed"
        )

    def stop(self) -> None:
        """Let the runs save and leave, and begin no more; for a signal's handler, too."""
        self._stopping = True

    def _terminate(self) -> None:
        for process in self._processes:
            if not process.told:
                process.told = True
                process.terminate()


class Elsewhere:
    """Runs that other processes do, here or on another machine."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._looked = 0.0

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def add(self, task: Task) -> None:
        """Know of a run."""
        self._tasks.append(task)
        self._looked = time.monotonic()

    def look(self, stopped: deque[Task], ended: list[Task]) -> None:
        """Tell, every few seconds, which runs are no longer under way.

        Args:
            stopped: gets those that are to be gone on with.
            ended: gets those that came to an end.
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
        """`places`, each a device or "", without those that are taken by runs on this machine."""
        left = list(places)
        for task in self._tasks:
            last = (task.state.get("attempts") or [{}])[-1]
            if left and last.get("host") == socket.gethostname():
                left.remove(last["gpus"] if last.get("gpus") in left else left[0])
        return left


class Process:
    """A process that does one run.

    Args:
        task: the run.
        gpu: the device it sees; empty leaves CUDA_VISIBLE_DEVICES alone.
        threads: as in `Batch`.
        root: as in `Batch`.

    Attributes:
        told: whether it was asked to stop.
        pid: its number; 0 where no process could be started.
        returncode: how it ended, as `subprocess.Popen` has it; None while it lives.
    """

    def __init__(self, task: Task, gpu: str, threads: int, root: str) -> None:
        self.task, self.gpu = task, gpu
        self.told = False
        self.returncode: int | None = None
        self._tried = len(task.state.get("attempts", []))
        self._memory_kills = memory_kills()
        self._said_before = 0
        with contextlib.suppress(OSError):  # it may still train, without a log
            task.log.parent.mkdir(parents=True, exist_ok=True)
            self._said_before = task.log.stat().st_size
        config = {**task.config}
        named = str(config.get("device")).startswith("cuda:")  # it is counted among all of them
        if threads and not config.get("threads"):
            config["threads"] = threads
        request = {
            "config": config,
            "overrides": list(task.overrides),
            "root": root,
            "log": str(task.log),
            "environment": {"CUDA_VISIBLE_DEVICES": gpu} if gpu and not named else {},
        }
        try:
            self.pid = SERVER.fork(request)
        except OSError:
            self.pid, self.returncode = 0, NO_PROCESS

    def poll(self) -> int | None:
        """`returncode` as it is now."""
        if self.returncode is None:
            self.returncode = SERVER.poll(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end, at most `timeout` seconds; `returncode` then."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None and (deadline is None or time.monotonic() < deadline):
            time.sleep(0.02)
        return self.returncode

    def terminate(self) -> None:
        """Ask it to save and leave."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def mend(self, status: int) -> None:
        """Make run.json true if the process ended, with `status`, without noting so there.

        Raises:
            OSError: it cannot be written.
        """
        state, folder = self.task.state, Path(self.task.folder)
        tried = state.setdefault("attempts", [])
        if status in (0, Held.status) or self.task.finished(state):
            return
        if state.get("status") != "running":
            if len(tried) > self._tried:
                return  # it did
            state.setdefault("run_id", self.task.run_id)
            state.setdefault("command", command(self.task.overrides))
            tried.append({"host": socket.gethostname(), "pid": self.pid})
        state["status"] = "failed"
        if status == -signal.SIGKILL and memory_kills() > self._memory_kills:
            why = "out of memory"
            state["error"] = (
                "out of memory: the system killed the process; give it more (on SLURM "
                "hydra.launcher.mem_gb), do fewer at a time, or make it smaller"
            )
        elif status < 0:
            why = signal.Signals(-status).name
            asked = self.told or -status in FOR_RUNS  # before it could save itself
            state["status"], why = "interrupted", why if asked else f"killed by {why}"
        else:
            why = f"exited with status {status}"
            begun = len(tried) > self._tried
            words = "no process can be started" if not self.pid else self._last_words(begun)
            state["error"] = words or f"the process {why} without a word"
        tried[-1].update(ended=now(), why=why)
        state["updated"] = time.time()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "run.json", to_json(state).encode())

    def _last_words(self, begun: bool) -> str:
        """What it said last, if that was an error or it had not `begun` to train."""
        with contextlib.suppress(OSError), self.task.log.open("rb") as log:
            log.seek(self._said_before)
            words = last_line(log.read().decode(errors="replace"))
            if not begun or re.match(r"(error|[\w.]*(Error|Exception|Exit|Interrupt))\b", words):
                return words.removeprefix("error: ")
        return ""


def _say(task: Task, words: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads it
        Terminal().print(f"{task.run_id}: {words}", markup=False)


def hopeless(first: Sequence[Task]) -> str:
    """The error with which the first runs of a sweep all failed, so that the rest would too."""
    states = {task: task.state for task in first[:HOPELESS]}
    tried = all(len(one.get("attempts", [])) > task.attempts for task, one in states.items())
    return common_error(list(states.values())) if tried and len(states) == HOPELESS else ""


def memory_kills() -> int:
    """How many processes of our control group the system has killed since it had no memory left.

    0 where that is not told: without control groups there is no telling.
    """
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    count = 0
    for group in groups:
        number, controllers, path = group.split(":", 2)
        if "memory" in controllers.split(","):
            told = Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
        elif number == "0":
            told = Path(f"/sys/fs/cgroup{path}/memory.events")
        else:
            continue
        with contextlib.suppress(OSError):
            found = re.search(r"^oom_kill (\d+)", told.read_text(encoding="utf-8"), re.MULTILINE)
            count += int(found[1]) if found else 0
    return count
