"""A study's manifest, study.json: the runs that sweeps have requested, and their jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, unwritable
from ..runs.state import SECONDS, misshapen
from ..storage.files import to_json, write_atomically
from ..storage.lock import locked

ENTRY: dict[str, Any] = {
    **{"overrides": [str], "job": str, "log": str, "submitted": SECONDS},
    **{"tried": int, "in_vain": int},
    "submitting": {"folder": str, "cluster": str, "place": int, "of": int},
    "process": {"host": str, "pid": int, "since": SECONDS},
}
"""The parts of a run's entry that are used. All are optional, but ``submitting`` and ``process``
need all of theirs."""


def read_manifest(study: Path, *, strict: bool = False) -> dict[str, dict[str, Any]]:
    """Read the requested runs from study.json, by name: overrides and, on SLURM, the job.

    Raises:
        UserError: with `strict`, study.json exists but cannot be read. Otherwise queued runs would
            be submitted again. Without `strict`, such a file counts as empty.
    """
    path = study / "study.json"
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        if not isinstance(runs, dict):
            raise TypeError("it is not a list of runs")
        for run, entry in runs.items():
            if wrong := _wrong(entry):
                raise TypeError(f"run {run}: {wrong}")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if strict:
            raise UserError(
                f"{path} cannot be read ({getattr(error, 'strerror', None) or error}), and it says "
                f"which runs are queued: repair it, or delete it once no runs are queued"
            ) from error
        return {}
    return runs


def _wrong(entry: Any) -> str:
    """Describe what is wrong with a run's entry; empty if it is valid."""
    if not isinstance(entry, dict):
        return f"its entry is {entry!r:.40}"
    for name in ("submitting", "process"):
        part = entry.get(name)
        if isinstance(part, dict) and any(part.get(key) is None for key in ENTRY[name]):
            return f"{name} is {part!r:.40}"
    return misshapen(entry, ENTRY)


def add_to_manifest(study: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Add runs to study.json: each run's overrides and, on SLURM, its job.

    Values of None are removed.

    Raises:
        UserError: the file cannot be written, or its contents cannot be read.
    """
    try:
        study.mkdir(parents=True, exist_ok=True)
        with locked(study / ".study.lock", "notes runs in study.json"):
            known = read_manifest(study, strict=True)
            for run, entry in runs.items():
                merged = {**known.get(run, {}), **entry}
                known[run] = {name: value for name, value in merged.items() if value is not None}
            write_atomically(study / "study.json", to_json({"runs": known}).encode())
    except OSError as error:
        raise unwritable(study, error) from error
