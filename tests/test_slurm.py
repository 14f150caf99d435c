"""Sweeps through a real SLURM that is started here, disturbed in every way that clusters know."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autol2.runs import checkpoint
from autol2.runs.run import read_state
from autol2.sweeps.manifest import read_manifest

from . import cluster
from .conftest import PROJECT, SMALL

SEED = int(os.environ.get("AUTOL2_SLURM_SEED", time.time_ns() % 2**32))
SLURM = (
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.mem_gb=null",
    "hydra.launcher.cpus_per_task=1",
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    if why := cluster.missing():
        pytest.skip(why)
    with cluster.running(tmp_path_factory.mktemp("slurm") / "cluster") as one:
        yield one


def sweep(
    one: cluster.Cluster | None, outputs: Path, *words: str, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """``train -m`` on the cluster, or here where there is none."""
    command = [sys.executable, "-m", "autol2.train", "-m", *(SLURM if one else ()), *SMALL]
    return subprocess.run(
        [*command, *words, f"outputs={outputs}"],
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


@pytest.mark.slow
def test_a_sweep_uses_both_nodes_and_is_done_once(slurm: cluster.Cluster, tmp_path: Path) -> None:
    words = "method=fixed,auto_l2,advance,combined", "seed=0,1"
    done = sweep(slurm, tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    # Arrays are split where the cluster's MaxArraySize of 6 wants it.
    assert "submitted 6 runs" in done.stdout
    assert "submitted 2 runs" in done.stdout
    assert done.stdout.splitlines()[-1] == "8 of 8 runs have come to a result"
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
    assert "3 of 4 runs have come to a result" in done.stdout
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


@pytest.mark.slow
def test_the_time_limit_is_no_limit(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """A run of several time limits: saved and requeued before each, done in the end."""
    words = "epochs=3000", "checkpoint.every_steps=100000", "method=fixed"
    limit = "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=30"
    started = sweep(slurm, tmp_path, *words, *limit, "hydra.launcher.detach=true")
    assert started.returncode == 0, started.stdout + started.stderr
    (state,) = wait_for_states(tmp_path, lambda found: len(found[0].get("attempts", [])) >= 2)
    assert state["attempts"][0]["why"] in ("SIGTERM", "SIGUSR2")
    assert state["attempts"][0]["to_step"] == state["attempts"][1]["from_step"] > 0
    slurm.ask("scancel", "--user=root")
    wait_until(lambda: not queued(slurm))


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["low", "cut"])
def test_preemption_with_grace(slurm: cluster.Cluster, tmp_path: Path, partition: str) -> None:
    """SIGTERM, then a minute: nothing else is begun, what runs is saved, and the job comes again.

    Also where the partition cancels what it preempts.
    """
    words = "seed=0,1", "epochs=3000", "checkpoint.every_steps=100000", "method=fixed"
    options = "runs_per_job=2", "detach=true", f"partition={partition}", "nodelist=n1"
    started = sweep(slurm, tmp_path, *words, *(f"hydra.launcher.{one}" for one in options))
    assert started.returncode == 0, started.stdout + started.stderr
    wait_until(lambda: states(tmp_path) == ["running"], 120)
    (job,) = queued(slurm)
    script = tmp_path / "urgent.sh"
    script.write_text("#!/bin/sh\nsleep 20\n")
    slurm.ask("sbatch", "--partition=high", "--nodelist=n1", "--output=/dev/null", str(script))
    again = wait_for_states(tmp_path, lambda found: len(found[0].get("attempts", [])) >= 2)
    assert [one["attempts"][0]["why"] for one in again] == ["SIGTERM"]
    first, second = again[0]["attempts"][:2]
    assert first["to_step"] == second["from_step"] > 0
    assert first["slurm_job_id"] == second["slurm_job_id"] == job
    # And a user's scancel is no preemption.
    slurm.ask("scancel", "--user=root")
    wait_until(lambda: not queued(slurm), 120)
    time.sleep(3)
    assert not queued(slurm)


@pytest.mark.slow
def test_what_a_job_finds(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """Submitted from inside of a job, in a folder with a strange name, and without srun."""
    polluted = {"SLURM_JOB_ID": "99", "SLURM_CPU_BIND": "cores", "SLURM_MEM_PER_CPU": "200"}
    polluted |= {"SBATCH_EXPORT": "NONE", "SLURM_NTASKS": "4", "SBATCH_PARTITION": "nope"}
    folder = tmp_path / "a b" / "#c ü"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in polluted.items():
            patch.setenv(name, value)
        done = sweep(
            slurm,
            folder,
            *("seed=0,1", "hydra.launcher.use_srun=false", "hydra.launcher.name='a # b'"),
            "hydra.launcher.additional_parameters={nice: 5}",
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(folder) == ["completed"] * 2
    refused = sweep(slurm, tmp_path / "%j", "seed=0")
    assert refused.returncode == 2
    assert "submitit_folder=FOLDER" in refused.stderr


@pytest.mark.slow
def test_jobs_that_come_to_nothing_and_that_never_start(
    slurm: cluster.Cluster, tmp_path: Path
) -> None:
    setup = "hydra.launcher.setup=['echo no such module >&2','exit 3']"
    for count in (1, 2):
        done = sweep(slurm, tmp_path, "seed=0", setup, "hydra.launcher.max_retries=1")
        assert done.returncode == 1
        assert "ended before the run began: no such module; see /" in done.stderr
        assert ("2 jobs in a row" in done.stderr) == (count == 2)
    again = sweep(slurm, tmp_path, "seed=0", setup, "hydra.launcher.max_retries=1")
    assert "1 run: 1 failed" in again.stdout
    assert "submitted" not in again.stdout
    options = "detach=true", "partition=short", "timeout_min=5"
    words = [f"hydra.launcher.{option}" for option in options]
    assert sweep(slurm, tmp_path, "seed=1", *words).returncode == 0

    def shown() -> str:
        return sweep(slurm, tmp_path, "seed=1", "hydra.launcher.dry_run=true").stdout

    wait_until(lambda: "can never start (PartitionTimeLimit)" in shown(), 120)
    slurm.ask("scancel", "--user=root")
    wait_until(lambda: not queued(slurm))


@pytest.mark.slow
def test_what_accounting_adds(tmp_path: Path) -> None:
    """With sacct: limits, and why a job is gone, in words."""
    if why := cluster.missing():
        pytest.skip(why)
    with cluster.running(tmp_path / "cluster", accounting=True) as slurm:
        refused = sweep(slurm, tmp_path / "outputs", "hydra.launcher.account=nobody")
        assert refused.returncode == 2
        assert re.fullmatch(r"error: SLURM refuses the jobs: .*account.*\n", refused.stderr)
        slurm.ask("sacctmgr", "--immediate", "modify", "user", "root", "set", "MaxSubmitJobs=3")
        refused = sweep(slurm, tmp_path / "outputs", "seed=range(4)")
        assert refused.returncode == 2
        assert re.fullmatch(r"error: SLURM refuses the jobs: .*[Ll]imit.*\n", refused.stderr)
        assert not list(tmp_path.glob("outputs/*/*/run.json"))
        words = "seed=range(3)", "epochs=3000", "checkpoint.every_steps=20"
        started = sweep(slurm, tmp_path / "outputs", *words, "hydra.launcher.detach=true")
        assert started.returncode == 0, started.stdout + started.stderr
        wait_until(lambda: begun(slurm, tmp_path / "outputs"))
        jobs = queued(slurm)
        slurm.ask("scancel", "--user=root")
        wait_until(lambda: not queued(slurm))
        (path,) = (tmp_path / "outputs").glob("*/study.json")
        assert set(jobs) <= {entry.get("job") for entry in read_manifest(path.parent).values()}

        def shown() -> str:
            return sweep(slurm, tmp_path / "outputs", *words, "hydra.launcher.dry_run=true").stdout

        # The job that never ran; accounting takes a while to hear of it.
        wait_until(lambda: f"job {max(jobs)} is gone: cancelled" in shown())
        assert "3 runs: 3 stopped" in shown()


def wait_for_states(outputs: Path, condition: Any) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        return [read_state(path.parent) for path in outputs.glob("*/*/run.json")]

    wait_until(lambda: found() and condition(found()), 150)
    return found()


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
        "error: sbatch is not on this machine: log in to a SLURM cluster, or sweep here with "
        "hydra/launcher=submitit_local\n"
    )
    assert not list(tmp_path.iterdir())
