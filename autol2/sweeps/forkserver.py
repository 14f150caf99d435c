"""A server that forks processes which have already imported what a run needs.

Such a process starts within milliseconds. `Server` starts ``python -m autol2.sweeps.forkserver``
and asks it for one process per run. Each process is forked before anything is computed, leads its
own session and can die without affecting the others; the server reports how it ended. Requests and
answers are lines of JSON. If the server itself dies, its processes continue, and those that
disappear without a report count as killed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

Request = dict[str, Any]


class Gone(Exception):
    """The server has ended."""


class Server:
    """The process that is forked for each run; it is started when the first one is requested."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._ended: dict[int, int] = {}
        self._children: set[int] = set()
        """Processes whose end the current server will report."""

    def start(self) -> None:
        """Start the server, so that it imports what it needs while the caller does other work.

        Raises:
            OSError: no process can be started.
        """
        if self._process is None:
            self._pending = b""
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the launcher, which passes it on
            )

    def fork(self, request: Request) -> int:
        """Start a process that executes `request` (see `_do`), and return its process ID.

        Raises:
            OSError: no process can be started.
        """
        for _ in range(2):  # a server that has died is replaced
            self.start()
            assert self._process is not None
            assert self._process.stdin is not None
            with contextlib.suppress(Gone, BrokenPipeError):
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
                while True:
                    answer = self._answer(wait=True)
                    assert answer is not None
                    if "begun" in answer:
                        self._children.add(answer["begun"])
                        return answer["begun"]
                    self._ended[answer["ended"]] = answer["status"]
            self._forget()
        raise OSError("no process can be started")

    def poll(self, pid: int) -> int | None:
        """Return the `subprocess.Popen.returncode` of process `pid`; None while it is alive."""
        try:
            while (answer := self._answer(wait=False)) is not None:
                if "ended" in answer:
                    self._ended[answer["ended"]] = answer["status"]
        except Gone:
            self._forget()
        if pid in self._ended:
            self._children.discard(pid)
            return self._ended.pop(pid)
        if pid not in self._children and not _lives(pid):
            return -signal.SIGKILL  # nobody can say by whom
        return None

    def _forget(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process = None
        self._children.clear()

    def _answer(self, *, wait: bool) -> dict[str, int] | None:
        """Return the server's next answer; None if there is none, unless `wait` is set."""
        if self._process is None:
            raise Gone
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            with selectors.DefaultSelector() as selector:
                selector.register(pipe, selectors.EVENT_READ)
                if not selector.select(None if wait else 0):
                    return None
            piece = os.read(pipe, 65536)
            if not piece:
                raise Gone
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, int] = json.loads(line)
        return answer


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):  # a zombie counts as dead
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


SERVER = Server()
"""The server of this process."""
FOR_RUNS = (signal.SIGTERM, signal.SIGUSR2)
"""Signals that a cluster sends to all processes of a job but that are only for the runs. The server
ends when its input ends."""


# ---------------------------------------------------------------------- in the server


def _serve() -> Request:
    """Fork a process for each line on standard input; in that process, return its request.

    The server itself ends when its input ends.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing else may write there
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                piece = os.read(key.fd, 65536)
                if key.fd == woken:
                    _bury(answers)
                    continue
                if not piece:
                    os._exit(0)
                *lines, pending = (pending + piece).split(b"\n")
                for line in lines:
                    pid = os.fork()
                    if pid == 0:
                        signal.set_wakeup_fd(-1)
                        for signal_number in (signal.SIGCHLD, *FOR_RUNS):
                            signal.signal(signal_number, signal.SIG_DFL)
                        for number in (woken, wake, answers):
                            os.close(number)
                        request: Request = json.loads(line)
                        return request
                    _say(answers, {"begun": pid})


def _bury(answers: int) -> None:
    """Report the processes that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(answers, {"ended": pid, "status": os.waitstatus_to_exitcode(status)})


def _say(answers: int, answer: dict[str, int]) -> None:
    with contextlib.suppress(OSError):  # the launcher is gone, so nobody needs the answer
        os.write(answers, json.dumps(answer).encode() + b"\n")


def _do(request: Request) -> int:
    """Execute the run of a request, and return its exit status.

    A request contains the run's resolved ``config``; ``overrides``, which the user would type for
    it; ``root``, the folder that paths are relative to; ``log``, the file for its output; and
    ``environment``.
    """
    from ..cli.composition import restored
    from ..cli.output import guarded, steady
    from ..training.train import train

    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        log = nowhere
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["environment"])
    steady()

    def run() -> int:
        os.chdir(request["root"])
        return train(restored(request["config"]), request["overrides"])

    return guarded(run)


def import_torch_optim() -> None:
    """Import what a process's first optimizer would import, which takes two seconds."""
    import torch

    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])


def main() -> int:
    """Be the server, and then a process that it forked; return the exit status of that process."""
    for number in FOR_RUNS:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(Exception):  # a process will report better what is missing
        from ..cli import composition  # noqa: F401
        from ..data import dataset  # noqa: F401
        from ..models.kernels import fused_cnn, winograd  # noqa: F401
        from ..training import attempt, train  # noqa: F401

        import_torch_optim()
    return _do(_serve())


def leave(status: int) -> NoReturn:
    """End this process like those of multiprocessing, without tearing down its modules.

    Threads are joined, exit handlers run and streams are flushed. Skipping the rest saves more than
    a second once torch has been imported.
    """
    # These are private, but multiprocessing.process and its popen_fork do the same (Python 3.11 to
    # 3.14).
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main())
