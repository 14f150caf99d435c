"""What sbatch is told, and what SLURM's answers mean."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autol2.config import UserError
from autol2.data.source import DataSource
from autol2.sweeps import batch, job, prerequisites, sbatch, slurm, submission
from autol2.sweeps.job import JobBatch
from autol2.sweeps.lost_jobs import job_of
from autol2.sweeps.run_status import Job, status_of
from autol2.sweeps.sbatch import SlurmConf
from autol2.sweeps.slurm_launcher import _pause, _waiting
from autol2.sweeps.task import Task

from .conftest import composed


def options(**changes: Any) -> dict[str, Any]:
    return {**asdict(SlurmConf()), **changes}


def told(named: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """What submitit is given."""
    return sbatch.parameters(sbatch.without_rivals(sbatch.check(options(**changes)), named))


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": 2}, "nodes=2: a run is one process.* use AutoL2 in your own loop"),
        ({"tasks_per_node": 4}, "tasks_per_node=4: a run is one process"),
        ({"additional_parameters": {"nodes": 2}}, "nodes=2: a run is one process"),
        ({"additional_parameters": {"ntasks-per-node": 2}}, "tasks_per_node=2"),
        ({"additional_parameters": {"ntasks": 2}}, "ntasks is set by autol2 and cannot be changed"),
        ({"additional_parameters": {"ntasks-per-gpu": 2}}, "ntasks-per-gpu is set by autol2"),
        (
            {"additional_parameters": {"no-requeue": True}},
            "no-requeue is set by autol2 and cannot be changed",
        ),
        (
            {"additional_parameters": {"requeue": False}},
            "requeue is set by autol2 and cannot be changed",
        ),
        ({"srun_args": ["--ntasks=2"]}, "--ntasks=2 would start a run several times"),
        ({"srun_args": ["-n2"]}, "-n2 would start a run several times"),
        ({"signal_delay_s": 240 * 60}, "must be below the time limit of 14400 seconds"),
        ({"timeout_min": 1, "signal_delay_s": 60}, "must be below the time limit of 60 seconds"),
        ({"timeout_min": 9999, "signal_delay_s": 65536}, "at most 65535"),
        ({"additional_parameters": {"time": "1:00"}}, "use hydra.launcher.timeout_min"),
        ({"additional_parameters": {"array": "0-5"}}, "array is set by autol2"),
        ({"additional_parameters": {"parsable": True}}, "parsable is set by autol2"),
        ({"additional_parameters": {"test-only": True}}, "test-only is set by autol2"),
        ({"additional_parameters": ["reservation"]}, "must be names with values, as in"),
        ({"additional_parameters": {"reservation": ["a"]}}, "must be one word or number"),
        ({"additional_parameters": {"mcs_label": "a\n#SBATCH --x"}}, "must be one word or number"),
        ({"comment": "a\nb"}, "hydra.launcher.comment must be on one line"),
        ({"additional_parameters": {"cpus-per-task": "many"}}, "must be a whole number, not many"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sbatch.check(options(**changes))


def test_every_option_reaches_sbatch() -> None:
    """None is silently forgotten, and none that is not given is passed on."""
    ours = {"_target_", *sbatch.NOT_SUBMITIT}
    known = {one.name for one in fields(SlurmConf)} - ours
    plain = told()
    assert plain["additional_parameters"] == {"requeue": True, "export": "ALL"}
    assert plain["mem"] == "8GB"
    assert plain["srun_args"] == ["--cpus-per-task=4"]
    assert plain["wckey"] is None  # else submitit would name one
    for name in known - {"nodes", "tasks_per_node", "use_srun", "setup", "srun_args", "wckey"}:
        value = 3 if name in ("timeout_min", "signal_delay_s", "array_parallelism") else "3"
        assert told((name,), **{name: value})[sbatch.SUBMITIT.get(name, name)] == value, name
    assert told(exclusive=True)["exclusive"] is True
    assert "exclusive" not in told(exclusive=False)
    assert told(additional_parameters={"reservation": "N", "hold": True, "spread-job": False})[
        "additional_parameters"
    ] == {"requeue": True, "export": "ALL", "reservation": "N", "hold": True}


@pytest.mark.parametrize(
    ("named", "changes", "left"),
    [
        (("mem_per_cpu",), {"mem_per_cpu": "2G"}, {"mem_per_cpu": "2G", "mem": None}),
        (("mem_per_gpu",), {"mem_per_gpu": "9G"}, {"mem_per_gpu": "9G", "mem": None}),
        ((), {"mem_per_cpu": "2G"}, {"mem_per_cpu": "2G", "mem": None}),  # a file of the user's
        (("mem_gb",), {"mem_gb": 8, "mem_per_cpu": "2G"}, {"mem": "8GB", "mem_per_cpu": None}),
        (
            ("gres",),
            {"gpus_per_node": 1, "gres": "gpu:a100:1"},
            {"gres": "gpu:a100:1", "gpus_per_node": None},
        ),
        (
            ("gres",),
            {"gpus_per_node": 1, "gres": "tmpdisk:10"},
            {"gres": "tmpdisk:10", "gpus_per_node": 1},
        ),
        (
            ("gpus_per_node",),
            {"gpus_per_node": 2, "gres": "gpu:1"},
            {"gpus_per_node": 2, "gres": None},
        ),
        (("cpus_per_gpu",), {"cpus_per_gpu": 8}, {"cpus_per_gpu": 8, "cpus_per_task": None}),
        (
            (),
            {"gpus_per_node": 1, "additional_parameters": {"gpus": 2}},
            {"gpus_per_node": None},
        ),
        ((), {"additional_parameters": {"mem": "3G"}}, {"mem": None}),
        ((), {"additional_parameters": {"mem-per-cpu": "3G"}}, {"mem": None, "mem_per_cpu": "3G"}),
    ],
)
def test_naming_one_of_a_family_drops_the_others_default(
    named: tuple[str, ...], changes: dict[str, Any], left: dict[str, Any]
) -> None:
    found = told(named, **changes)
    assert {name: found.get(name) for name in left} == left


def test_two_of_a_family_are_refused() -> None:
    with pytest.raises(UserError, match=r"takes only one of .*mem_gb and .*mem_per_cpu: leave"):
        told(("mem_gb", "mem_per_cpu"), mem_gb=9, mem_per_cpu="2G")


def test_a_signal_for_the_jobs_shell_does_not_end_the_job() -> None:
    """As of scancel --batch: the shell is to wait for srun, whose task is told by itself."""
    assert told(setup=["module load x"])["setup"] == ["trap : TERM USR2", "module load x"]


def test_without_srun_the_process_itself_is_told() -> None:
    found = told(use_srun=False)
    assert "setup" not in found
    assert found["use_srun"] is False
    assert found["additional_parameters"]["signal"] == "B:USR2@120"


@pytest.mark.parametrize("name", ["%j", "a%ab", "back\\slash", "it's", 'a"b', "a\nb"])
def test_folders_that_slurm_takes_for_patterns(name: str) -> None:
    with pytest.raises(UserError, match="submitit_folder=FOLDER"):
        sbatch.folder_for(Path("/outputs") / name)
    assert sbatch.folder_for(Path("/a b/#c/ü/d:e")) == Path("/a b/#c/ü/d:e")


def test_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS"):
        monkeypatch.delenv(name, raising=False)
    assert sbatch.cluster(sbatch.check(options())) == ""
    monkeypatch.setenv("SBATCH_CLUSTERS", "other")
    assert told()["additional_parameters"]["clusters"] == "other"
    named = options(additional_parameters={"clusters": "third"})
    assert sbatch.cluster(sbatch.check(named)) == "third"
    for several in ("a,b", "all"):
        with pytest.raises(UserError, match="several clusters"):
            told(additional_parameters={"clusters": several})


def test_what_a_job_inherits(monkeypatch: pytest.MonkeyPatch) -> None:
    polluting = ("SLURM_JOB_ID", "SLURM_CPU_BIND", "SLURM_MEM_PER_CPU", "SBATCH_EXPORT", "SRUN_X")
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "PATH")
    for name in (*polluting, *kept):
        monkeypatch.setenv(name, "1")
    with submission._clean_environment():
        assert not os.environ.keys() & {*polluting}
        assert {*kept} <= os.environ.keys()
    assert {*polluting} <= os.environ.keys()


# ---------------------------------------------------------------------- answers


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each of SLURM's commands prints, or raises."""
    answers: dict[str, Any] = {"asked": []}

    def run(command: list[str], **how: Any) -> SimpleNamespace:
        answers["asked"].append(command)
        answer = answers.get(command[0], "")
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer)

    errors = {name: getattr(subprocess, name) for name in ("CalledProcessError", "TimeoutExpired")}
    monkeypatch.setattr(slurm, "subprocess", SimpleNamespace(run=run, **errors))
    return answers


def test_the_tasks_of_an_array(says: dict[str, Any]) -> None:
    """Without counting up to what a line may say."""
    says["squeue"] = (
        "4711_[0-999999999]|PENDING|Resources|/j/a.sh\n12_[1-2,5%4]|PENDING|Priority|/j/b.sh\n"
        "13_[0-9:3]|PENDING|None|x\n14_3|RUNNING|None|x\n15|RUNNING|None|x\n16_[1,2,...]|PENDING||x"
    )
    names = {"4711_5", "12_2", "12_3", "13_6", "13_7", "14_3", "14_4", "15", "16_99", "17"}
    found = slurm.jobs(dict.fromkeys(names))
    active = {"4711_5", "12_2", "13_6", "14_3", "15", "16_99"}
    assert {name for name, job in found.items() if job.active} == active
    assert found["4711_5"].reason == "Resources"
    assert found["14_3"].reason == ""


def test_accounting(says: dict[str, Any]) -> None:
    now = time.time()
    says["squeue"] = "9_1|FAILED|NonZeroExitCode|x\n"
    says["sacct"] = (
        f"1||{now:.0f}\n"  # an empty state
        f"2|OUT_OF_MEMORY|{now - 9e5:.0f}\n"  # of a job that had the number before
        f"3|OUT_OF_MEMORY|{now + 9e5:.0f}\n"  # that has it since
        f"4|REQUEUED|{now:.0f}\n4|NODE_FAIL|{now + 5000:.0f}\n4|TIMEOUT|{now + 9000:.0f}\n"
        f"5|COMPLETED|{now:.0f}\n5|FAILED|{now + 9e5:.0f}\n"
        f"6_[0-999999999%3]|CANCELLED by 0|{now:.0f}\n7|FAILED\n\n|\n"
    )
    names = ("1", "2", "3", "4", "5", "6_7", "7", "8")
    found = slurm.jobs({**dict.fromkeys(names, now), "9_1": now})
    assert {name: job.state for name, job in found.items()} == {
        **{"1": "", "2": "", "3": "", "4": "TIMEOUT", "5": "COMPLETED", "6_7": "CANCELLED"},
        **{"7": "FAILED", "8": "", "9_1": "FAILED"},
    }
    assert not any(job.active for job in found.values())


def test_another_cluster_is_asked(says: dict[str, Any]) -> None:
    says["squeue"] = "CLUSTER: other\n7_1|PENDING|Priority|x\n"
    found = slurm.jobs({"7_1@other": None, "7_2@other": None})
    assert found["7_1@other"].active
    assert not found["7_2@other"].active
    assert [command[1] for command in says["asked"]] == ["--clusters=other"] * 2


def test_limits_where_scontrol_fails(says: dict[str, Any]) -> None:
    says["scontrol"] = FileNotFoundError()
    assert slurm.array_limit() == 1001
    says["scontrol"] = subprocess.CalledProcessError(1, "scontrol", stderr="no")
    assert slurm.array_limit() == 1001
    says["scontrol"] = "MaxArraySize            = 0"
    assert slurm.array_limit() == 1


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ("PENDING", "Priority", "job 7_1 is pending (Priority)"),
        ("PENDING", "QOSMaxJobsPerUserLimit", "job 7_1 is pending (QOSMaxJobsPerUserLimit)"),
        ("PENDING", "None", "job 7_1 is pending"),
        ("RUNNING", "None", "job 7_1 is running"),
        ("PENDING", "JobHeldUser", "can never start (JobHeldUser): it is held: scontrol rel"),
        ("PENDING", "PartitionConfig", "can never start (PartitionConfig): scancel 7_1"),
        ("PENDING", "PartitionTimeLimit", "can never start (PartitionTimeLimit): scancel 7_1"),
        ("PENDING", "QOSMaxCpuPerJobLimit", "can never start (QOSMaxCpuPerJobLimit): scancel"),
        ("PENDING", "AssocMaxWallDurationPerJobLimit", "can never start (Assoc"),
        ("REQUEUE_HOLD", "(launch failed requeued held)", "can never start (launch failed"),
    ],
)
def test_why_a_job_waits(says: dict[str, Any], state: str, reason: str, words: str) -> None:
    says["squeue"] = f"7_1|{state}|{reason}|/x.sh"
    (one,) = slurm.active({"7_1"}).values()
    how = status_of({}, one)
    assert how.status == "queued"
    assert words in how.why


def test_the_waiting_line() -> None:
    jobs = {f"7_{task}": Job(f"7_{task}", True, "PENDING", "Priority") for task in range(3)}
    jobs["8"] = Job("8", True, "PENDING", "JobHeldUser", "it is held")
    jobs["9"] = Job("9", True, "RUNNING")
    assert _waiting(jobs) == {
        "Priority": "3 jobs are pending (Priority)",
        "JobHeldUser": "job 8 can never start (JobHeldUser): it is held",
    }


def test_fewer_looks_the_longer_it_takes() -> None:
    assert _pause(0, 10) == 2
    assert _pause(100, 10) == 5
    assert _pause(10_000, 10) == 30
    assert _pause(10_000, 10_000) == 200


# ---------------------------------------------------------------------- jobs that came to nothing


def in_vain(
    tmp_path: Path, state: str, out: str | None, err: str = "", tried: int = 0
) -> Job | None:
    if out is not None:
        (tmp_path / "7_0_log.out").write_text(out)
        (tmp_path / "7_0_log.err").write_text(err)
    known = {"job": "7", "log": str(tmp_path / "7_0_log.err"), "tried": 0, "in_vain": 1}
    found = {"attempts": [{}] * tried}
    return job_of("run-b", known, found, {"7": Job("7", False, state)})


@pytest.mark.parametrize(
    ("state", "out", "err", "words"),
    [
        ("FAILED", "", "No module named 'x'\nsrun: error: n1: task 0: Exited", "No module named"),
        ("", "", "srun: error: n1: task 0: Exited", "srun: error"),
        ("FAILED", "", "", "without a message"),
        ("FAILED", None, "", "without a message"),
        ("COMPLETED", "begins run-a\nbegins run-b\n", "disk full", "disk full"),
        (
            "COMPLETED",
            "begins run-b\nrun-b: cannot be noted (File exists)\n",
            "",
            "be noted (File ex",
        ),
        ("TIMEOUT", "", "*** JOB 7 ON n1 CANCELLED AT 1 DUE TO TIME LIMIT ***", "CANCELLED"),
    ],
)
def test_a_job_that_ended_before_the_run_began(
    tmp_path: Path, state: str, out: str | None, err: str, words: str
) -> None:
    one = in_vain(tmp_path, state, out, err)
    assert one is not None
    assert one.in_vain == 2
    assert words in one.words
    assert one.words.endswith(f"see {tmp_path / '7_0_log.err'}")
    assert status_of({}, one, retries=2).status == "stopped"
    failed = status_of({}, one, retries=1)
    assert failed.status == "failed"
    assert failed.why.startswith("2 jobs in a row ended before the run began: ")


@pytest.mark.parametrize(
    ("state", "out", "err", "tried"),
    [
        ("CANCELLED", "", "", 0),
        ("NODE_FAIL", "", "", 0),
        ("", "", "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***", 0),
        ("", None, "", 0),  # nobody knows
        ("TIMEOUT", "begins run-a\n", "", 0),  # it was taken away before this run's turn
        ("FAILED", "begins run-b\n", "", 1),  # the run tells itself
    ],
)
def test_a_job_that_did_not_come_to_the_run(
    tmp_path: Path, state: str, out: str | None, err: str, tried: int
) -> None:
    one = in_vain(tmp_path, state, out, err, tried)
    assert one is not None
    assert one.in_vain == 0


# ---------------------------------------------------------------------- in a job


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "8"}, 3),
        ({"SLURM_CPUS_ON_NODE": "8"}, 8),
        ({}, len(os.sched_getaffinity(0))),
    ],
)
def test_the_cores_of_a_job(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], cores: int
) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert job.cores() == cores


class Child:
    """A run's process that saves, or not, when it is told to stop."""

    def __init__(self, task: Task, gpu: str, threads: int, root: str) -> None:
        self.task, self.gpu, self.told, self.threads = task, gpu, False, threads
        BEGUN.append(self)
        os.kill(os.getpid(), SIGNALS.pop())

    def poll(self) -> int | None:
        return 143 if self.told else None

    def terminate(self) -> None:
        self.told = True

    def mend(self, status: int) -> None:
        """It did."""


BEGUN: list[Child] = []
SIGNALS: list[int] = []


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
@pytest.mark.parametrize("running", [True, False])
def test_a_job_that_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, running: bool
) -> None:
    """Whatever the signal: nothing else is begun, what runs is saved, and the job is requeued.

    Except where it was cancelled, which SIGTERM may mean.
    """
    BEGUN.clear()
    SIGNALS[:] = [number]
    requeued: list[int] = []
    monkeypatch.setattr(batch, "Process", Child)
    monkeypatch.setattr(slurm, "running", lambda name: running)
    before = {one: job.signal.getsignal(one) for one in job.WARNINGS}
    job.signal.signal(job.signal.SIGUSR2, lambda number, frame: requeued.append(number))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    one = JobBatch([Task(str(tmp_path / name), ()) for name in "abc"], at_once=1)
    cancelled = number == job.signal.SIGTERM and not running
    try:
        if cancelled:
            with pytest.raises(SystemExit) as ended:
                one()
            assert ended.value.code == 143
        else:
            one()
    finally:
        for which, handler in before.items():
            job.signal.signal(which, handler)
    assert [child.task.run_id for child in BEGUN] == ["a"]
    assert BEGUN[0].threads == 2
    assert requeued == ([] if cancelled else [job.signal.SIGUSR2])
    again = one.checkpoint().function
    assert again.tasks == one.tasks
    assert not again._stopping


# ---------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=torchvision", "model.builder=nosuch"], "torchvision has no network model.builder"),
        (["model=custom", "model.target=nowhere:net"], "model.target=nowhere:net: there is no"),
    ],
)
def test_networks_are_known_before_anything_is_queued(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prerequisites.prepare([composed(), composed(*words)], lambda line: None)


def test_data_are_fetched_before_anything_is_queued(tmp_path: Path) -> None:
    """Each only once; and not where only the nodes can see."""
    prepared, said = list[str](), list[str]()

    @dataclass
    class Source(DataSource):
        @property
        def place(self) -> Path | None:
            return Path(self.root) if self.root else None

        def prepare(self) -> str | None:
            prepared.append(str(self.root))
            return f"fetching {self.root}"

    here = str(tmp_path / "new")
    wanted = [Source(root=here), Source(root=here), Source(root="/nodes-only/scratch"), Source()]
    prerequisites.prepare([replace(composed(), data=source) for source in wanted], said.append)
    assert sorted(prepared) == sorted([here, "None"])
    assert len(said) == 3
    assert any("/nodes-only/scratch is not on this machine" in words for words in said)
