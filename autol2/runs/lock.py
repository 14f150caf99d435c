"""One process at a time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def exclusive(path: Path, work: str) -> Iterator[None]:
    """Hold the lock file `path` inside the ``with`` block, waiting for whoever holds it.

    The folder is made where it is missing. When the block fails, the lock file goes again, and
    so do the folders made for it that are empty. A process that dies holds nothing any more.

    Args:
        path: the lock file.
        work: what the holder does ("decodes the images"), told to a user who has to wait.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        lock = _acquire(path, work)
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()  # while held: who waits on this very file starts over
            raise
        finally:
            lock.release()
    except BaseException:
        with contextlib.suppress(OSError):  # not empty: in use
            for folder in made:
                folder.rmdir()
        raise


def _acquire(path: Path, work: str) -> FileLock:
    lock = FileLock(path)
    told = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=-1 if told else 0)
            return lock
        except Timeout:
            print(f"waiting for another process that {work}", file=sys.stderr)
            told = True
        except FileNotFoundError:  # its last holder took the empty folder away
            continue
