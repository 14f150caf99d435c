"""Commands in processes that are forked off one that has imported all they need.

A command's own import of torch and Hydra takes seconds; a fork takes milliseconds. What a test sees
is a process as any other: its arguments, environment, folder, streams and exit status are those
that were asked for, and the module runs as ``__main__``.

``python -m tests.forkserver FD`` is the server. It ends with the socket FD.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from autol2.cli.command import CONF
from autol2.sweeps import forkserver as sweeps

LARGEST = 1 << 20
"""Bytes of a request."""


class ForkServer:
    """Starts commands. Close it when none is wanted any more."""

    def __init__(self, project: Path) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
        words = [sys.executable, "-m", "tests.forkserver", str(other.fileno())]
        self._process = subprocess.Popen(words, cwd=project, pass_fds=[other.fileno()])
        other.close()

    def run(
        self,
        module: str,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        timeout: float,
        stdout: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m <module>``, as `subprocess.run` does with what it prints captured.

        Standard output goes to the descriptor `stdout` instead, where that is given.
        """
        read, write = os.pipe()
        with (
            open(os.devnull) as nothing,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            open(read) as answers,
        ):
            request = {"module": module, "argv": list(arguments), "cwd": str(cwd), "env": dict(env)}
            streams = [nothing.fileno(), stdout or out.fileno(), err.fileno()]
            socket.send_fds(self._socket, [json.dumps(request).encode()], [*streams, write])
            os.close(write)
            pid = int(answers.readline())
            with _killed_after(pid, timeout) as late:
                status = int(answers.readline())
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode())
        if late:
            raise subprocess.TimeoutExpired([module, *arguments], timeout, texts[0], texts[1])
        return subprocess.CompletedProcess([module, *arguments], status, *texts)

    def close(self) -> None:
        """End the server; commands that still run go on."""
        self._socket.close()
        self._process.wait()


@contextlib.contextmanager
def _killed_after(pid: int, seconds: float) -> Iterator[list[bool]]:
    """Kill `pid` if the block takes longer; what is given is then no longer empty."""
    late: list[bool] = []

    def kill() -> None:
        late.append(True)
        os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def serve(requests: socket.socket) -> None:
    """Fork a command for each request. Returns in a command's own process, to run it."""
    import_ahead()
    while True:
        content, fds, _, _ = socket.recv_fds(requests, LARGEST, 4)
        if not content:
            os._exit(0)
        if os.fork():  # a helper is forked that waits for the command and tells how it ended
            for fd in fds:
                os.close(fd)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            continue
        requests.close()
        *streams, answers = fds
        pid = os.fork()
        if pid:
            os.write(answers, f"{pid}\n".encode())
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.write(answers, f"{status}\n".encode())
            os._exit(0)
        os.close(answers)
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
            os.close(fd)
        become(json.loads(content))
        return


def import_ahead() -> None:
    """Import what commands import, but for the integrations and the packages they are for."""
    import autol2

    importlib.import_module("torch")
    for one in pkgutil.walk_packages(autol2.__path__, "autol2."):
        if not {"__main__", "integrations"} & set(one.name.split(".")):
            importlib.import_module(one.name)
    sweeps.import_torch_optim()
    with initialize_config_dir(str(CONF), version_base="1.3"):  # Hydra finds its plugins once
        compose("config")
    gc.collect()
    gc.freeze()


class Forked:
    """What `autol2.sweeps.forkserver` starts for its runs, as a fork of this process.

    It stands for the `subprocess.Popen` of ``python -m autol2.sweeps.forkserver``, which would
    import torch for each sweep of the tests again.
    """

    def __init__(self, *_: object, **__: object) -> None:
        taken, given = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.dup2(taken[0], 0)
            os.dup2(given[1], 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.closerange(3, 1024)
            sys.argv = [sweeps.__name__]
            sweeps.leave(sweeps.main())
        os.close(taken[0])
        os.close(given[1])
        self.stdin, self.stdout = os.fdopen(taken[1], "wb"), os.fdopen(given[0], "rb")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def become(request: dict) -> None:
    """Take on the arguments, environment and folder that were asked for."""
    sweeps.subprocess = types.SimpleNamespace(Popen=Forked, PIPE=None, DEVNULL=None)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.path[1:1] = filter(None, [request["env"].get("MODULES")])
    sys.argv = [request["module"], *request["argv"]]
    sys.modules.pop(request["module"], None)  # to be run as any module is, from its beginning


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int):
            sweeps.leave(end.code)
        raise
