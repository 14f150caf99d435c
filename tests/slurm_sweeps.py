"""Sweeps through a real SLURM that is started here: what their tests have in common."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autol2.runs import checkpoint
from autol2.runs.state import read_state
from autol2.sweeps.manifest import read_manifest

from . import cluster
from .conftest import PROJECT, SMALL

SLURM = (
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.mem_gb=null",
    "hydra.launcher.cpus_per_task=1",
)


def sweep(
    one: cluster.Cluster | None, outputs: Path, *words: str, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """``train -m`` on the cluster, or here where there is none."""
    command = ("train", "-m", *(SLURM if one else ()), *SMALL, *words, f"outputs={outputs}")
    return _run(one, *command, timeout=timeout)


def gpu_check(one: cluster.Cluster, outputs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``bench.gpu_check`` in a job."""
    return _run(one, "bench.gpu_check", *SLURM, *words, f"outputs={outputs}")


def _run(
    one: cluster.Cluster | None, module: str, *words: str, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"autol2.{module}", *words],
        cwd=PROJECT,
        env=one.environment if one else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def outcomes(outputs: Path) -> dict[str, Any]:
    """Of every run below `outputs`, all that must not depend on what happened to it."""
    found = {}
    for path in sorted(outputs.glob("*/*/run.json")):
        state, folder = read_state(path.parent), path.parent
        weights = checkpoint.read(folder / checkpoint.NAME)["model"] if "result" in state else {}
        found[folder.name] = {
            "status": state["status"],
            "result": state.get("result"),
            "diverged": state.get("diverged"),
            "measurements": (folder / "measurements.csv").read_bytes(),
            "epochs": (folder / "epochs.csv").read_bytes(),
            "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        }
    return found


def states(outputs: Path) -> list[str]:
    return [read_state(path.parent).get("status", "") for path in outputs.glob("*/*/run.json")]


def wait_until(condition: Any, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def queued(slurm: cluster.Cluster) -> list[str]:
    return slurm.ask("squeue", "--noheader", "--array", "--format=%i").split()


def begun(slurm: cluster.Cluster, outputs: Path) -> list[str]:
    """Wait for a run to be under way; the jobs of those that are, none once the queue is empty."""
    while queued(slurm):
        jobs = slurm.ask("squeue", "--noheader", "--array", "--states=R", "--format=%i").split()
        under_way = [
            entry["job"]
            for path in outputs.glob("*/study.json")
            for run, entry in read_manifest(path.parent).items()
            if entry.get("job") in jobs and read_state(path.parent / run).get("status") == "running"
        ]
        if under_way:
            return under_way
        time.sleep(0.1)
    return []


def wait_for_states(outputs: Path, condition: Any) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        return [read_state(path.parent) for path in outputs.glob("*/*/run.json")]

    wait_until(lambda: found() and condition(found()), 150)
    return found()
