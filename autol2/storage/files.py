"""Write files atomically: after a crash, a file is complete or absent."""

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
"""Errors of file systems that do not support an operation. EIO, ENOSPC, EDQUOT and EROFS are not
among them, since they mean that the content is not safe."""


def write_atomically(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Write `content` to `path` atomically: to a temporary file, flushed to disk, then renamed.

    The previous file, if any, is moved to `keep` once the new content is safe.

    Raises:
        OSError: the disk is full or the folder is gone; the previous file is then intact.
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
    """Write `content` to a path that the user named.

    A regular file is written atomically, also through a symbolic link; anything else, such as
    /dev/stdout or a named pipe, is opened and written.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.write(content)
    else:
        write_atomically(Path(os.path.realpath(path)), content)


def sync(descriptor: int) -> None:
    """Flush an open file to disk if the file system supports it."""
    with _where_offered():
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (renamed files) to disk if the file system supports it."""
    with _where_offered():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _where_offered() -> Iterator[None]:
    """Ignore operations that the file system does not support, such as fsync of a folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed `write_atomically` left in `folder`."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def to_json(value: object) -> str:
    """Return indented, strictly valid JSON; floats that are not finite become strings."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        # file names may not be valid UTF-8
        return value.encode("utf-8", "backslashreplace").decode()
    return value


@functools.cache
def _umask() -> int:
    """Return the umask. It is read only once: reading it changes it briefly for all threads."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
