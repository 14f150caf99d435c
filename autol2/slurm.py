"""What SLURM says: its queue and its limits. Works with and without accounting (sacct)."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence

from .config import UserError
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
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%T"]
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
    return dict(line.strip().split("|", 1) for line in text.splitlines() if "|" in line)


def array_limit() -> int:
    """How many tasks one job array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]))
    return max(1, int(found[1]) if found else ARRAY_LIMIT)


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not on this machine: log in to a SLURM cluster, or sweep here with "
            f"hydra/launcher=submitit_local"
        ) from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{command[0]} says: {words(error.stderr)}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} does not answer; try again later") from None
    return done.stdout


def words(text: str) -> str:
    """SLURM's own message on one line."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
