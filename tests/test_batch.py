"""A batch of runs beside others, on machines that fail; the runs' processes are not real here."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest

from autol2.runs.run import Held
from autol2.runs.state import read_state
from autol2.storage.files import to_json
from autol2.sweeps import batch
from autol2.sweeps import process as process_module
from autol2.sweeps.batch import Batch
from autol2.sweeps.task import Task

REAL = batch.Process


class Child:
    """A run's process that ends as `how` says."""

    how: ClassVar[Callable[[Task], int | None]] = staticmethod(lambda task: 0)
    fails: ClassVar[Callable[[str, Task], None]] = staticmethod(lambda where, task: None)
    begun: ClassVar[list[Child]] = []

    def __init__(self, task: Task, gpu: str, threads: int, root: str) -> None:
        self.task, self.gpu, self.told = task, gpu, False
        self.fails("begin", task)
        self.begun.append(self)

    def poll(self) -> int | None:
        status = self.how(self.task)
        if status == 0:
            write(self.task, "completed", os.getpid())
        return 143 if self.told else status

    def terminate(self) -> None:
        self.told = True

    def mend(self, status: int) -> None:
        self.fails("mend", self.task)


@pytest.fixture(autouse=True)
def child(monkeypatch: pytest.MonkeyPatch) -> type[Child]:
    one = type("One", (Child,), {"begun": []})
    monkeypatch.setattr(batch, "Process", one)
    monkeypatch.setattr(batch, "POLL", 0.01)
    monkeypatch.setattr(batch, "LOOK_AGAIN", 0.05)
    return one


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    return [Task(str(tmp_path / name), ()) for name in "abc"]


def write(task: Task, status: str, pid: int, **facts: Any) -> None:
    """Give a run a run.json."""
    attempt = {"host": socket.gethostname(), "pid": pid, "from_step": 0, **facts}
    folder = Path(task.folder)
    folder.mkdir(exist_ok=True)
    state = {"status": status, "attempts": [attempt], "updated": time.time()}
    (folder / "run.json").write_text(to_json(state))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does a run for somebody else."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def names(found: list[Child]) -> list[str]:
    return [one.task.run_id for one in found]


def do(one: Batch, each: Callable[[list[Task]], None] = lambda ended: None) -> list[str]:
    """Do it; the runs that ended, in order."""
    found: list[str] = []

    def look(ended: list[Task], under_way: list[Task]) -> None:
        found.extend(task.run_id for task in ended)
        each(ended)

    one.work(look)
    return found


@pytest.mark.parametrize("end", ["completed", "failed", "killed"])
def test_runs_that_live_on_take_their_place_and_are_awaited(
    tasks: list[Task], child: type[Child], sleeper: subprocess.Popen[bytes], end: str
) -> None:
    """As after kill -9 of a sweep, or beside another sweep of the same runs."""
    write(tasks[0], "running", sleeper.pid)
    looks = 0

    def each(ended: list[Task]) -> None:
        nonlocal looks
        looks += 1
        if looks == 20:
            assert child.begun == []  # the only place is taken
            if end != "killed":
                write(tasks[0], end, sleeper.pid, ended="now")
            sleeper.kill()
            sleeper.wait()

    ended = do(Batch(tasks, at_once=1), each)
    assert sorted(ended) == ["a", "b", "c"]
    assert sorted(names(child.begun)) == (["a", "b", "c"] if end == "killed" else ["b", "c"])


def test_the_device_of_a_run_that_lives_on_is_left_to_it(
    tasks: list[Task], child: type[Child], sleeper: subprocess.Popen[bytes]
) -> None:
    write(tasks[0], "running", sleeper.pid, gpus="0")

    def each(ended: list[Task]) -> None:
        if len(child.begun) == 2:
            sleeper.kill()
            sleeper.wait()
            write(tasks[0], "completed", 1)

    do(Batch(tasks, gpus=["0", "1"], at_once=2), each)
    assert [one.gpu for one in child.begun] == ["1", "1"]


def test_two_sweeps_at_once(tasks: list[Task], child: type[Child]) -> None:
    """A run that another sweep was quicker to begin is waited for, and counts when it is done."""
    seen = 0

    def how(task: Task) -> int:
        nonlocal seen
        if task.run_id != "b":
            return 0
        seen += 1
        if seen == 2:
            write(task, "completed", 1)
        return Held.status

    child.how = staticmethod(how)
    assert sorted(do(Batch(tasks, at_once=2))) == ["a", "b", "c"]
    assert tasks[1].state["status"] == "completed"


@pytest.mark.parametrize("where", ["begin", "mend"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES, errno.EEXIST, errno.ENOTDIR])
def test_a_run_that_cannot_be_noted_leaves_the_others_alone(
    tasks: list[Task],
    child: type[Child],
    where: str,
    error: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(what: str, task: Task) -> None:
        if what == where and task.run_id == "b":
            raise OSError(error, os.strerror(error))

    child.fails = staticmethod(fails)
    child.how = staticmethod(lambda task: 1 if task.run_id == "b" else 0)
    assert sorted(do(Batch(tasks, at_once=1))) == ["a", "b", "c"]
    said = capsys.readouterr().out
    assert said.startswith("b: ")
    assert os.strerror(error) in said
    assert tasks[2].state["status"] == "completed"


def test_a_kill_that_cannot_be_noted_is_not_repeated_for_ever(
    tasks: list[Task], child: type[Child]
) -> None:
    write(tasks[0], "interrupted", 1)
    child.how = staticmethod(lambda task: -9)

    def fails(what: str, task: Task) -> None:
        if what == "mend":
            raise OSError(errno.ENOSPC, "No space left on device")

    child.fails = staticmethod(fails)
    assert do(Batch(tasks[:1], retries=2)) == ["a"]
    assert len(child.begun) == 3


def test_whatever_ends_a_batch_no_run_is_left_alone(tasks: list[Task], child: type[Child]) -> None:
    child.how = staticmethod(lambda task: None)

    def each(ended: list[Task]) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        do(Batch(tasks, at_once=2), each)
    assert [one.told for one in child.begun] == [True, True]


def test_runs_that_do_not_leave_are_not_waited_for_for_ever(
    tasks: list[Task], child: type[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "poll", lambda self: None)
    one = Batch(tasks, at_once=1, grace=0.05)
    assert do(one, lambda ended: one.stop()) == []
    assert names(child.begun) == ["a"]


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGUSR2, "SIGUSR2"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGKILL, "killed by SIGKILL"),
        (signal.SIGSEGV, "killed by SIGSEGV"),
    ],
)
def test_a_clusters_signal_before_a_run_can_save_itself_is_no_kill(
    monkeypatch: pytest.MonkeyPatch, tasks: list[Task], number: signal.Signals, why: str
) -> None:
    """A cluster signals all processes of a job, also one that was forked just now."""
    server = Mock(fork=lambda request: 4711, poll=lambda pid: -number)
    monkeypatch.setattr(process_module, "SERVER", server)
    process = REAL(tasks[0], "", 1, ".")
    assert process.poll() == -number
    process.mend(-number)
    state = read_state(Path(tasks[0].folder))
    assert state["status"] == "interrupted"
    assert state["attempts"][-1]["why"] == why
