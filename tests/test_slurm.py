"""Sweeps through a real SLURM, disturbed in every way that clusters know."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autol2.runs.state import read_state

from . import cluster
from .conftest import PROJECT, SMALL
from .slurm_sweeps import (
    SLURM,
    begun,
    outcomes,
    queued,
    states,
    sweep,
    wait_until,
)

SEED = int(os.environ.get("AUTOL2_SLURM_SEED", time.time_ns() % 2**32))


@pytest.mark.slow
def test_a_sweep_uses_both_nodes_and_is_done_once(slurm: cluster.Cluster, tmp_path: Path) -> None:
    words = "method=fixed,auto_l2,advance,combined", "seed=0,1"
    done = sweep(slurm, tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    # Arrays are split where the cluster's MaxArraySize of 6 wants it.
    assert "submitted 6 runs" in done.stdout
    assert "submitted 2 runs" in done.stdout
    assert done.stdout.splitlines()[-1] == "8 of 8 runs have a result"
    assert states(tmp_path) == ["completed"] * 8
    nodes = {
        read_state(path.parent)["attempts"][0]["slurm_node"]
        for path in tmp_path.glob("*/*/run.json")
    }
    assert nodes == set(cluster.NODES)
    again = sweep(slurm, tmp_path, *words)
    assert again.returncode == 0
    assert "8 runs: 8 done" in again.stdout
    assert "submitted" not in again.stdout
    here = sweep(None, tmp_path / "here", *words)
    assert here.returncode == 0, here.stderr
    assert outcomes(tmp_path / "here") == {
        name: one for name, one in outcomes(tmp_path).items() if "here" not in name
    }


@pytest.mark.slow
def test_several_runs_in_a_job(slurm: cluster.Cluster, tmp_path: Path) -> None:
    done = sweep(slurm, tmp_path, "seed=range(5)", "hydra.launcher.runs_per_job=3", "study=packed")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {
        entry["job"]
        for entry in json.loads((tmp_path / "packed/study.json").read_text())["runs"].values()
    }
    assert len(jobs) == 2
    assert states(tmp_path) == ["completed"] * 5


@pytest.mark.slow
def test_a_failing_run_leaves_the_others_alone(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """In the middle of an array, one that raises: a convolution that no machine has room for."""
    width = "model.width=4,5,100000,6"
    done = sweep(slurm, tmp_path, width)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "3 of 4 runs have a result" in done.stdout
    assert "Traceback" not in done.stderr
    assert sorted(states(tmp_path)) == ["completed"] * 3 + ["failed"]
    again = sweep(slurm, tmp_path, width)
    assert again.returncode == 1
    assert "4 runs: 3 done, 1 failed" in again.stdout  # a bug is not retried
    assert "submitted" not in again.stdout


@pytest.mark.slow
def test_what_clusters_do(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """The paper's 20 arms under random requeues, cancellations and a node's death.

    Finished by repeating the command; byte for byte what an undisturbed sweep here gives.
    """
    print(f"AUTOL2_SLURM_SEED={SEED}")
    chance = random.Random(SEED)
    words = "experiment=paper", "epochs=3", "checkpoint.every_steps=5", "evaluation.every_steps=2"
    here = sweep(None, tmp_path / "here", *words)
    assert here.returncode == 0, here.stderr
    there = tmp_path / "there"
    disturbances = 0
    dead: str | None = None
    for _ in range(12):
        started = sweep(slurm, there, *words, "hydra.launcher.detach=true")
        assert started.returncode == 0, started.stdout + started.stderr
        while jobs := begun(slurm, there):
            if disturbances >= 30:
                wait_until(lambda: not queued(slurm), 200)
                break
            job = chance.choice(jobs)
            kind = chance.choice(("requeue", "requeue", "cancel", "kill"))
            time.sleep(chance.uniform(0, 1))
            if kind == "requeue":
                slurm.ask("scontrol", "requeue", job, check=False)
            elif kind == "cancel":
                slurm.ask("scancel", job, check=False)
            else:
                slurm.ask("scancel", "--signal=KILL", job, check=False)
            disturbances += 1
            if disturbances == 10:
                dead = chance.choice(cluster.NODES)
                slurm.kill_node(dead)
            if disturbances == 16 and dead:
                slurm.start_node(dead)
                dead = None
        if disturbances >= 30 and sorted(states(there)) == sorted(states(tmp_path / "here")):
            break
    assert disturbances >= 30
    ours, undisturbed = outcomes(there), outcomes(tmp_path / "here")
    assert ours.keys() == undisturbed.keys()
    assert [name for name in ours if ours[name] != undisturbed[name]] == []
    attempts = [len(read_state(path.parent)["attempts"]) for path in there.glob("*/*/run.json")]
    assert len(attempts) == 20
    assert max(attempts) > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.launcher.partition=nope"], "SLURM refuses the jobs: .*partition"),
        (["+hydra.launcher.additional_parameters.nonsense=1"], "SLURM refuses the jobs"),
    ],
)
def test_slurms_own_words(
    slurm: cluster.Cluster, tmp_path: Path, words: list[str], message: str
) -> None:
    done = sweep(slurm, tmp_path, "seed=0,1", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)
    assert not list(tmp_path.glob("*/*/run.json"))


def test_without_slurm(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autol2.train", "-m", *SLURM, *SMALL, f"outputs={tmp_path}"],
        cwd=PROJECT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: sbatch is not available here: log in to a SLURM cluster, or run the sweep on this "
        "machine with hydra/launcher=submitit_local\n"
    )
    assert not list(tmp_path.iterdir())
