"""Where an attempt takes place: host, SLURM job, GPUs, commit and versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("autol2", "torch", "torchvision", "numpy", "hydra-core", "omegaconf")


def surroundings() -> dict[str, Any]:
    """Return the facts about an attempt's surroundings that run.json records."""
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "slurm_restarts": os.environ.get("SLURM_RESTART_COUNT"),
        "slurm_node": os.environ.get("SLURMD_NODENAME"),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "git": _git(),
        "versions": {"python": platform.python_version()},
    }
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts["versions"][package] = importlib.metadata.version(package)
    return facts


def _git() -> dict[str, Any] | None:
    """Return the commit of the source tree and whether it is modified; None without one."""

    def ask(*words: str) -> str:
        here = Path(__file__).resolve().parent
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    try:
        # installed inside another project's repository
        if not ask("ls-files", Path(__file__).name):
            return None
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def requeued(last: dict[str, Any]) -> bool:
    """Return whether SLURM has requeued this very job since the attempt `last`.

    If so, that attempt has ended. The job's number alone is not enough, because a job can have
    several tasks.
    """
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT") or 0
    same = job is not None and last.get("slurm_job_id") == job
    return same and int(restarts) > int(last.get("slurm_restarts") or 0)
