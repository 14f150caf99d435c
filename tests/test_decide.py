"""What a repeated command submits to SLURM, against a scheduler in memory (see fake_slurm.py).

The real command composes, decides and acts here; only SLURM and the training are not real.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import FailedJobError, FailedSubmissionError

from autol2 import train
from autol2.data.digits import Digits
from autol2.errors import UserError
from autol2.runs.state import FINISHED, read_state
from autol2.storage.files import to_json
from autol2.sweeps import batch as batch_module
from autol2.sweeps import slurm as real_slurm
from autol2.sweeps.batch import Batch
from autol2.sweeps.manifest import add_to_manifest, read_manifest
from autol2.sweeps.run_status import kills
from autol2.sweeps.slurm_launcher import SlurmLauncher
from autol2.sweeps.task import Task

from .conftest import few
from .fake_slurm import ENDS, FATES, FakeJob, Scheduler, let_wait, refused
from .test_launch import STATES

SEED = int(os.environ.get("AUTOL2_HISTORY_SEED", random.randrange(2**32)))
TURNS = 10
HISTORIES = int(os.environ.get("AUTOL2_HISTORIES", "5"))
Status = tuple[int, str, str]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decide")


@pytest.fixture
def study(outputs: Path) -> Iterator[Path]:
    """Where the commands' study is to be."""
    yield outputs / "default"
    shutil.rmtree(outputs / "default", ignore_errors=True)


Sweep = Callable[..., Status]


@pytest.fixture
def sweep(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Sweep:
    """A function that gives the command, in this process; its status, and what it prints."""

    def give(seeds: int, *options: str, detach: bool = True) -> Status:
        words = [
            f"hydra.launcher.{option}" for option in (*options, f"detach={str(detach).lower()}")
        ]
        words += ["hydra/launcher=submitit_slurm", "data=digits", f"outputs={study.parent}"]
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr(sys, "argv", ["train", "-m", *words, f"seed=range({seeds})"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            train.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return give


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    scheduler = Scheduler()
    scheduler.install(monkeypatch)
    return scheduler


def seeds_of(jobs: list[FakeJob]) -> list[int]:
    """The seeds of the runs in `jobs`."""
    return [
        int(task.overrides[-1].removeprefix("seed=")) for job in jobs for task in job.batch.tasks
    ]


def snapshot(folder: Path) -> dict[Path, tuple[float, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def folders(study: Path, jobs: list[FakeJob]) -> list[Path]:
    return [study / task.run_id for job in jobs for task in job.batch.tasks]


# ---------------------------------------------------------------------- every cell

JOBS = {
    **{"none": None, "pending": "PENDING", "running": "RUNNING", "cancelled": "CANCELLED by 0"},
    **{"completed": "COMPLETED", "out of memory": "OUT_OF_MEMORY", "node gone": "NODE_FAIL"},
    **{"forgotten": ""},
}


def silent_again_and_again() -> dict[str, Any]:
    one = STATES["running elsewhere, silent"]()
    return {**one, "attempts": one["attempts"] * 4}


FOUND: dict[str, Callable[[], dict[str, Any] | None]] = {
    **STATES,
    "silent again and again": silent_again_and_again,
    "broken": lambda: None,
}
CELLS = list(itertools.product(FOUND, JOBS))


def submitted(found: str, job: str, accounting: bool, retry_failed: bool) -> bool:
    """Whether a run that stands like this must be submitted."""
    if found in FINISHED or found in ("running here", "running elsewhere"):
        return False
    if job in ("pending", "running"):
        return False
    if found == "running in a job elsewhere" and job == "none":
        return False
    taken_away = accounting and job in ("cancelled", "node gone")
    failed = (
        found in ("failed", "killed again and again")
        or (found == "silent again and again" and not taken_away)
        or (accounting and job == "out of memory")
    )
    return retry_failed or not failed


@pytest.mark.parametrize(
    ("accounting", "retry_failed", "size", "limit"),
    few(
        [(True, True, 3, 4), (False, False, 2, 1000), (True, False, 1, 7), (False, True, 1, 25)], 1
    ),
)
def test_every_state_of_run_and_job(
    sweep: Sweep,
    slurm: Scheduler,
    study: Path,
    accounting: bool,
    retry_failed: bool,
    size: int,
    limit: int,
) -> None:
    assert sweep(len(CELLS))[0] == 0
    (first,) = slurm.arrays
    assert seeds_of(first) == list(range(len(CELLS)))  # none is there, so all are submitted
    paths = folders(study, first)
    assert len(set(paths)) == len(CELLS)
    assert read_manifest(study).keys() == {path.name for path in paths}

    slurm.accounting, slurm.limit = accounting, limit
    slurm.jobs.clear()
    slurm.arrays.clear()
    (study / "study.json").unlink()
    names: dict[Path, str] = {}
    for number, (path, (found, job)) in enumerate(zip(paths, CELLS, strict=True)):
        if found != "none":
            path.mkdir()
            state = FOUND[found]()
            (path / "run.json").write_text("{" if state is None else to_json(state))
        if JOBS[job] is not None:
            names[path] = f"9{number}"
        if JOBS[job]:
            slurm.jobs[f"9{number}"] = FakeJob(f"9{number}", first[number].batch, JOBS[job] or "")

    add_to_manifest(study, {path.name: {"job": names[path]} for path in paths if path in names})

    options = f"runs_per_job={size}", f"retry_failed={str(retry_failed).lower()}"
    expected = [
        number
        for number, cell in enumerate(CELLS)
        if submitted(*cell, accounting=accounting, retry_failed=retry_failed)
    ]
    before = snapshot(study)
    status, said, _ = sweep(len(CELLS), "dry_run=true", *options)
    assert (status, slurm.arrays) == (0, [])
    assert snapshot(study) == before
    rows = [line for line in said.splitlines() if line.endswith(("  submitted", "  skipped  "))]
    assert [number for number, row in enumerate(rows) if row.endswith("submitted")] == expected

    assert sweep(len(CELLS), *options)[0] == 0
    arrays = [seeds_of(array) for array in slurm.arrays]
    assert [seed for array in arrays for seed in array] == expected
    jobs = [job for array in slurm.arrays for job in array]
    assert all(len(array) == limit for array in slurm.arrays[:-1])
    assert all(len(job.batch.tasks) == size for job in jobs[:-1])
    known = read_manifest(study)
    for job in jobs:
        assert {known[task.run_id]["job"] for task in job.batch.tasks} == {job.name}
    assert slurm.parameters["additional_parameters"]["requeue"]

    slurm.arrays.clear()
    before = snapshot(study)
    assert sweep(len(CELLS), *options)[0] == 0
    assert slurm.arrays == []
    assert snapshot(study) == before


# ---------------------------------------------------------------------- histories


DEADLY = ("out of memory", "killed at its limit", "node gone for good")
"""What ends a job and its run without a word."""


class History:
    """What happened to a study's runs, told apart from their run.json."""

    def __init__(self, slurm: Scheduler, chance: random.Random) -> None:
        self.slurm, self.chance = slurm, chance
        self.kills: dict[Path, tuple[int, int]] = {}
        """Kills in a row, and the step from which they began."""
        self.silent: dict[Path, int | None] = {}
        """Runs that ended without a word; the step from which, unless that counts as a kill."""
        self.raised: set[Path] = set()
        self.forgiven: set[Path] = set()
        """Runs of a command with retry_failed."""
        self.done: set[Path] = set()
        self.told: list[str] = []

    def act(self, job: FakeJob, what: str) -> None:
        """Let `what` happen, and know of it."""
        before = job.under_way
        self.slurm.happens(job, what)
        run = before.folder if before else None
        self.told.append(f"{job.name}: {run.name.split('-')[-2] if run else ''} {what}")
        if before is not None and run is not None:
            self._ended(run, before.state["attempts"][-1]["from_step"], what)
        elif what == "cancelled":
            for lost in folders(Path(job.batch.tasks[0].folder).parent, [job]):
                if (began := self.silent.get(lost)) is not None:
                    self._killed(lost, began)
                    self.silent[lost] = None
        if job.under_way is not None and job.under_way is not before:
            self._begun(job.under_way.folder)

    def _begun(self, run: Path) -> None:
        self.silent.pop(run, None)
        assert run not in self.raised or run in self.forgiven, self.told
        self.raised.discard(run)
        self.forgiven.discard(run)

    def _ended(self, run: Path, began: int, what: str) -> None:
        if what in ("is killed", *DEADLY):
            self._killed(run, began)
            self.silent |= {run: None} if what in DEADLY else {}
        elif what == "node lost":
            self.silent[run] = began
        elif what != "checkpoint":
            self.kills.pop(run, None)
        if what in ("raises", "exits"):
            self.raised.add(run)
        elif what in ("completes", "diverges"):
            self.done.add(run)

    def _killed(self, run: Path, began: int) -> None:
        count, step = self.kills.get(run, (0, 0))
        self.kills[run] = (count + 1 if step == began else 1, began)

    def go_on(self) -> bool:
        """Let something happen to some job, if there is one."""
        jobs = self.slurm.active
        if not jobs:
            return False
        job = self.chance.choice(jobs)
        anyway = ["cancelled"]
        if job.state == "PENDING":
            what = self.chance.choice(["starts"] * 9 + anyway)
        elif job.under_way is None:
            what = self.chance.choice(["begins"] * 9 + anyway + ["node lost"])
        else:
            what = self.chance.choice(["checkpoint", "completes", *ENDS, *FATES])
        self.act(job, what)
        return True

    def expected(self, run: Path, job: FakeJob | None, retries: int, retry_failed: bool) -> bool:
        """Whether the next command must submit `run`, whose last job is `job`."""
        if run in self.done or (job is not None and job in self.slurm.active):
            return False
        how = job.state if job is not None and self.slurm.accounting else ""
        count, _ = self.kills.get(run, (0, 0))
        taken_away = run in self.silent and how in ("NODE_FAIL", "CANCELLED by 0")
        hopeless = count > retries and not taken_away
        return retry_failed or not (run in self.raised or hopeless or how == "OUT_OF_MEMORY")


@pytest.mark.parametrize("number", few(range(HISTORIES), 1))
def test_any_history(sweep: Sweep, slurm: Scheduler, study: Path, number: int) -> None:
    """Commands, each after something befell the jobs of the last: exactly what must be is done."""
    print(f"AUTOL2_HISTORY_SEED={SEED}")
    chance = random.Random(SEED + number)
    slurm.accounting, slurm.limit = chance.random() < 0.5, chance.choice((1, 2, 100))
    retries, size = chance.choice((0, 1, 3)), chance.choice((1, 1, 2, 3))
    history = History(slurm, chance)
    count = 5
    last: dict[Path, FakeJob] = {}
    for turn in range(TURNS):
        settled = turn > TURNS - 4  # from now on all goes well
        retry_failed = chance.random() < 0.1 or turn == TURNS - 1
        runs = list(last)
        expected = [run for run in runs if history.expected(run, last[run], retries, retry_failed)]
        finished = {run: (run / "run.json").read_bytes() for run in history.done}
        slurm.arrays.clear()
        options = f"max_retries={retries}", f"runs_per_job={size}"
        options += (f"retry_failed={str(retry_failed).lower()}",)
        assert sweep(count, *options)[0] == 0
        new = [job for array in slurm.arrays for job in array]
        told = SEED, history.told[-30:]
        assert folders(study, new) == (expected if turn else folders(study, new)), told
        last |= {study / task.run_id: job for job in new for task in job.batch.tasks}
        assert len(last) == count
        busy = Counter(folders(study, slurm.active))
        assert all(once == 1 for once in busy.values()), told
        known = read_manifest(study)
        assert {known[run.name]["job"] for run in last} == {job.name for job in last.values()}
        if retry_failed:
            history.forgiven.update(folders(study, new))
        moments = 200 if settled else chance.randrange(12)
        for _ in range(moments):
            if settled:
                for job in slurm.active:
                    what = "completes" if job.under_way else "begins"
                    history.act(job, "starts" if job.state == "PENDING" else what)
            elif not history.go_on():
                break
        assert all((run / "run.json").read_bytes() == text for run, text in finished.items())
    assert {read_state(run)["status"] for run in last} <= {*FINISHED}


# ---------------------------------------------------------------------- SLURM says no

QUEUE = "Batch job submission failed: Job violates accounting/QOS policy"


@pytest.mark.parametrize(
    "refusal",
    [
        FailedJobError(f"sbatch: error: {QUEUE}"),
        refused(QUEUE),
        subprocess.CalledProcessError(1, ["sbatch"], stderr=f"sbatch: error: {QUEUE}\n".encode()),
    ],
    ids=["submitit's", "text", "bytes"],
)
def test_a_refusal_in_the_middle(
    sweep: Sweep, slurm: Scheduler, study: Path, refusal: Exception
) -> None:
    slurm.limit = 2
    slurm.refusals = [None, refusal]
    status, said, error = sweep(5)
    assert status == 2
    assert error.startswith(f"error: SLURM refuses the jobs: sbatch: error: {QUEUE} (change it")
    assert len(error.splitlines()) == 1
    assert said.splitlines()[-1] == "submitted 2 runs as job 1"
    assert [seeds_of(array) for array in slurm.arrays] == [[0, 1]]
    jobs = [entry.get("job") for entry in read_manifest(study).values()]
    assert sorted(jobs, key=str) == ["1_0", "1_1", None, None, None]
    assert [path.name for path in study.iterdir() if not path.name.startswith(".")] == [
        "study.json"
    ]
    assert sweep(5)[0] == 0
    assert [seeds_of(array) for array in slurm.arrays] == [[0, 1], [2, 3], [4]]


def test_an_answer_of_sbatch_that_is_not_understood(sweep: Sweep, slurm: Scheduler) -> None:
    slurm.refusals = [FailedSubmissionError('Could not make sense of sbatch output "hello"')]
    status, _, error = sweep(2)
    assert (status, len(error.splitlines())) == (2, 1)
    assert 'sbatch output "hello"' in error


def test_a_refusal_at_once(sweep: Sweep, slurm: Scheduler, study: Path) -> None:
    slurm.refusals = [refused("invalid partition specified: nope")]
    status, said, error = sweep(2, "partition=nope")
    assert (status, said) == (2, "2 runs: 2 missing\n")
    assert "invalid partition" in error
    assert len(error.splitlines()) == 1
    assert not any("job" in entry for entry in read_manifest(study).values())


@pytest.mark.parametrize(
    ("command", "failure", "said"),
    [
        ("squeue", refused("Unable to contact slurm controller", ["squeue"]), "Unable to contact"),
        ("squeue", subprocess.TimeoutExpired("squeue", 60), "squeue does not answer"),
        ("squeue", FileNotFoundError(), "squeue is not available here"),
        ("squeue", BlockingIOError(11, "Resource temporarily unavailable"), "cannot be run: Res"),
    ],
)
def test_slurm_does_not_answer(
    sweep: Sweep, slurm: Scheduler, command: str, failure: Exception, said: str
) -> None:
    """Not knowing what is queued, nothing is submitted."""
    slurm.broken[command] = failure
    status, _, error = sweep(2)
    assert status == 2
    assert said in error
    assert len(error.splitlines()) == 1
    assert slurm.arrays == []
    slurm.broken.clear()
    assert sweep(2)[0] == 0
    assert len(slurm.arrays) == 1


def test_sacct_does_not_answer(sweep: Sweep, slurm: Scheduler) -> None:
    """Then it is as if there were none."""
    sweep(2)
    for job in slurm.active:
        slurm.happens(job, "out of memory")
    slurm.broken["sacct"] = subprocess.TimeoutExpired("sacct", 60)
    assert "2 runs: 2 stopped" in sweep(2, "dry_run=true")[1]
    slurm.broken.clear()
    assert "2 runs: 2 failed" in sweep(2, "dry_run=true")[1]


def test_array_tasks_that_never_began(sweep: Sweep, slurm: Scheduler) -> None:
    """Accounting has one line for them, as in 1_[0,1%256]."""
    sweep(3)
    slurm.happens(slurm.arrays[0][2], "starts")
    for job in slurm.active:
        slurm.happens(job, "cancelled")
    said = sweep(3, "dry_run=true")[1]
    assert [f"job 1_{task} is gone: cancelled" in said for task in range(3)] == [True] * 3


@pytest.mark.parametrize("damage", few(["{", '{"runs": {"a": 1}}', "[]", '{"runs": [1]}', "{}"], 2))
def test_a_damaged_study_json(sweep: Sweep, slurm: Scheduler, study: Path, damage: str) -> None:
    """What is queued is not known then, so nothing is submitted, and the file is left."""
    sweep(2)
    (study / "study.json").write_text(damage)
    status, _, error = sweep(2)
    assert status == 2
    assert re.fullmatch(r"error: .*study\.json cannot be read \(.*\), and it says .*\n", error)
    assert sweep(2, "dry_run=true") == (2, "", error)
    assert len(slurm.arrays) == 1
    assert (study / "study.json").read_text() == damage
    assert read_manifest(study) == {}  # for those who only read


def test_a_folder_that_cannot_be_written(
    sweep: Sweep, slurm: Scheduler, study: Path, tmp_path: Path
) -> None:
    study.write_text("a file")
    try:
        status, _, error = sweep(1)
    finally:
        study.unlink()
    assert status == 2
    assert re.fullmatch(r"error: .*default cannot be written \(.*\): choose .*\n", error)
    status, _, error = sweep(1, f"submitit_folder={study}/study.json")
    assert status == 2
    assert slurm.arrays == []


def test_the_limit_of_an_array(slurm: Scheduler) -> None:
    for words, size in (
        ("MaxArraySize            = 3\n", 3),
        ("MaxArraySize = 9\nSchedulerParameters     = defer,max_array_tasks=2,bf_max=9\n", 2),
        ("", 1001),
    ):
        slurm.says["scontrol"] = words
        assert real_slurm.array_limit() == size


def test_the_same_command_twice_at_the_same_time(
    sweep: Sweep, slurm: Scheduler, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another decided likewise, and was quicker."""
    real = SlurmLauncher._act

    def slow(self: SlurmLauncher, wanted: list[Any]) -> None:
        slurm.jobs["77"] = FakeJob("77", self._batch(wanted, wanted[:2], 1, 1))
        add_to_manifest(study, {task.run_id: {"job": "77"} for task in wanted[:2]})
        real(self, wanted)

    monkeypatch.setattr(SlurmLauncher, "_act", slow)
    assert sweep(3)[0] == 0
    assert [seeds_of(array) for array in slurm.arrays] == [[2]]


# ---------------------------------------------------------------------- submitting


def test_a_launcher_that_dies_while_it_submits(sweep: Sweep, slurm: Scheduler, study: Path) -> None:
    """SLURM has the jobs and nobody knows of them: never is a run submitted twice."""
    slurm.dies_after_sbatch = True
    assert sweep(3)[0] == 130
    assert [job.state for job in slurm.active] == ["PENDING"] * 3
    assert not any("job" in entry for entry in read_manifest(study).values())
    slurm.dies_after_sbatch = False
    # Their files were not in place yet but for one, so they would wait for them in vain.
    (slurm.folder / "1_1_submitted.pkl").touch()
    assert sweep(3)[0] == 0
    assert [job.name for job in slurm.active] == ["1_1", "2_0", "2_1"]
    assert sorted(entry["job"] for entry in read_manifest(study).values()) == ["1_1", "2_0", "2_1"]
    assert not any("submitting" in entry for entry in read_manifest(study).values())
    assert [seeds_of(array) for array in slurm.arrays] == [[0, 1, 2], [0, 2]]
    assert sweep(3)[0] == 0
    assert len(slurm.arrays) == 2


@pytest.mark.parametrize(
    ("limit", "at_a_time", "runs", "shares", "chained"),
    [
        (1, 2, 5, [1] * 5, [None, None, "1", "2", "3"]),
        (2, 10, 5, [4, 3, 3], [None] * 3),
        (2, 3, 6, [2, 1, 2], [None, None, "1"]),
        (100, 3, 5, [3], [None]),
    ],
)
def test_so_many_at_a_time_of_the_whole_sweep(
    sweep: Sweep,
    slurm: Scheduler,
    limit: int,
    at_a_time: int,
    runs: int,
    shares: list[int],
    chained: list[str | None],
) -> None:
    slurm.limit = limit
    assert sweep(runs, f"array_parallelism={at_a_time}")[0] == 0
    assert [one["array_parallelism"] for one in slurm.all_parameters] == shares
    waits = [one.get("dependency") for one in slurm.all_parameters]
    assert waits == [number and f"afterany:{number}" for number in chained]


def test_jobs_of_an_earlier_command_count(sweep: Sweep, slurm: Scheduler) -> None:
    assert sweep(3, "array_parallelism=4")[0] == 0
    assert sweep(6, "array_parallelism=4")[0] == 0
    assert sweep(8, "array_parallelism=4", "dependency=afterok:7")[0] == 0
    first, second, third = slurm.all_parameters
    assert (first["array_parallelism"], second["array_parallelism"]) == (4, 1)
    assert third["array_parallelism"] == 4
    assert third["dependency"] == "afterok:7,afterany:1:2"


def test_jobs_that_die_before_their_run_begins(sweep: Sweep, slurm: Scheduler) -> None:
    """They are not submitted for ever, and what they said is shown."""

    def dies() -> str:
        (job,) = slurm.active
        job.says("module: command not found", "err")
        job.state = "FAILED"
        return sweep(1, "dry_run=true", "max_retries=1")[1]

    assert sweep(1, "max_retries=1")[0] == 0
    said = dies()
    assert "1 run: 1 stopped" in said
    words = "job 1 ended before the run began: module: command not found; see .*err"
    assert re.search(words, " ".join(said.split()))  # a narrow terminal breaks the line
    assert sweep(1, "max_retries=1")[0] == 0
    said = dies()
    assert "1 run: 1 failed" in said
    assert "2 jobs in a row ended before the run began: module: command not found" in said
    assert sweep(1, "max_retries=1")[0] == 0
    assert len(slurm.arrays) == 2
    assert sweep(1, "max_retries=1", "retry_failed=true")[0] == 0
    assert len(slurm.arrays) == 3
    assert "1 run: 1 stopped" in dies()  # and it counts anew


def test_submitting_from_inside_of_a_job(
    sweep: Sweep, slurm: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_CPU_BIND", "SBATCH_EXPORT"):
        monkeypatch.setenv(name, "9")
    assert sweep(1)[0] == 0
    (environment,), (parameters,) = slurm.environments, slurm.all_parameters
    assert not [name for name in environment if name.startswith(("SLURM_", "SBATCH_"))]
    assert parameters["additional_parameters"]["export"] == "ALL"
    assert parameters["srun_args"] == ["--cpus-per-task=4"]


@pytest.mark.parametrize(
    "words", ["additional_parameters={reservation: N}", "+additional_parameters.reservation=N"]
)
def test_any_other_option_of_sbatch(
    sweep: Sweep, slurm: Scheduler, words: str, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = f"{words[:1]}hydra.launcher." if words[0] == "+" else "hydra.launcher."
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    argv = [
        *("train", "-m", "hydra/launcher=submitit_slurm", "data=digits", f"outputs={study.parent}"),
        *(before + words.removeprefix("+"), "hydra.launcher.detach=true", "seed=0"),
    ]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 0
    (parameters,) = slurm.all_parameters
    assert parameters["additional_parameters"]["reservation"] == "N"


def test_data_that_cannot_be_had(
    sweep: Sweep, slurm: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known before anything is queued, on a machine with a network."""

    def missing(self: Digits) -> str:
        raise UserError("no data")

    monkeypatch.setattr(Digits, "prepare", missing)
    assert sweep(2) == (2, "2 runs: 2 missing\n", "error: no data\n")
    assert slurm.arrays == []


@pytest.mark.parametrize(
    ("cores", "side_by_side", "threads"), [("1", 2, 1), ("5", 2, 2), ("null", 2, 0), ("4", 1, 4)]
)
def test_the_cores_of_a_job_are_shared_out(
    sweep: Sweep, slurm: Scheduler, cores: str, side_by_side: int, threads: int
) -> None:
    """0 leaves it to the job, which knows what it was given."""
    options = f"cpus_per_task={cores}", f"side_by_side={side_by_side}", "runs_per_job=2"
    assert sweep(2, *options)[0] == 0
    (job,) = slurm.arrays[0]
    assert (job.batch.threads, job.batch.at_once) == (threads, side_by_side)


@pytest.mark.parametrize(
    "option", ["signal_delay_s=0", "timeout_min=0", "array_parallelism=0", "side_by_side=0"]
)
def test_numbers_that_are_too_small(sweep: Sweep, slurm: Scheduler, option: str) -> None:
    status, said, error = sweep(1, option)
    name = option.partition("=")[0]
    assert (status, said) == (2, "")
    assert error == f"error: hydra.launcher.{name} must be at least 1, not 0\n"
    assert slurm.arrays == []


@pytest.mark.parametrize(
    ("options", "package"), [("method=cpr", "pytorch_cpr"), ("logger=wandb", "wandb")]
)
@pytest.mark.parametrize("launcher", ["submitit_slurm", "submitit_local"])
def test_a_package_that_only_the_nodes_have(
    slurm: Scheduler,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    package: str,
    launcher: str,
) -> None:
    """What is missing is missed where a run is done."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *of: None if name == package else find(name, *of)
    )
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    words = f"hydra/launcher={launcher}", options, "data=digits", f"outputs={study.parent}"
    monkeypatch.setattr(sys, "argv", ["train", "-m", *words, "hydra.launcher.detach=true"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    if launcher == "submitit_slurm":
        assert ended.value.code == 0
        assert len(slurm.arrays) == 1
    else:
        assert ended.value.code == 2
        assert re.fullmatch(r"error: .* needs the package .*: pip .*\n", capsys.readouterr().err)


# ---------------------------------------------------------------------- waiting


def test_waiting(sweep: Sweep, slurm: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the jobs are gone, whatever SLURM says meanwhile; each end is told once."""
    does = slurm.happens

    def job(seed: int) -> FakeJob:
        return slurm.arrays[0][seed]

    def lose_contact() -> None:
        slurm.broken["squeue"] = refused("Unable to contact slurm controller", ["squeue"])
        do(2, "starts", "begins", "raises")

    def do(seed: int, *what: str) -> None:
        for word in what:
            does(job(seed), word)

    slept = let_wait(
        monkeypatch,
        [
            lambda: do(0, "starts", "begins"),
            lambda: do(0, "completes"),
            lambda: do(1, "starts", "begins", "preempted"),
            lose_contact,
            lambda: None,
            slurm.broken.clear,
            lambda: do(3, "starts", "begins", "cancelled"),
            lambda: do(1, "starts", "begins", "diverges"),
        ],
    )
    status, said, error = sweep(4, detach=False)
    assert len(slept) == 8
    assert status == 1
    lines = [re.sub(r"auto_l2-nobn-s(\d)-\w+", r"s\1", line) for line in said.split("\n")]
    assert [line for line in lines if line] == [
        "4 runs: 4 missing",
        "submitted 4 runs as job 1",
        "[1/4] s0: completed, 50.00 %",
        "squeue says: squeue: error: Unable to contact slurm controller; still waiting",
        "[2/4] s2: failed",
        "[3/4] s1: diverged",
        "2 of 4 runs have a result",
    ]
    assert re.fullmatch(
        r"error: 2 without a result, among them .*-s2-.*: failed, ValueError: bad\n", error
    )


def test_why_jobs_wait_is_told_once(
    sweep: Sweep, slurm: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for(reason: str) -> None:
        for job in slurm.arrays[0]:
            job.reason = reason

    def end() -> None:
        for job in slurm.arrays[0]:
            for what in ("starts", "begins", "completes"):
                slurm.happens(job, what)

    moments = [lambda: wait_for("Priority"), lambda: None, lambda: wait_for("JobHeldUser")]
    let_wait(monkeypatch, [*moments, lambda: None, end])
    status, said, _ = sweep(2, detach=False)
    assert status == 0
    assert said.count("2 jobs are pending (Priority)\n") == 1
    words = r"job (1_[01]) can never start \(JobHeldUser\): it is held: scontrol release \1\n"
    assert len(re.findall(words, said)) == 1


def test_waiting_for_what_an_earlier_command_submitted(
    sweep: Sweep, slurm: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c() -> None:
        raise KeyboardInterrupt

    let_wait(monkeypatch, [ctrl_c])
    status, _, error = sweep(2, detach=False)
    assert (status, error.count("\n")) == (130, 1)
    assert "no longer waiting; the jobs continue" in error

    def all_(*what: str) -> None:
        for job in slurm.arrays[0]:
            for word in what:
                slurm.happens(job, word)

    slept = let_wait(monkeypatch, [lambda: all_("starts", "begins"), lambda: all_("completes")])
    status, said, _ = sweep(2, detach=False)
    assert (status, len(slept)) == (0, 2)
    assert said.splitlines()[-1] == "2 of 2 runs have a result"
    assert said.count("completed") == 2
    assert len(slurm.arrays) == 1


@pytest.mark.parametrize(
    ("fate", "why"),
    [
        (
            "node gone for good",
            "stopped, job 1 is gone: node fail; the same command continues it",
        ),
        ("cancelled", "stopped, interrupted: SIGTERM; the same command continues it"),
        ("out of memory", "failed, out of memory, according to SLURM (job 1)"),
    ],
)
def test_waiting_in_vain(
    sweep: Sweep, slurm: Scheduler, monkeypatch: pytest.MonkeyPatch, fate: str, why: str
) -> None:
    def befalls() -> None:
        for what in ("starts", "begins", fate):
            slurm.happens(slurm.arrays[0][0], what)

    let_wait(monkeypatch, [befalls])
    status, _, error = sweep(1, detach=False)
    assert status == 1
    assert error.strip().endswith(why)


def test_waiting_ends_with_the_last_run(
    sweep: Sweep, slurm: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if SLURM never answers again."""

    def ends() -> None:
        for what in ("starts", "begins", "completes"):
            slurm.happens(slurm.arrays[0][0], what)
        slurm.broken["squeue"] = subprocess.TimeoutExpired("squeue", 60)

    let_wait(monkeypatch, [ends])
    assert sweep(1, detach=False)[0] == 0


# ---------------------------------------------------------------------- a job's own decision


def test_a_requeued_job_does_not_do_over_what_failed(
    slurm: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had failed before the job was submitted, it does (retry_failed)."""
    for name, end in (("a", "raises"), ("b", "is killed")):
        before = Batch([Task(str(tmp_path / name), ("seed=0",))], retries=0)
        slurm.begin(before.tasks[0], FakeJob("1", before)).end(*ENDS[end][:2])
        assert before._over(before.tasks[0])
        batch = Batch([replace(before.tasks[0], attempts=1)], retries=0)
        job = FakeJob("2", batch)
        for what in ("starts", "begins", end):
            slurm.happens(job, what)
        assert job.state == "COMPLETED"
        assert len(batch.tasks[0].state["attempts"]) == 2
        monkeypatch.setattr(batch_module, "Process", None)  # none may begin
        batch()


def test_a_requeued_job_goes_on_with_what_was_interrupted(slurm: Scheduler, tmp_path: Path) -> None:
    batch = Batch([Task(str(tmp_path / "run"), ("seed=0",))], retries=0)
    job = FakeJob("1", batch)
    for what in ("time limit", "preempted", "node lost", "node lost"):
        slurm.happens(job, "starts")
        slurm.happens(job, "begins")
        assert job.under_way is not None, what
        slurm.happens(job, what)
    assert kills(batch.tasks[0].state) == 1  # the last, of which one cannot know yet
