"""How a study stands: the table, its like for scripts, and that it is quick."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest

from autol2 import status
from autol2.runs.run import Run
from autol2.runs.state import content, flaw, read_state, summary
from autol2.storage.files import to_json
from autol2.sweeps import slurm, states
from autol2.sweeps.lost_jobs import job_of
from autol2.sweeps.manifest import add_to_manifest
from autol2.sweeps.run_status import Job
from autol2.sweeps.study import Record, find
from autol2.training.train import refuse_other_data

from .conftest import PROJECT, SMALL, Command, run_autol2
from .test_launch import dead

RUNS = {
    "done-s0-0": {
        "status": "completed",
        "progress": {"epoch": 9, "epochs": 9},
        "result": {"final_test_accuracy": 71.25, "final_lambda": 1e-4},
    },
    "diverged-s0-0": {
        "status": "diverged",
        "diverged": {"step": 33, "epoch": 1, "lambda": 1e4},
        "progress": {"epoch": 1, "epochs": 9, "lambda": 1e4, "test_accuracy": "nan"},
    },
    "failed-s0-0": {"status": "failed", "error": "Traceback\n  File\nValueError: bad [b]luck[/b]"},
    "running-s0-0": {
        "status": "running",
        "progress": {
            **{"epoch": 3, "epochs": 9, "lambda": 0.01},
            **{"test_accuracy": 55.5, "seconds_left": 125.0},
        },
    },
    "dead-s0-0": {"status": "running", "progress": {"epoch": 2, "epochs": 9, "lambda": 0.1}},
    "stopped-s0-0": {"status": "interrupted"},
}


def write_run(study: Path, name: str, state: dict[str, Any], *, pid: int, silent: float) -> None:
    attempt = {"host": socket.gethostname(), "pid": pid, "from_step": 0}
    if state["status"] != "running":
        attempt |= {"ended": "now", "why": "SIGTERM"}
    (study / name).mkdir(parents=True)
    (study / name / "run.json").write_text(
        to_json({"attempts": [attempt], "updated": time.time() - silent, **state})
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs" / "mixed"
    for name, state in RUNS.items():
        pid = dead() if name.startswith("dead") else os.getpid()
        write_run(folder, name, state, pid=pid, silent=300 if name.startswith("dead") else 0)
    add_to_manifest(folder, {"missing-s0-0": {"overrides": ["seed=0"]}})
    return folder


def test_the_table(study: Path) -> None:
    done = run_autol2("status", study.parent, "study=mixed")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "mixed: 7 runs: 1 running, 1 failed, 2 stopped, 1 missing, 1 diverged, 1 done"
    )
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[2:]}
    dead_row = (
        rf"stopped dead: silent for 5:\d\d, on {re.escape(socket.gethostname())} \(epoch 2/9\)"
    )
    assert re.fullmatch(dead_row, rows.pop("dead-s0-0"))
    assert re.fullmatch(r"running 3/9 0.01 55.50 [12]:\d\d", rows.pop("running-s0-0"))
    assert rows == {
        "failed-s0-0": "failed ValueError: bad [b]luck[/b]",
        "stopped-s0-0": "stopped interrupted: SIGTERM",
        "missing-s0-0": "missing never started",
        "diverged-s0-0": "diverged 1/9 1e+04 loss not finite at step 33, with λ = 10000",
        "done-s0-0": "done 9/9 0.0001 71.25",
    }


def test_the_same_for_scripts(study: Path) -> None:
    done = run_autol2("status", study.parent, "study=mixed", "format=json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["study"] == "mixed"
    assert found["counts"] == {
        **{"running": 1, "failed": 1, "stopped": 2},
        **{"missing": 1, "diverged": 1, "done": 1},
    }
    runs = {run["run_id"]: run for run in found["runs"]}
    assert runs.keys() == {*RUNS, "missing-s0-0"}
    assert runs["running-s0-0"]["lambda"] == 0.01
    assert runs["running-s0-0"]["seconds_left"] == pytest.approx(120, abs=10)
    assert runs["done-s0-0"]["test_accuracy"] == 71.25
    assert runs["failed-s0-0"]["why"] == "ValueError: bad [b]luck[/b]"
    assert runs["missing-s0-0"]["epoch"] is None


def test_a_run_that_cannot_be_read_is_told(study: Path) -> None:
    """One that is there is not one that never began."""
    (study / "stopped-s0-0" / "run.json").write_text("{")
    (row,) = (row for row in status.look(study).rows if row.run_id == "stopped-s0-0")
    assert (row.status, row.why) == ("stopped", "run.json cannot be read")


@pytest.mark.parametrize(
    ("state", "part"),
    [
        ({"status": "running", "updated": None}, "it has no updated"),
        ({"status": "running", "updated": math.nan}, "updated is nan"),
        ({"status": "running", "updated": -1e12}, "updated is -1000000000000.0"),
        (
            {"status": "running", "progress": {"seconds_left": "nan"}},
            "progress.seconds_left is 'nan'",
        ),
        (
            {"status": "running", "progress": {"seconds_left": math.inf}},
            "progress.seconds_left is inf",
        ),
        ({"status": "running", "progress": {"lambda": "x"}}, "progress.lambda is 'x'"),
        ({"status": "running", "attempts": [{"pid": "7"}]}, "attempts.pid is '7'"),
        (
            {"status": "running", "progress": {"lambda": 10**400}},
            f"progress.lambda is 1{'0' * 39}",
        ),
        ({"status": "failed", "error": 3}, "error is 3"),
        ({"status": 3}, "status is 3"),
        ({"status": "completed", "attempts": None}, "it has no result"),
        ({"status": "completed", "result": {"final_lambda": [1]}}, "result.final_lambda is [1]"),
        ([1], "it is no object"),
    ],
)
def test_one_run_json_that_makes_no_sense_is_one_row(study: Path, state: Any, part: str) -> None:
    path = study / "stopped-s0-0" / "run.json"
    if isinstance(state, dict):
        attempts = [{"host": socket.gethostname(), "pid": os.getpid()}]
        state = {"attempts": attempts, "updated": time.time(), **state}
    path.write_text(json.dumps(state))
    assert flaw(content(path.parent)) == part
    rows = {row.run_id: (row.status, row.why) for row in status.look(study).rows}
    assert rows.pop("stopped-s0-0") == ("stopped", "run.json cannot be read")
    assert rows["failed-s0-0"] == ("failed", "ValueError: bad [b]luck[/b]")
    assert len(rows) == 6


@pytest.mark.parametrize(
    ("process", "part"),
    [
        ({}, "process is {}"),
        ({"host": "a", "pid": 1}, "process is {'host': 'a', 'pid': 1}"),
        ({"host": "a", "pid": "1", "since": 1.0}, "process.pid is '1'"),
        ([], r"process is \[\]"),
    ],
)
def test_a_study_json_that_makes_no_sense_is_told(study: Path, process: Any, part: str) -> None:
    (study / "study.json").write_text(json.dumps({"runs": {"stopped-s0-0": {"process": process}}}))
    seen = status.look(study)
    assert re.search(rf"study.json cannot be read \(run stopped-s0-0: {part}", seen.queue_problem)
    assert seen.counts == {"running": 1, "failed": 1, "stopped": 2, "diverged": 1, "done": 1}


def test_a_lambda_that_is_no_number(tmp_path: Path) -> None:
    """As that of CPR, which it takes from weights that have diverged."""
    where = {"step": 2, "epoch": 1, "lambda": math.nan}
    write_run(tmp_path, "a-s0-0", {"status": "diverged", "diverged": where}, pid=1, silent=0)
    (row,) = status.look(tmp_path).rows
    assert (row.status, row.why) == ("diverged", "loss not finite at step 2")
    told = "diverged: the loss is not finite at step 2 (epoch 1), with λ = nan"
    assert summary(read_state(tmp_path / "a-s0-0")) == told


def seen_by_another(function: Callable[[], Any]) -> str:
    """What `function` returns, or the error it raises, as text, for a user who is not root."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            said = str(function())
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read) as pipe:
        return pipe.read()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of studies that others see, unlike pytest's own: one, and the newer two."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        for number, name in enumerate(("one", "two")):
            write_run(Path(place, name), "a-s0-0", {"status": "completed"}, pid=1, silent=0)
            os.utime(Path(place, name, "a-s0-0", "run.json"), (0, number))
            Path(place, name).chmod(0o777)
        yield Path(place)
        for path in (Path(place), *Path(place).rglob("*")):
            path.chmod(0o777)


def test_studies_of_another_user(shared: Path) -> None:
    """What nobody may read is said, or passed over where it was not asked for."""
    run = shared / "one" / "a-s0-0"
    assert seen_by_another(lambda: find(shared, None).name) == "two"
    run.chmod(0)
    counts = seen_by_another(lambda: status.look(find(shared, "one")).counts)
    assert counts == "{'stopped': 1}"
    (shared / "two").chmod(0)
    said = seen_by_another(lambda: find(shared, "two"))
    assert re.fullmatch(r"UserError: /\S+/two\S* cannot be read: Permission denied", said)
    said = seen_by_another(lambda: find(shared, None))
    assert "there is no study in" in said  # one has no run that can be seen
    run.chmod(0o755)
    assert seen_by_another(lambda: find(shared, None).name) == "one"
    shared.chmod(0)
    for name in (None, "one"):
        said = seen_by_another(lambda name=name: find(shared, name))
        assert re.fullmatch(r"UserError: /\S+ cannot be read: Permission denied", said)


def test_what_another_user_lets_nobody_write_or_read_is_named(shared: Path) -> None:
    lock = shared / "one" / ".study.lock"
    lock.touch()
    lock.chmod(0)
    said = seen_by_another(lambda: add_to_manifest(shared / "one", {"b-s0-0": {}}))
    assert f"{shared}/one cannot be written (its .study.lock belongs to another user and" in said
    config = Mock(outputs=str(shared), study="two")
    with patch("autol2.runs.run.run_id", lambda _: "b-s0-0"):
        run = Run(config)
    (shared / "two").chmod(0)
    said = seen_by_another(lambda: run.open().__enter__())
    assert said.startswith(f"UserError: {shared}/two/b-s0-0 cannot be written (Permission denied)")


def test_what_lies_in_another_users_folder_is_as_good_as_gone(shared: Path) -> None:
    """Images that made a finished run, and what a job printed."""
    private = shared / "private"
    (private / "images").mkdir(parents=True)
    (private / "7_0_log.err").touch()
    private.chmod(0)
    source = Mock(place=private / "images", holds=Mock(side_effect=AssertionError))
    run = Mock(state={"data": {"root": str(source.place), "digest": "0"}}, config=Mock(data=source))
    with patch("autol2.training.train._refuse_other_code"):
        assert seen_by_another(lambda: refuse_other_data(run)) == "None"
    known = {"job": "7", "log": str(private / "7_0_log.err"), "tried": 0}
    jobs = {"7": Job("7", False, "COMPLETED")}
    assert "in_vain=0" in seen_by_another(lambda: job_of("a-s0-0", known, {}, jobs))


def test_a_slow_run_is_not_a_dead_one(tmp_path: Path) -> None:
    """Silent for five minutes on another machine: SLURM knows which of the two it is."""
    state = {
        "status": "running",
        "attempts": [{"host": "elsewhere", "pid": 1, "slurm_job_id": "8"}],
        "updated": time.time() - 300,
    }

    def stands(job: Job | None) -> tuple[str, str]:
        row = status._row(
            "r", Record(tmp_path, state), {"job": "7_1"}, {"7_1": job} if job else {}, time.time()
        )
        return row.status, row.why

    assert stands(Job("7_1", True, "RUNNING")) == ("running", "slow: silent for 5:00")
    assert stands(Job("7_1", True, "PENDING")) == ("queued", "job 7_1 is pending")
    assert stands(Job("7_1", False, "NODE_FAIL")) == (
        "stopped",
        "dead: silent for 5:00, on elsewhere",
    )
    assert stands(None) == ("stopped", "dead: silent for 5:00, on elsewhere")


def test_watching_reads_only_what_changed(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither every run.json nor SLURM at each look."""
    add_to_manifest(study, {"missing-s0-0": {"job": "7"}})
    asked = list[str]()

    def jobs(submitted: Any) -> dict[str, Job]:
        asked.extend(submitted)
        return {name: Job(name, True, "PENDING", "Priority") for name in submitted}

    monkeypatch.setattr(slurm, "jobs", jobs)
    read = list[str]()
    monkeypatch.setattr(
        states, "read_state", lambda folder: read.append(folder.name) or read_state(folder)
    )
    known, queue = states.States(), status.Queue(3600)
    first = status.look(study, known, queue)
    assert sorted(read) == sorted(RUNS)
    read.clear()
    again = status.look(study, known, queue)
    assert again.counts == first.counts
    assert read == []
    write = json.loads((study / "running-s0-0" / "run.json").read_text())
    (study / "running-s0-0" / "run.json").write_text(
        to_json({**write, "status": "completed", "result": {"final_test_accuracy": 70.0}})
    )
    assert status.look(study, known, queue).counts["done"] == 2
    assert read == ["running-s0-0"]
    assert asked == ["7"]
    (row,) = (row for row in again.rows if row.run_id == "missing-s0-0")
    assert (row.status, row.why) == ("queued", "job 7 is pending (Priority)")


def test_a_stopped_process_is_slow(tmp_path: Path) -> None:
    """A process that still is there, here, is not dead, however long it says nothing."""
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        folder = tmp_path / "outputs" / "one"
        time.sleep(1.1)  # `updated` must not lie before the process began
        write_run(folder, "a-s0-0", {"status": "running"}, pid=sleeper.pid, silent=0)
        (row,) = status.look(folder).rows
        assert row.status == "running"
    finally:
        sleeper.kill()
        sleeper.wait()
    (row,) = status.look(folder).rows
    assert row.status == "stopped"


def test_the_newest_study_and_those_that_are_not_there(study: Path) -> None:
    other = study.parent / "other"
    result = {"final_test_accuracy": 70.0}
    write_run(other, "a-s0-0", {"status": "completed", "result": result}, pid=1, silent=0)
    os.utime(other / "a-s0-0" / "run.json", (time.time() + 60, time.time() + 60))
    done = run_autol2("status", study.parent)
    assert done.stdout.startswith("other: 1 run: 1 done")
    done = run_autol2("status", study.parent, "study=nope")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("there are: mixed, other")


def test_options_that_make_no_sense(study: Path) -> None:
    for option, said in (
        ("format=xml", "format=xml is not one of table, json"),
        ("every=0", "every must be above 0"),
        ("rows=-1", "rows must be at least 0"),
        ("watch=true", "watch=true needs a terminal"),
    ):
        done = run_autol2("status", study.parent, option)
        assert done.returncode == 2, option
        assert said in done.stderr


def test_few_rows(study: Path) -> None:
    done = run_autol2("status", study.parent, "rows=1")
    assert "… and 1 more: rows=0 shows all" in done.stdout
    assert "stopped-s0-0" not in done.stdout
    done = run_autol2("status", study.parent, "rows=0")
    assert "more" not in done.stdout
    assert "stopped-s0-0" in done.stdout


def test_watching(run_command: Command, tmp_path: Path) -> None:
    """On a terminal: a run of another process appears, ends, and Ctrl-C leaves quietly."""
    outputs = tmp_path / "outputs"
    assert run_command("train", *SMALL, "study=watched").returncode == 0
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "autol2.status", "study=watched", "watch=true", "every=0.2"),
            f"outputs={outputs}",
        ],
        cwd=PROJECT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    os.set_blocking(master, False)
    seen = b""

    def await_(text: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while text.encode() not in seen:
            assert time.monotonic() < deadline, seen
            try:
                seen += os.read(master, 65536)
            except BlockingIOError:
                time.sleep(0.05)

    await_("watched: 1 run:")
    assert run_command("train", *SMALL, "study=watched", "seed=1").returncode == 0
    await_("watched: 2 runs:")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    os.close(master)
    assert b"Traceback" not in seen


@pytest.mark.slow
def test_thousands_of_runs(tmp_path: Path, run_command: Command) -> None:
    """Without torch, in a time that grows no faster than the runs do."""
    assert run_command("train", *SMALL).returncode == 0
    (path,) = (tmp_path / "outputs").glob("*/*/run.json")
    content = path.read_bytes()
    seconds = {}
    for count in (500, 5000):
        study = tmp_path / "many" / str(count)
        for number in range(count):
            folder = study / f"run-s{number}-0"
            folder.mkdir(parents=True)
            (folder / "run.json").write_bytes(content)
        seconds[count] = min(_timed(study) for _ in range(7))
    assert seconds[5000] < 20 * seconds[500]
    poisoned = tmp_path / "poison"
    poisoned.mkdir()
    (poisoned / "torch.py").write_text("raise SystemExit('status imports torch')")
    done = run_command("status", "study=5000", outputs=tmp_path / "many", PYTHONPATH=str(poisoned))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5000: 5000 runs: 5000 done")


def _timed(study: Path) -> float:
    before = time.perf_counter()
    assert status.look(study).counts == {"done": int(study.name)}
    return time.perf_counter() - before
