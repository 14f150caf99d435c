"""Files that are whole or not there at all, also after a crash."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOT_OFFERED = (
    *(errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP),
    *(errno.EPERM, errno.EACCES, errno.EBADF, errno.EISDIR, errno.ENOTTY),
)
"""Errors of a file system that does not have what is asked for; not EIO, ENOSPC, EDQUOT or EROFS,
which mean that the content is not safe."""


def write_atomically(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Put `content` at `path`: written beside it, flushed to disk, then renamed over it.

    What stood at `path` is moved to `keep`, if given, once the new content is safe.

    Raises:
        OSError: the disk is full or the folder is gone; what stood at `path` still does.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
        with _where_offered():
            os.chmod(name, 0o666 & ~_umask())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_folder(path.parent)


def write_named(path: Path, content: bytes) -> None:
    """Put `content` where the user says: atomically into a regular file, also behind a symbolic
    link, and as into any open file into what is none, such as /dev/stdout or a named pipe.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.write(content)
    else:
        write_atomically(Path(os.path.realpath(path)), content)


def sync(descriptor: int) -> None:
    """Flush an open file to disk, where the file system can."""
    with _where_offered():
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (what was renamed in it) to disk, where the file system can."""
    with _where_offered():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _where_offered() -> Iterator[None]:
    """Leave out what the file system does not offer, as fsync of folders or permissions."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed `write_atomically` left in `folder`."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def to_json(value: object) -> str:
    """Indented JSON that any reader takes: a float that is not finite becomes a string."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()  # names of files may be no UTF-8
    return value


@functools.cache
def _umask() -> int:
    """What files are made without; asked once, since that changes it for all threads meanwhile."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
