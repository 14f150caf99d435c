"""One process at a time, on file systems with and without locks."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autol2.storage import files, lock
from autol2.storage.lock import Lock, exclusive, locked

HOLDER = """
import sys, time
from pathlib import Path
from autol2.storage import lock
if sys.argv[2] == "lease":
    lock.fcntl = type("none", (), {"LOCK_EX": 0, "LOCK_NB": 0, "flock": lock_missing})
held = lock.Lock(Path(sys.argv[1]))
assert held.try_acquire()
print("held", flush=True)
time.sleep(60)
""".replace("lock_missing", "staticmethod(lambda *_: (_ for _ in ()).throw(OSError(38, 'ENOSYS')))")


@pytest.fixture(params=["flock", errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel's locks, or what a file system without them says."""
    if request.param == "flock":
        return "flock"

    def missing(descriptor: int, how: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(lock.fcntl, "flock", missing)
    monkeypatch.setattr(lock, "SETTLE", 0.01)
    return "lease"


@contextlib.contextmanager
def holder(path: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), kind], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_one_at_a_time(tmp_path: Path, kind: str) -> None:
    one, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert one.try_acquire()
    assert not other.try_acquire()
    assert f"process {os.getpid()} on {socket.gethostname()}" in other.holder
    one.release()
    assert other.try_acquire()
    assert not one.try_acquire()
    other.release()


def test_whoever_is_killed_holds_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    with holder(path, kind) as process:
        assert not Lock(path).try_acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
        one = Lock(path)
        assert one.try_acquire()
        one.release()


def test_a_word_after_a_while_also_of_a_holder_that_is_suspended(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "WORD", 0.2)
    path = tmp_path / ".study.lock"
    with holder(path, kind) as process:
        process.send_signal(signal.SIGSTOP)
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 5:
                process.kill()
                process.wait()
            time_sleep(seconds)

        time_sleep = time.sleep
        monkeypatch.setattr(lock.time, "sleep", sleep)
        with locked(path, "notes runs"):
            pass
        said = capsys.readouterr().err
    assert said == (
        f"waiting for process {process.pid} on {socket.gethostname()}, which is suspended, "
        f"that notes runs ({path})\n"
    )


def lease(path: Path, **changes: object) -> None:
    """A lease that a process on another host holds."""
    owner = {"host": "elsewhere", "pid": 1, "token": "x", "since": "2020-01-01T00:00:00+00:00"}
    path.with_name(f"{path.name}.lease").write_text(json.dumps({**owner, **changes}))


@pytest.mark.parametrize("kind", [errno.ENOSYS], indirect=True)
def test_a_lease_of_another_host(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left alone while it is touched, by whatever clock; taken over when it is not."""
    path = tmp_path / "lock"
    lease(path)
    now = time.monotonic()
    monkeypatch.setattr(lock.time, "monotonic", lambda: now)
    one = Lock(path)
    assert not one.try_acquire()
    assert one.doubtful
    now += 50
    os.utime(tmp_path / "lock.lease", (1, 1))
    assert not one.try_acquire()
    assert not one.doubtful
    now += 59
    assert not one.try_acquire()
    now += 2
    assert one.try_acquire()
    assert not one.lost
    lease(path, token="later")
    assert one.lost
    one.release()
    assert (tmp_path / "lock.lease").exists()  # it is another's


@pytest.mark.parametrize("kind", [errno.ENOSYS], indirect=True)
def test_a_lease_of_a_number_that_another_process_has_now(tmp_path: Path, kind: str) -> None:
    """The holder died long ago; the process that has its number now began after that."""
    path = tmp_path / "lock"
    mine = {"host": socket.gethostname(), "pid": os.getpid()}
    lease(path, **mine, since=datetime.now(UTC).isoformat())
    assert not Lock(path).try_acquire()
    lease(path, **mine)  # of 2020
    assert Lock(path).try_acquire()


@pytest.mark.parametrize("kind", [errno.ENOSYS], indirect=True)
@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "elsewhere"}'])
def test_a_lease_that_says_nothing(
    tmp_path: Path, kind: str, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock.lease").write_text(content)
    now = time.monotonic()
    monkeypatch.setattr(lock.time, "monotonic", lambda: now)
    one = Lock(tmp_path / "lock")
    assert not one.try_acquire()
    now += 61
    assert one.try_acquire()
    one.release()
    assert list(tmp_path.iterdir()) == [tmp_path / "lock"]


def test_a_file_that_a_group_can_share(tmp_path: Path, kind: str) -> None:
    before = os.umask(0o002)
    try:
        one = Lock(tmp_path / "lock")
        assert one.try_acquire()
        one.release()
    finally:
        os.umask(before)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o664


@pytest.mark.parametrize(("folder", "file"), [(0o700, 0o600), (0o770, 0o660), (0o777, 0o666)])
def test_whoever_may_write_to_the_folder_can_hold_it(
    tmp_path: Path, kind: str, folder: int, file: int
) -> None:
    """Whatever the umask of whoever was first; NFS locks only what one may write."""
    tmp_path.chmod(folder)
    before = os.umask(0o077)
    try:
        one = Lock(tmp_path / "lock")
        assert one.try_acquire()
        one.release()
    finally:
        os.umask(before)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == file


@pytest.mark.parametrize("kind", [errno.ENOSYS], indirect=True)
@pytest.mark.parametrize("stale", [False, True])
def test_no_room_for_a_lease(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    """Nothing is left that others would wait for."""
    if stale:
        lease(tmp_path / "lock", host=socket.gethostname(), pid=2**22 + 1)
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(descriptor: int, how: str) -> object:
        os.close(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lock.os, "fdopen", full)
        with pytest.raises(OSError, match="No space left"):
            Lock(tmp_path / "lock").try_acquire()
    after = sorted(path.name for path in tmp_path.iterdir())
    assert after == sorted({*before, "lock"})
    one = Lock(tmp_path / "lock")
    assert one.try_acquire()
    one.release()


def test_another_users_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").touch()
    opens = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opens(path, flags, mode)

    monkeypatch.setattr(lock.os, "open", read_only)
    one = Lock(tmp_path / "lock")
    assert one.try_acquire()
    assert not Lock(tmp_path / "lock").try_acquire()
    one.release()
    with pytest.raises(PermissionError):
        Lock(tmp_path / "missing").try_acquire()


def test_a_failure_leaves_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a" / "b" / "lock"

    def fail() -> None:
        with exclusive(path, "decodes"):
            assert path.exists()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not path.exists()


# ---------------------------------------------------------------------- what is not offered


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize("call", ["fsync", "chmod"])
def test_what_a_file_system_does_not_offer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(files.os, call, refuse)
    files.write_atomically(tmp_path / "run.json", b"{}")
    assert (tmp_path / "run.json").read_bytes() == b"{}"


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_is_not_safe_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(error)):
        files.write_atomically(tmp_path / "run.json", b"{}")
    assert list(tmp_path.iterdir()) == []
