"""A process that executes one run of a sweep, and what its end means for the run."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

from ..runs.run import Held, command, now
from ..storage.files import to_json, write_atomically
from .forkserver import FOR_RUNS, SERVER
from .run_status import last_line
from .task import Task

NO_PROCESS = 71  # EX_OSERR
"""Exit status for a process that could not be started."""


class Process:
    """A process that executes one run.

    Args:
        task: the run.
        gpu: the device that it sees; empty leaves CUDA_VISIBLE_DEVICES alone.
        threads: CPU threads of the run, as in `Batch`.
        root: the folder that paths are relative to, as in `Batch`.

    Attributes:
        told: whether it was asked to stop.
        pid: the process ID; 0 if no process could be started.
        returncode: how it ended, as in `subprocess.Popen`; None while it is alive.
    """

    def __init__(self, task: Task, gpu: str, threads: int, root: str) -> None:
        self.task, self.gpu = task, gpu
        self.told = False
        self.returncode: int | None = None
        self._tried = len(task.state.get("attempts", []))
        self._memory_kills = memory_kills()
        self._said_before = 0
        with contextlib.suppress(OSError):  # it can still train without a log
            task.log.parent.mkdir(parents=True, exist_ok=True)
            self._said_before = task.log.stat().st_size
        config = {**task.config}
        named = str(config.get("device")).startswith("cuda:")  # whose number counts all GPUs
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
        """Update and return `returncode`."""
        if self.returncode is None:
            self.returncode = SERVER.poll(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of the process, at most `timeout` seconds, and return `returncode`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None and (deadline is None or time.monotonic() < deadline):
            time.sleep(0.02)
        return self.returncode

    def terminate(self) -> None:
        """Ask the process to save and exit."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def mend(self, status: int) -> None:
        """Correct run.json if the process ended, with `status`, without recording its end there.

        Raises:
            OSError: run.json cannot be written.
        """
        state, folder = self.task.state, Path(self.task.folder)
        tried = state.setdefault("attempts", [])
        if status in (0, Held.status) or self.task.finished(state):
            return
        if state.get("status") != "running":
            if len(tried) > self._tried:
                return  # it recorded its end
            state.setdefault("run_id", self.task.run_id)
            state.setdefault("command", command(self.task.overrides))
            tried.append({"host": socket.gethostname(), "pid": self.pid})
        state["status"] = "failed"
        if status == -signal.SIGKILL and memory_kills() > self._memory_kills:
            why = "out of memory"
            state["error"] = (
                "out of memory: the system killed the process; give it more memory (on SLURM: "
                "hydra.launcher.mem_gb), run fewer at a time, or use a smaller network or batch"
            )
        elif status < 0:
            why = signal.Signals(-status).name
            asked = self.told or -status in FOR_RUNS  # the signal came before it could save
            state["status"], why = "interrupted", why if asked else f"killed by {why}"
        else:
            why = f"exited with status {status}"
            begun = len(tried) > self._tried
            words = "no process can be started" if not self.pid else self._last_words(begun)
            state["error"] = words or f"the process {why} without a message"
        tried[-1].update(ended=now(), why=why)
        state["updated"] = time.time()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "run.json", to_json(state).encode())

    def _last_words(self, begun: bool) -> str:
        """Return its last line, if that was an error or it had not `begun` to train."""
        with contextlib.suppress(OSError), self.task.log.open("rb") as log:
            log.seek(self._said_before)
            words = last_line(log.read().decode(errors="replace"))
            if not begun or re.match(r"(error|[\w.]*(Error|Exception|Exit|Interrupt))\b", words):
                return words.removeprefix("error: ")
        return ""


def memory_kills() -> int:
    """Return how many processes of our control groups were killed for lack of memory.

    It is 0 if the system does not tell, as without control groups.
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
