"""A run's records: CSV files that grow during training and are truncated when the run resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..storage.files import sync


class Changed(UserError):
    """The records on disk differ from those that a checkpoint was written with."""


def require_unchanged(path: Path, known: dict[str, Any]) -> None:
    """Check that the file `path` still begins with the records that a checkpoint knows.

    Args:
        path: the CSV file.
        known: its `Records.position` when the checkpoint was written.

    Raises:
        Changed: the file is missing or begins differently.
    """
    content = path.read_bytes()[: known["size"]] if path.exists() else b""
    if (len(content), hashlib.sha256(content).hexdigest()) != (known["size"], known["sha256"]):
        raise Changed(f"{path} was changed or deleted since the run was interrupted")


class Records:
    """A CSV file that rows are appended to and that can be truncated to a checkpoint's position.

    Args:
        path: the CSV file.
        columns: the names of the columns.
        known: the `position` that an earlier process saved; the file is truncated to it. None
            starts a new file.

    Raises:
        Changed: the file does not match `known`.
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
        """The size in bytes and the digest of what has been written."""
        return {"size": self._size, "sha256": self._hash.hexdigest()}

    def append(self, row: Sequence[object]) -> None:
        """Append a row; floats are written so that reading them back gives the same float."""
        assert len(row) == len(self.columns), (row, self.columns)
        self._write(",".join(str(value) for value in row) + "\n")

    def flush(self, *, to_disk: bool = False) -> None:
        """Flush the rows to the operating system and, with `to_disk`, to the disk."""
        self._file.flush()
        if to_disk:
            sync(self._file.fileno())

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()

    def _write(self, text: str) -> None:
        content = text.encode()
        self._file.write(content)
        self._count(content)

    def _count(self, content: bytes) -> None:
        self._hash.update(content)
        self._size += len(content)
