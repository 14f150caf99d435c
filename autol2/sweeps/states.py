"""Many runs' run.jsons, looked at again and again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..runs.state import read_state


class States:
    """What run.jsons say, each read only when it has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], dict[str, Any]]] = {}

    def read(self, folder: Path) -> dict[str, Any]:
        """As `read_state`."""
        try:
            found = os.stat(folder / "run.json")
        except OSError:
            self._known.pop(folder, None)
            return {}
        looks = found.st_mtime_ns, found.st_size, found.st_ino
        if (known := self._known.get(folder)) is None or known[0] != looks:
            known = self._known[folder] = looks, read_state(folder)
        return known[1]
