"""Read the run.json files of many runs repeatedly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..runs.state import read_state


class States:
    """A cache of run.json files, each of which is read again only if it has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], dict[str, Any]]] = {}

    def read(self, folder: Path) -> dict[str, Any]:
        """Return the contents of a run's run.json, like `read_state`."""
        try:
            found = os.stat(folder / "run.json")
        except OSError:
            self._known.pop(folder, None)
            return {}
        looks = found.st_mtime_ns, found.st_size, found.st_ino
        if (known := self._known.get(folder)) is None or known[0] != looks:
            known = self._known[folder] = looks, read_state(folder)
        return known[1]
