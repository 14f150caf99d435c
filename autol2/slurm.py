"""What SLURM says: its queue and its limits. Works with and without accounting (sacct)."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess

from .config import UserError

ARRAY_LIMIT = 1001
"""MaxArraySize where SLURM does not tell (its default)."""


def available() -> bool:
    """Whether SLURM's commands are on this machine."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def queue() -> dict[str, str]:
    """State of each of the user's jobs that are pending or running, array tasks one by one.

    Raises:
        UserError: SLURM does not answer; with its own words.
    """
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%T"]
    lines = _ask(command).splitlines()
    return dict(line.strip().split("|", 1) for line in lines if "|" in line)


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
