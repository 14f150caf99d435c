"""One process at a time, also where the file system has no locks.

The kernel's lock on the file (flock) ends with its process. Where there is none, as on some
Lustre mounts, a lease stands in for it: a file that names its holder and that the holder touches
every few seconds. A lease whose process is gone, or that nobody touches any more, is taken over.
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
"""Seconds between two signs of life of whoever holds something: a lease, a run."""
PATIENCE = 60.0
"""Seconds without a sign of life after which a process on another host counts as dead."""
SETTLE = 0.5
"""Seconds after which, of several processes that took over a lease, the last has won."""
POLL = 0.1
"""Seconds between two tries."""
WORD = 3.0
"""Seconds of waiting after which the user is told what is waited for."""
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
"""What flock says where the file system has no locks."""


class Lock:
    """A lock file that at most one process holds.

    Args:
        path: the file; its folder must exist. Anybody who may write there can hold it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lease = path.with_name(f"{path.name}.lease")
        self._token = uuid.uuid4().hex
        self._descriptor: int | None = None
        self._beating: threading.Event | None = None
        self._seen: tuple[object, float, int] | None = None
        """A lease held on another host: how it looked, since when, and how often that changed."""

    def try_acquire(self) -> bool:
        """Hold it if nobody else does; whether it is held now.

        Raises:
            OSError: the folder is not there or cannot be written to.
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
            except BaseException:  # an interrupt
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            with contextlib.suppress(OSError):  # a full disk, or another user's file
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, self._owner(), 0)
            return True

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._descriptor is not None or self._beating is not None

    @property
    def doubtful(self) -> bool:
        """Whether nobody can say yet if the holder, on another host, still lives: try again."""
        return self._seen is not None and self._seen[2] == 0

    @property
    def lost(self) -> bool:
        """Whether another process took it over, since this one was silent for too long."""
        return self._beating is not None and _read(self._lease).get("token") != self._token

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        owner = _read(self._lease) or _read(self.path)
        if not owner:
            return "another process"
        words = f"process {owner['pid']} on {owner['host']}"
        if owner["host"] == socket.gethostname() and _suspended(int(owner["pid"])):
            words += ", which is suspended,"
        return words

    def release(self) -> None:
        """Let others hold it; nothing where it is not held."""
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
                return False  # another took it over as well, and came later
        else:
            self._sign(descriptor, self._lease)
        self._seen = None
        self._beating = threading.Event()
        threading.Thread(target=self._beat, args=(self._beating,), daemon=True).start()
        return True

    def _sign(self, descriptor: int, path: Path) -> None:
        """Write into the new file `path` whose lease it is; where there is no room, it goes."""
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
        """Whether the holder of the lease is gone.

        On this host its process tells. A holder on another host is watched for `PATIENCE`, by this
        host's clock alone.
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
    """Hold the lock file `path` inside the ``with`` block, waiting for whoever holds it.

    Args:
        path: the lock file, in a folder that is there.
        work: what the holder does ("decodes the images"), told to a user who has to wait.

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
    """As `locked`, in a folder that is made where it is missing.

    When the block fails, the lock file goes again, and so do the folders made for it that are
    empty. A process that dies holds nothing any more.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    lock = Lock(path)
    try:
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _wait_for(lock, work, 0.0)
                break
            except FileNotFoundError:  # its last holder took the empty folder away
                continue
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if lock.held or (path.exists() and lock.try_acquire()):  # cut short while it waited
                path.unlink()  # while held: who waits on this very file starts over
        lock.release()
        with contextlib.suppress(OSError):  # not empty: in use
            for folder in made:
                folder.rmdir()
        raise
    lock.release()


def _wait_for(lock: Lock, work: str, word: float) -> None:
    """Wait until `lock` is ours; after `word` seconds say for whom."""
    began, told = time.monotonic(), False
    while not lock.try_acquire():
        if not told and time.monotonic() - began >= word:
            with contextlib.suppress(OSError, ValueError):  # nobody reads it
                print(f"waiting for {lock.holder} that {work} ({lock.path})", file=sys.stderr)
            told = True
        time.sleep(POLL)


def lives(pid: int, since: float) -> bool:
    """Whether a process of this host that was there at the Unix time `since` still is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return _started(pid) <= since + 2  # else the number has been given away since


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _share(path, descriptor)
        return descriptor
    except PermissionError:
        if not path.exists():
            raise
    try:
        return os.open(path, os.O_RDONLY)  # another user's, who let nobody write to it
    except PermissionError as error:  # nor read
        words = f"its {path.name} belongs to another user and cannot be read"
        raise PermissionError(error.errno, words) from error


def _share(path: Path, descriptor: int) -> None:
    """Let whoever may write to the folder hold our file `path`, whatever the umask."""
    with contextlib.suppress(OSError):  # another user's; a file system without such rights
        mode, needed = os.fstat(descriptor).st_mode, path.parent.stat().st_mode & 0o022
        if mode & needed != needed:
            os.fchmod(descriptor, mode & 0o777 | needed | needed << 1)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(path: Path) -> dict[str, Any]:
    """Who holds a lock, by its file; empty where it does not say."""
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
    """When a process here began (Unix time, to the second); 0 where the system does not tell."""
    try:
        ticks = int(_of_process(pid)[19])
        boot = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(boot[1]) + ticks / os.sysconf("SC_CLK_TCK") if boot else 0.0


def _of_process(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the process's name; empty where there are none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
