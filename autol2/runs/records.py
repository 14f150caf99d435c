"""A run's rows: CSV files that grow with it and are cut back when it resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..storage.files import sync


class Changed(UserError):
    """Records that are not those that a checkpoint was written with."""


def require_unchanged(path: Path, known: dict[str, Any]) -> None:
    """Check that the records in `path` begin as a checkpoint knows them.

    Args:
        path: the file.
        known: its `Records.position` then.

    Raises:
        Changed: they do not, or there is no such file.
    """
    content = path.read_bytes()[: known["size"]] if path.exists() else b""
    if (len(content), hashlib.sha256(content).hexdigest()) != (known["size"], known["sha256"]):
        raise Changed(f"{path} was changed or deleted since the run was interrupted")


class Records:
    """A CSV file that is only ever appended to, and can be cut back to what a checkpoint knows.

    Args:
        path: the file.
        columns: its header.
        known: `position` of an earlier process; the file is cut back to it. None starts anew.

    Raises:
        Changed: the file does not begin with what `known` says.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], known: dict[str, Any] | None = None
    ) -> None:
        self.columns = list(columns)
        self._hash = hashlib.sha256()
        self._size = 0
        if known is None:
            self._file = path.open("w+b")
            self._write(",".join(columns) + "\n")
            return
        require_unchanged(path, known)
        self._file = path.open("r+b")
        self._count(self._file.read(known["size"]))
        self._file.truncate()

    @property
    def position(self) -> dict[str, Any]:
        """Size in bytes and digest of what has been written."""
        return {"size": self._size, "sha256": self._hash.hexdigest()}

    def append(self, row: Sequence[object]) -> None:
        """Add a row; floats are written so that they read back as the same float."""
        assert len(row) == len(self.columns), (row, self.columns)
        self._write(",".join(str(value) for value in row) + "\n")

    def flush(self, *, to_disk: bool = False) -> None:
        """Hand the rows to the system, and to the disk if asked."""
        self._file.flush()
        if to_disk:
            sync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        self._file.close()

    def _write(self, text: str) -> None:
        content = text.encode()
        self._file.write(content)
        self._count(content)

    def _count(self, content: bytes) -> None:
        self._hash.update(content)
        self._size += len(content)
