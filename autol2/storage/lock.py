"""Locks between processes, also on file systems without file locks.

The kernel's lock on the file (flock) ends with its process. On file systems without it, as on some
Lustre mounts, a lease replaces it: a file that names its holder and that the holder touches every
few seconds. A lease is taken over if its process is gone or nobody touches it any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HEARTBEAT = 10.0
"""Seconds between two signs of life of a lease's holder or a run."""
PATIENCE = 60.0
"""Seconds without a sign of life after which a process on another host counts as dead."""
SETTLE = 0.5
"""Seconds to wait after taking over a lease; of several processes, the last one wins."""
POLL = 0.1
"""Seconds between two attempts."""
WORD = 3.0
"""Seconds of waiting after which the user is told what the program is waiting for."""
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
"""Errors of flock on file systems without locks."""


class Lock:
    """A lock file that at most one process holds.

    Args:
        path: the lock file, in an existing folder. Anybody who may write there can hold it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lease = path.with_name(f"{path.name}.lease")
        self._token = uuid.uuid4().hex
        self._descriptor: int | None = None
        self._beating: threading.Event | None = None
        self._seen: tuple[object, float, int] | None = None
        """For a lease held on another host: its appearance, since when, and the number of
        changes."""

    def try_acquire(self) -> bool:
        """Acquire the lock if it is free, and return whether it is held now.

        Raises:
            OSError: the folder does not exist or cannot be written to.
        """
        while True:
            descriptor = _open(self.path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_still(self.path, descriptor):
                    os.close(descriptor)  # deleted by its last holder: start over
                    continue
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return False
                if error.errno in UNSUPPORTED:
                    return self._try_lease()
                raise
            except BaseException:  # such as an interrupt
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            with contextlib.suppress(OSError):  # a full disk, or another user's file
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, self._owner(), 0)
            return True

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None or self._beating is not None

    @property
    def doubtful(self) -> bool:
        """Whether it is not known yet if the holder, on another host, is alive: try again."""
        return self._seen is not None and self._seen[2] == 0

    @property
    def lost(self) -> bool:
        """Whether another process took the lock over because this one was silent for too long."""
        return self._beating is not None and _read(self._lease).get("token") != self._token

    @property
    def holder(self) -> str:
        """A description of the lock's holder."""
        owner = _read(self._lease) or _read(self.path)
        if not owner:
            return "another process"
        words = f"process {owner['pid']} on {owner['host']}"
        if owner["host"] == socket.gethostname() and _suspended(int(owner["pid"])):
            words += ", which is suspended,"
        return words

    def release(self) -> None:
        """Release the lock if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._beating is not None:
            lost = self.lost
            self._beating.set()
            self._beating = None
            if not lost:
                with contextlib.suppress(OSError):
                    self._lease.unlink()

    def _owner(self) -> bytes:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token}
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps({**owner, "since": since}).encode()

    # ---------------------------------------------------------------- leases

    def _try_lease(self) -> bool:
        try:
            descriptor = os.open(self._lease, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            if not self._stale():
                return False
            handle, name = tempfile.mkstemp(
                dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp"
            )
            self._sign(handle, Path(name))
            os.replace(name, self._lease)
            time.sleep(SETTLE)
            if _read(self._lease).get("token") != self._token:
                return False  # another process took it over, too, and came later
        else:
            self._sign(descriptor, self._lease)
        self._seen = None
        self._beating = threading.Event()
        threading.Thread(target=self._beat, args=(self._beating,), daemon=True).start()
        return True

    def _sign(self, descriptor: int, path: Path) -> None:
        """Write the lease's owner to the new file `path`; delete it if the disk is full."""
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._owner())
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def _beat(self, end: threading.Event) -> None:
        while not end.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                if _read(self._lease).get("token") == self._token:
                    os.utime(self._lease)

    def _stale(self) -> bool:
        """Return whether the holder of the lease is gone.

        On this host, its process is checked. On another host, it is watched for `PATIENCE` seconds,
        using only this host's clock.
        """
        owner = _read(self._lease)
        if owner.get("host") == socket.gethostname():
            return not lives(int(owner["pid"]), _since(owner))
        try:
            found = self._lease.stat()
        except FileNotFoundError:
            return False
        looks = owner.get("token"), found.st_mtime_ns
        if self._seen is None:
            self._seen = looks, time.monotonic(), 0
        elif self._seen[0] != looks:
            self._seen = looks, time.monotonic(), self._seen[2] + 1
        return time.monotonic() - self._seen[1] >= PATIENCE


@contextlib.contextmanager
def locked(path: Path, work: str) -> Iterator[None]:
    """Hold the lock file `path` inside the ``with`` block, waiting for the current holder.

    Args:
        path: the lock file, in an existing folder.
        work: what the holder does ("decodes the images"), shown to a user who has to wait.

    Raises:
        OSError: the folder cannot be written to.
    """
    lock = Lock(path)
    _wait_for(lock, work, WORD)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def exclusive(path: Path, work: str) -> Iterator[None]:
    """Hold the lock file `path` like `locked`, creating its folder if it is missing.

    If the block fails, the lock file is deleted, and so are those of the new folders that are
    empty. A process that dies no longer holds the lock.

    Raises:
        OSError: the folder cannot be created or written to.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    lock = Lock(path)
    try:
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _wait_for(lock, work, 0.0)
                break
            except FileNotFoundError:  # its last holder removed the empty folder
                continue
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if lock.held or (path.exists() and lock.try_acquire()):  # interrupted while it waited
                path.unlink()  # while held: processes that wait for this very file start over
        lock.release()
        with contextlib.suppress(OSError):  # not empty, so in use
            for folder in made:
                folder.rmdir()
        raise
    lock.release()


def _wait_for(lock: Lock, work: str, word: float) -> None:
    """Wait until this process holds `lock`; after `word` seconds, say who holds it."""
    began, told = time.monotonic(), False
    while not lock.try_acquire():
        if not told and time.monotonic() - began >= word:
            with contextlib.suppress(OSError, ValueError):  # nobody reads it
                print(f"waiting for {lock.holder} that {work} ({lock.path})", file=sys.stderr)
            told = True
        time.sleep(POLL)


def lives(pid: int, since: float) -> bool:
    """Return whether a process of this host that existed at the Unix time `since` still exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return _started(pid) <= since + 2  # otherwise, the number belongs to a new process


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _share(path, descriptor)
        return descriptor
    except PermissionError:
        if not path.exists():
            raise
    try:
        return os.open(path, os.O_RDONLY)  # another user's, who does not let others write to it
    except PermissionError as error:  # and nobody may read it
        words = f"its {path.name} belongs to another user and cannot be read"
        raise PermissionError(error.errno, words) from error


def _share(path: Path, descriptor: int) -> None:
    """Let everyone who may write to the folder hold our file `path`, whatever the umask."""
    with contextlib.suppress(OSError):  # another user's file, or a file system without permissions
        mode, needed = os.fstat(descriptor).st_mode, path.parent.stat().st_mode & 0o022
        if mode & needed != needed:
            os.fchmod(descriptor, mode & 0o777 | needed | needed << 1)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(path: Path) -> dict[str, Any]:
    """Return the holder that a lock file names; empty if it names none."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) and {"host", "pid"} <= owner.keys() else {}


def _since(owner: dict[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(owner.get("since"))).timestamp()
    except ValueError:
        return time.time()


def _suspended(pid: int) -> bool:
    return _of_process(pid)[:1] in (["T"], ["t"])


def _started(pid: int) -> float:
    """Return when a local process began (Unix time, to the second); 0 if this is unknown."""
    try:
        ticks = int(_of_process(pid)[19])
        boot = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(boot[1]) + ticks / os.sysconf("SC_CLK_TCK") if boot else 0.0


def _of_process(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the process's name; empty if there are none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
