"""A study's manifest, study.json: the runs that sweeps asked for, and the jobs they are in."""

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
"""What is read of a run's entry, where it is there; of its parts, all."""


def read_manifest(study: Path, *, strict: bool = False) -> dict[str, dict[str, Any]]:
    """The runs that sweeps asked for (study.json), by name: overrides and, on SLURM, the job.

    Raises:
        UserError: with `strict`, a study.json that is there and cannot be read: what is queued
            would be submitted again. Without, it says nothing.
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
    """What in a run's entry cannot be used; empty where nothing."""
    if not isinstance(entry, dict):
        return f"its entry is {entry!r:.40}"
    for name in ("submitting", "process"):
        part = entry.get(name)
        if isinstance(part, dict) and any(part.get(key) is None for key in ENTRY[name]):
            return f"{name} is {part!r:.40}"
    return misshapen(entry, ENTRY)


def add_to_manifest(study: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Add to study.json what is asked for: each run's overrides and, on SLURM, its job.

    What is None is taken out.

    Raises:
        UserError: it cannot be written, or what it says cannot be read.
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
