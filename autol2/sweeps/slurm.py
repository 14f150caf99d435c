"""What SLURM says: its queue and its limits. Works with and without accounting (sacct)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence

from ..errors import UserError
from .study import Job

ARRAY_LIMIT = 1001
"""MaxArraySize where SLURM does not tell (its default)."""


def available() -> bool:
    """Whether SLURM's commands are on this machine."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def jobs(names: Collection[str]) -> dict[str, Job]:
    """What SLURM says of the jobs `names`, each as in 12_3.

    Raises:
        UserError: SLURM does not answer; with its own words.
    """
    active = queue()
    ended = _ended([name for name in names if name not in active])
    return {name: Job(name, name in active, {**ended, **active}.get(name, "")) for name in names}


def queue() -> dict[str, str]:
    """State of each of the user's jobs that are pending or running, array tasks one by one.

    Raises:
        UserError: SLURM does not answer; with its own words.
    """
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T"]
    return _pairs(_ask(command))


def _ended(names: Sequence[str]) -> dict[str, str]:
    """How jobs ended, from accounting; of none where the cluster keeps no accounts."""
    if not names:
        return {}
    arrays = ",".join(sorted({name.partition("_")[0] for name in names}))
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State"]
    try:
        found = _pairs(_ask([*command, f"--jobs={arrays}"]))
    except UserError:
        return {}
    return {name: state.split()[0] for name, state in found.items()}  # CANCELLED by 0


def _pairs(text: str) -> dict[str, str]:
    lines = (line.strip().split("|", 1) for line in text.splitlines() if "|" in line)
    return {name: state for names, state in lines for name in _one_by_one(names)}


def _one_by_one(names: str) -> list[str]:
    """12_1, 12_2 and 12_5 of 12_[1-2,5%4]: array tasks that never began have one line together."""
    array = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", names)
    if not array:
        return [names]
    ranges = [part.partition("-") for part in array[2].split(",")]
    return [
        f"{array[1]}_{task}"
        for first, _, last in ranges
        for task in range(int(first), int(last or first) + 1)
    ]


def array_limit() -> int:
    """How many tasks one job array may have."""
    told = _ask(["scontrol", "show", "config"])
    limits = re.findall(r"\b(?:MaxArraySize\s*|max_array_tasks)=\s*(\d+)", told)
    return max(1, min(map(int, limits), default=ARRAY_LIMIT))


def _ask(command: list[str]) -> str:
    # A user's own SQUEUE_STATES or SQUEUE_PARTITION would hide jobs.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SQUEUE_", "SACCT_"))
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not on this machine: log in to a SLURM cluster, or sweep here with "
            f"hydra/launcher=submitit_local"
        ) from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{command[0]} says: {words(error.stderr)}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} does not answer; try again later") from None
    except OSError as error:  # a login node that is out of processes or memory
        raise UserError(f"{command[0]} cannot be run: {error.strerror or error}") from None
    return done.stdout


def words(text: str) -> str:
    """SLURM's own message on one line."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
