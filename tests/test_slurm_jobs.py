"""Jobs of a real SLURM: how they end, what they find, and what becomes of their runs."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from autol2.sweeps.manifest import read_manifest

from . import cluster
from .slurm_sweeps import (
    begun,
    gpu_check,
    queued,
    states,
    sweep,
    wait_for_states,
    wait_until,
)


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
def test_the_gpu_check_as_a_job(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """It prints here what it prints there; a job that dies is an error, in its own words."""
    check = "device=cpu", "epochs=1", "model.width=4"
    done = gpu_check(slurm, tmp_path, *check)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("submitted as job ")
    assert last == "PASS"
    assert "a resumed run, bits: passed" in done.stdout
    without = gpu_check(slurm, tmp_path, *check[1:])
    assert without.returncode == 1
    assert "device=cuda" in without.stdout
    died = gpu_check(slurm, tmp_path, *check, "hydra.launcher.setup=['echo no module >&2; exit 3']")
    assert died.returncode == 2
    assert "ended before the command did: no module" in died.stderr
    assert "Traceback" not in died.stderr


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
