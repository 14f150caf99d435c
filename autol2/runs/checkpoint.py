"""Save and restore checkpoints, each with a checksum and with its predecessor as a backup.

A checkpoint is a file of `torch.save` that any program can load with ``weights_only=True``. The
comment of its zip archive holds the SHA-256 of everything before it, so that damage is detected.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..storage.files import write_atomically
from .records import Changed

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
_DIGEST = 64


class Damaged(Exception):
    """A checkpoint is damaged and cannot be used."""


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` to ``checkpoint.pt`` and flush it to disk; the previous checkpoint is kept.

    Raises:
        OSError: the disk is full or the folder is gone; the previous checkpoint is then intact.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    archive = buffer.getvalue()
    if archive[-2:] != b"\0\0":
        raise AssertionError("torch.save wrote a zip archive that has a comment already")
    archive = archive[:-2] + _DIGEST.to_bytes(2, "little")
    digest = hashlib.sha256(archive).hexdigest().encode()
    write_atomically(folder / NAME, archive + digest, keep=folder / PREVIOUS)


def read(path: Path) -> dict[str, Any]:
    """Return the state that `save` wrote to `path`, on the CPU.

    Raises:
        Damaged: the file is truncated, modified or not a checkpoint.
    """
    content = path.read_bytes()
    archive, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(archive).hexdigest().encode() != digest:
        raise Damaged("its checksum is wrong")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise Damaged(str(error).splitlines()[0]) from error
    assert isinstance(state, dict)
    return state


def restore(
    folder: Path, use: Callable[[dict[str, Any]], None], warn: Callable[[str], None]
) -> bool:
    """Pass the newest usable checkpoint to `use`, and return whether there was one.

    If a checkpoint is damaged, or if `use` rejects it with a ValueError or with `Changed`, the
    previous one is tried. The rejected one is renamed to ``*.damaged`` with a warning.

    Raises:
        Changed: no checkpoint can be used, at least one of them only because the run's records have
            changed. All files are left as they are.
    """
    refused: list[tuple[Path, Exception]] = []
    found = False
    for path in (folder / NAME, folder / PREVIOUS):
        if not found and path.exists():
            try:
                use(read(path))
                found = True
            except (Damaged, ValueError, Changed) as error:
                refused.append((path, error))
    changed = [reason for _, reason in refused if isinstance(reason, Changed)]
    if changed and not found:
        raise Changed(
            f"{changed[0]}, so the run cannot continue: restore that file, or start over with "
            f"rerun=true or study=NAME"
        )
    for path, reason in refused:
        aside = path.with_name(f"{path.name}.damaged")
        os.replace(path, aside)
        warn(f"{path} cannot be used ({reason}); it is kept as {aside.name}")
    return found


def prune(folder: Path, keep: str) -> None:
    """Delete those checkpoints of a finished run that are not to be kept.

    Args:
        folder: the run's directory.
        keep: which to keep: last, both or none.
    """
    unwanted = {"both": (), "last": (PREVIOUS,), "none": (PREVIOUS, NAME)}[keep]
    for name in unwanted:
        (folder / name).unlink(missing_ok=True)
