"""Sweeps on one machine, and the decision that both launchers share."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autol2.runs.state import FINISHED, read_state
from autol2.sweeps.launcher import expected
from autol2.sweeps.run_status import Job, RunStatus, common_error, kills, status_of
from autol2.sweeps.task import Task

from .conftest import PROJECT, SMALL, Command, run_autol2

# ---------------------------------------------------------------------- deciding


def state(status: str, *, host: str = "", pid: int = 0, age: float = 0.0) -> dict[str, Any]:
    attempt = {"host": host or socket.gethostname(), "pid": pid or os.getpid(), "from_step": 0}
    if status != "running":
        attempt |= {"ended": "now", "why": "SIGTERM"}
    error = "Traceback\nValueError: bad" if status == "failed" else ""
    return {
        "status": status,
        "attempts": [attempt],
        "updated": time.time() - age,
        "error": error,
    }


def dead() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def in_a_job(one: dict[str, Any]) -> dict[str, Any]:
    one["attempts"][-1]["slurm_job_id"] = "7"
    return one


def killed(one: dict[str, Any], times: int) -> dict[str, Any]:
    attempt = {**one["attempts"][0], "from_step": 5, "ended": "now", "why": "killed by SIGKILL"}
    return {**one, "attempts": [attempt] * times}


# Signs of life lie ahead, so that none is old before a slow machine comes to look.
STATES = {
    "none": lambda: {},
    "completed": lambda: state("completed"),
    "diverged": lambda: state("diverged"),
    "failed": lambda: state("failed"),
    "interrupted": lambda: state("interrupted"),
    "running here": lambda: state("running"),
    "running here, dead": lambda: state("running", pid=dead()),
    "running elsewhere": lambda: state("running", host="elsewhere", age=-900),
    "running elsewhere, silent": lambda: state("running", host="elsewhere", age=300),
    "running in a job elsewhere": lambda: in_a_job(state("running", host="elsewhere", age=-900)),
    "killed again and again": lambda: killed(state("interrupted"), 4),
}
JOBS = {
    "not submitted": None,
    "pending": Job("7_1", True, "PENDING"),
    "gone": Job("7_1", False, ""),
    "cancelled": Job("7_1", False, "CANCELLED"),
    "out of memory": Job("7_1", False, "OUT_OF_MEMORY"),
}


@pytest.mark.parametrize(("found", "job"), list(itertools.product(STATES, JOBS)))
def test_every_standing(found: str, job: str) -> None:
    how = status_of(STATES[found](), JOBS[job])
    sure = {
        "completed": "done",
        "diverged": "done",
        "running here": "running",
        "running elsewhere": "running",
        "running in a job elsewhere": "running" if job in ("not submitted", "pending") else None,
    }
    expected = sure.get(found)
    if expected is None:
        expected = "queued" if job == "pending" else None
    if expected is None and (found in ("failed", "killed again and again")):
        expected = "failed"
    if expected is None and job == "out of memory":
        expected = "failed"
    if expected is None:
        expected = "missing" if found == "none" and job == "not submitted" else "stopped"
    assert how.status == expected
    assert how.why
    assert how.wanted == (expected in ("stopped", "missing"))


def test_reasons() -> None:
    assert status_of(STATES["failed"](), None).why == "ValueError: bad"
    assert status_of({}, JOBS["gone"]).why == "job 7_1 is gone"
    assert status_of({}, JOBS["cancelled"]).why == "job 7_1 is gone: cancelled"
    assert status_of({}, JOBS["out of memory"]).why == "out of memory, according to SLURM (job 7_1)"
    again = STATES["killed again and again"]()
    assert status_of(again, None).why == "killed 4 times without making progress"
    assert status_of(again, None, retries=4).wanted
    assert status_of(STATES["interrupted"](), None).why == "interrupted: SIGTERM"


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", "nonsense"])
def test_a_run_json_without_attempts(status: str) -> None:
    for job in JOBS.values():
        assert status_of({"status": status}, job).status in (
            "stopped",
            "failed",
            "queued",
            "missing",
        )


def test_kills_count_only_where_nothing_came_of_them() -> None:
    def attempts(*found: tuple[int, str | None]) -> dict[str, Any]:
        return {
            "attempts": [
                {"from_step": step, **({"ended": "now", "why": why} if why else {})}
                for step, why in found
            ]
        }

    killed = "killed by SIGKILL"
    assert kills({}) == 0
    assert kills(attempts((0, None))) == 1  # still running, or killed with its node
    assert kills(attempts((0, killed), (0, "killed"), (0, None))) == 3
    assert kills(attempts((0, killed), (0, killed), (40, killed))) == 1
    assert kills(attempts((0, killed), (0, "SIGTERM"), (0, killed))) == 1
    assert kills(attempts((0, killed), (0, "SIGTERM"))) == 0


def test_what_slurm_requeued_was_not_killed() -> None:
    """A job that loses its node goes on as the same job; one whose process dies does not."""

    def attempts(*found: tuple[str, str | None]) -> dict[str, Any]:
        said = [{"ended": "now", "why": why} if why else {} for _, why in found]
        jobs = [{"from_step": 0, "slurm_job_id": job} for job, _ in found]
        return {"attempts": [one | two for one, two in zip(jobs, said, strict=True)]}

    assert kills(attempts(("7", "killed"), ("7", "killed"), ("7", None))) == 1
    assert kills(attempts(("7", "killed"), ("7", "killed"), ("8", None))) == 2
    assert kills(attempts(("7", "killed by SIGKILL"), ("7", "killed"), ("7", None))) == 2
    node_lost = {**attempts(*[("7", "killed"), ("8", "killed")] * 3, ("9", None)), "updated": 0.0}
    node_lost["status"] = "running"
    assert not status_of(node_lost, None).wanted
    assert status_of(node_lost, Job("9", False, "NODE_FAIL")).wanted
    assert not status_of(node_lost, Job("9", False, "FAILED")).wanted


def test_only_runs_that_all_fail_alike_have_an_error_in_common() -> None:
    failed = state("failed")
    assert common_error([failed, failed, failed]) == "ValueError: bad"
    assert common_error([failed, failed, state("running")]) == ""
    assert common_error([failed, failed, state("completed")]) == ""
    assert common_error([failed, {}]) == ""
    assert common_error([failed, {**failed, "error": "KeyError: other"}]) == ""


# ---------------------------------------------------------------------- doing


def states(outputs: Path) -> dict[str, str]:
    return {
        path.parent.name: read_state(path.parent)["status"] for path in outputs.glob("*/*/run.json")
    }


def test_a_sweep_does_what_is_missing(tmp_path: Path) -> None:
    words = "-m", "method=fixed,auto_l2", "seed=range(2)", *SMALL
    dry = run_autol2("train", tmp_path, *words, "hydra.launcher.dry_run=true")
    assert dry.returncode == 0
    assert dry.stdout.count("missing  never started  started") == 4
    assert not any(tmp_path.iterdir())
    first = run_autol2("train", tmp_path, *words)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "4 of 4 runs have a result"
    assert list(states(tmp_path).values()) == ["completed"] * 4
    more = run_autol2("train", tmp_path, *words[:2], "seed=range(3)", *SMALL)
    assert "6 runs: 4 done, 2 missing" in more.stdout
    assert len(states(tmp_path)) == 6
    dry = run_autol2("train", tmp_path, *words, "hydra.launcher.dry_run=true")
    assert "nothing to do" in dry.stdout


def test_what_goes_into_a_pipe_is_not_cut(run_command: Command) -> None:
    words = "-m", "experiment=explain", "seed=0", *SMALL, "hydra.launcher.dry_run=true"
    done = run_command("train", *words, COLUMNS="")
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines() if "never started" in line]
    assert len(names) == 8
    assert all(re.fullmatch(r"\S+-s0-[0-9a-f]{10}", name) for name in names), names


@pytest.mark.slow
def test_the_same_run_under_two_names_is_done_once(tmp_path: Path) -> None:
    done = run_autol2("train", tmp_path, "-m", "method=fixed", "alpha=0,5,10", *SMALL)
    assert done.returncode == 0
    assert "1 run: 1 missing" in done.stdout
    assert len(states(tmp_path)) == 1


def test_a_failing_run_leaves_the_others_alone(tmp_path: Path) -> None:
    """Convolutions that no machine has room for, between runs that go well."""
    words = "-m", *SMALL, "model.width=4,100000,5"
    done = run_autol2("train", tmp_path, *words)
    assert done.returncode == 1
    assert "2 of 3 runs have a result" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert sorted(states(tmp_path).values()) == ["completed", "completed", "failed"]
    again = run_autol2("train", tmp_path, *words)
    assert "3 runs: 2 done, 1 failed" in again.stdout
    retried = run_autol2("train", tmp_path, *words, "hydra.launcher.retry_failed=true")
    assert "1 to do" in retried.stdout


@pytest.mark.slow
def test_a_study_that_cannot_succeed_ends_early(tmp_path: Path) -> None:
    words = "model.width=100000", "seed=range(8)", "hydra.launcher.n_jobs=1"
    done = run_autol2("train", tmp_path, "-m", *SMALL, *words)
    assert done.returncode == 1
    assert list(states(tmp_path).values()) == ["failed"] * 3


def sweep_with(
    hook: str, tmp_path: Path, *words: str
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """A sweep whose processes begin with the lines of `hook`; and the run.jsons afterwards."""
    folder = tmp_path / "hook"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(hook)
    done = subprocess.run(
        [sys.executable, "-m", "autol2.train", "-m", *words, f"outputs={tmp_path / 'outputs'}"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = [
        read_state(path.parent) for path in sorted((tmp_path / "outputs").glob("*/*/run.json"))
    ]
    return done, sorted(found, key=order)


def order(state: dict[str, Any]) -> tuple[str, str]:
    """By seed, then those that completed before those that failed."""
    seed = re.search(r"-(s\d+)-", state["run_id"])
    assert seed
    return seed[1], state["status"]


LONG = ("epochs=60", "checkpoint.every_steps=5", *SMALL[:3], "threads=1")


def vanishing(tmp_path: Path, what: str, when: str) -> str:
    """Lines with which the process of seed 0 does `what` as soon as `when` holds."""
    run = str(tmp_path / "outputs/*/*-s0-*")
    return f"""
import glob, os, sys, threading, time

def begun(name):
    return any(
        os.path.getmtime(path) > started and pid in open(os.path.dirname(path) + "/run.json").read()
        for path in glob.glob({run!r} + "/" + name)
    )

def vanish():
    while not ({when}):
        time.sleep(0.01)
    {what}

def watch():
    global started, pid
    started, pid = time.time(), f'"pid": {{os.getpid()}},'
    threading.Thread(target=vanish, daemon=True).start()

if "autol2.sweeps.forkserver" in sys.orig_argv:
    os.register_at_fork(after_in_child=watch)
"""


@pytest.mark.slow
def test_a_run_that_exits_without_a_word_has_failed(tmp_path: Path) -> None:
    hook = vanishing(tmp_path, "os._exit(7)", "begun('checkpoint.pt')")
    done, found = sweep_with(hook, tmp_path, "seed=0,1", *LONG)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [one["status"] for one in found] == ["failed", "completed"]
    assert "the process exited with status 7 without a message; see " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    again, found = sweep_with("", tmp_path, "seed=0,1", *LONG)
    assert again.returncode == 1
    assert "1 done, 1 failed" in again.stdout  # a bug is not retried


@pytest.mark.slow
def test_a_killed_run_is_done_again(tmp_path: Path) -> None:
    once = tmp_path / "killed"
    kill = f"open({str(once)!r}, 'w').close(); os.kill(os.getpid(), 9)"
    when = f"begun('checkpoint.pt') and not os.path.exists({str(once)!r})"
    done, found = sweep_with(vanishing(tmp_path, kill, when), tmp_path, "seed=0,1", *LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["status"] for one in found] == ["completed"] * 2
    first, second = found[0]["attempts"]
    assert first["why"] == "killed by SIGKILL"
    assert second["from_step"] > first["from_step"] == 0


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_is_left(tmp_path: Path) -> None:
    hook = vanishing(tmp_path, "os.kill(os.getpid(), 9)", "begun('run.json')")
    words = "seed=0,1", *LONG, "checkpoint.every_steps=100000", "hydra.launcher.max_retries=1"
    done, found = sweep_with(hook, tmp_path, *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [one["status"] for one in found] == ["interrupted", "completed"]
    assert [one["why"] for one in found[0]["attempts"]] == ["killed by SIGKILL"] * 2
    assert "killed 2 times without making progress" in done.stderr
    again, _ = sweep_with("", tmp_path, *words)
    assert again.returncode == 1
    assert "2 runs: 1 done, 1 failed" in again.stdout
    done, found = sweep_with("", tmp_path, *words, "hydra.launcher.retry_failed=true")
    assert done.returncode == 0, done.stderr
    assert [one["status"] for one in found] == ["completed"] * 2


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group of 1.5 GB; a process joins by writing its number into cgroup.procs."""
    groups = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    paths = {controllers: path for _, controllers, path in groups}
    if "memory" in paths:
        above, limit = Path(f"/sys/fs/cgroup/memory{paths['memory']}"), "memory.limit_in_bytes"
    else:
        above, limit = Path(f"/sys/fs/cgroup{paths['']}"), "memory.max"
    group = above / f"autol2-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text("1500000000")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()


@pytest.mark.slow
def test_out_of_memory(tmp_path: Path, memory_group: Path) -> None:
    """A real limit and the kernel's own kill, between runs that go well."""
    join = f"import os; open({str(memory_group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
    small = [word for word in SMALL if not word.startswith("model.width")]
    words = *small, "model.width=12", "model.hidden=8,1000000,9", "hydra.launcher.n_jobs=1"
    done, found = sweep_with(join, tmp_path, *words)
    assert done.returncode == 1
    assert [one["status"] for one in found] == ["completed", "completed", "failed"], found
    assert found[2]["error"].startswith("out of memory: the system killed the process")
    assert "failed, out of memory: the system killed the process" in done.stderr
    again, _ = sweep_with("", tmp_path, *words)
    assert "3 runs: 2 done, 1 failed" in again.stdout


@pytest.mark.slow
def test_a_study_whose_processes_do_not_even_begin_ends_early(tmp_path: Path) -> None:
    hook = "import sys; sys.modules['torch'] = None"
    done, found = sweep_with(hook, tmp_path, "seed=range(8)", "hydra.launcher.n_jobs=1", *SMALL)
    assert done.returncode == 1
    assert len(found) == 3
    assert all("import of torch halted" in one["error"] for one in found)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the first 3 runs all failed, so no more were started; see ")
    assert "import of torch halted" in line
    again, found = sweep_with("", tmp_path, "seed=range(8)", *SMALL)
    assert again.returncode == 1  # of the failed ones, which are left
    assert [one["status"] for one in found] == ["failed"] * 3 + ["completed"] * 5
    again, found = sweep_with(
        "", tmp_path, "seed=range(8)", *SMALL, "hydra.launcher.retry_failed=true"
    )
    assert again.returncode == 0, again.stderr
    assert [one["status"] for one in found] == ["completed"] * 8


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_stops_and_the_command_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    words = "-m", "seed=0,1,2", "epochs=30", *SMALL[:3], "threads=1"
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "autol2.train", *words, f"outputs={tmp_path}"],
        cwd=PROJECT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    deadline = time.monotonic() + 60
    while not any("epoch 1/" in path.read_text() for path in tmp_path.glob("*/*/train.log")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    seen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    assert process.wait(60) == 128 + number
    assert "interrupted; every run is saved, and the same command continues them" in seen.decode()
    assert "Traceback" not in seen.decode()
    assert "interrupted" in states(tmp_path).values()
    assert set(states(tmp_path).values()) <= {"interrupted", *FINISHED}
    again = run_autol2("train", tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert list(states(tmp_path).values()) == ["completed"] * 3


@pytest.mark.slow
def test_detached_runs_go_on(tmp_path: Path) -> None:
    words = "-m", "seed=0,1", *SMALL[:3], "epochs=20", "threads=1", "hydra.launcher.detach=true"
    done = run_autol2("train", tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert list(states(tmp_path).values()) != ["completed"] * 2  # nobody waits, as for a pipe
    again = run_autol2("train", tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert "in the background" not in again.stdout  # the first does them all
    assert "missing" not in again.stdout
    deadline = time.monotonic() + 90
    while list(states(tmp_path).values()) != ["completed"] * 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_an_edit_of_a_configuration_while_a_sweep_waits_changes_nothing(tmp_path: Path) -> None:
    """Each run is what was asked for, where it was asked for."""
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\nlr: 0.02\n")
    outputs = tmp_path / "outputs"
    words = (
        *("-m", "--config-dir", str(tmp_path / "conf"), "experiment=mine", "seed=0,1,2"),
        *(*SMALL[:3], "epochs=8", "threads=1", "hydra.launcher.n_jobs=1"),
    )
    done = run_autol2("train", outputs, *words, "hydra.launcher.detach=true")
    assert done.returncode == 0, done.stderr
    planned = json.loads((outputs / "default" / "study.json").read_text())["runs"].keys()
    assert len(states(outputs)) < 3
    mine.write_text("# @package _global_\nlr: 0.5\n")
    deadline = time.monotonic() + 90
    while list(states(outputs).values()) != ["completed"] * 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert states(outputs).keys() == planned
    found = [read_state(path.parent) for path in outputs.glob("*/*/run.json")]
    assert {one["config"]["lr"] for one in found} == {0.02}
    edited = run_autol2("train", outputs, *words, "hydra.launcher.dry_run=true")
    assert "3 runs: 3 missing" in edited.stdout  # what is asked for now is something else


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=range(0)"], "there is nothing to sweep over: a range or glob has no values"),
        (["hydra.launcher.n_jobs=-2"], "hydra.launcher.n_jobs must be at least 0, not -2"),
        (
            ["hydra.launcher.cpus_per_task=1025"],
            "hydra.launcher.cpus_per_task must be at most 1024, not 1025",
        ),
        (
            ["hydra/launcher=submitit_slurm", "hydra.launcher.runs_per_job=0"],
            "hydra.launcher.runs_per_job must be at least 1, not 0",
        ),
        (
            ["hydra/launcher=submitit_slurm", "hydra.launcher.partitoin=gpu"],
            "hydra/launcher=submitit_slurm has no option 'partitoin'; did you mean "
            "hydra.launcher.partition?",
        ),
        (
            ["hydra.launcher.timeout_min=5"],
            "hydra/launcher=submitit_local has no option 'timeout_min': cpus_per_task, detach, "
            "dry_run, max_retries, n_jobs, retry_failed, runs_per_job",
        ),
    ],
)
def test_options_that_make_no_sense(
    run_command: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    done = run_command("train", "-m", *words, *SMALL)
    assert done.returncode == 2
    assert done.stderr == f"error: {message}\n"
    assert not list(tmp_path.iterdir())


def spent(device: str, threads: int, seconds: float) -> dict[str, Any]:
    attempt = {"device": device, "threads": threads, "seconds": seconds}
    return {"status": "completed", "attempts": [attempt, attempt], "result": {"n": 1}}


def test_expected_hours_are_those_of_a_device(tmp_path: Path) -> None:
    """Cores that were used count, GPUs count whole; a study on both is told in what most were."""
    plan = []
    for place, state in enumerate([spent("cpu", 4, 900), spent("cpu", 2, 900)]):
        (tmp_path / str(place)).mkdir()
        (tmp_path / str(place) / "run.json").write_text(json.dumps(state))
        plan.append((Task(str(tmp_path / str(place)), ()), RunStatus("done", "completed")))
    assert expected(plan, 3) == "3 runs to do, about 4.5 core-hours in total"
    for place, _ in enumerate(plan):
        (tmp_path / str(place) / "run.json").write_text(json.dumps(spent("cuda", 4, 900)))
    assert expected(plan, 1) == "1 run to do, about 0.5 GPU-hours in total"
    assert expected(plan, 0) == "nothing to do"
    assert expected([], 1) == "1 run to do; there is no time estimate until one run is finished"


@pytest.mark.slow
def test_cores_of_each_run(tmp_path: Path) -> None:
    words = "seed=0,1", *(word for word in SMALL if not word.startswith("threads"))
    done, found = sweep_with("", tmp_path, *words, "hydra.launcher.cpus_per_task=2")
    assert done.returncode == 0, done.stderr
    at_once = min(2, max(1, len(os.sched_getaffinity(0)) // 2))
    assert f"2 to do, {at_once} at a time" in done.stdout
    assert [one["attempts"][0]["threads"] for one in found] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("share", [1, 2])
def test_devices_are_shared_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    """Each run sees one of two devices, and no more than `share` at a time see the same one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    notes = tmp_path / "notes"
    notes.mkdir()
    hook = f"""
import atexit, os, sys, threading, time

def note(what):
    with open({str(notes)!r} + "/all", "a") as file:
        print(os.environ["CUDA_VISIBLE_DEVICES"], what, file=file)

def watch():
    while "," in os.environ["CUDA_VISIBLE_DEVICES"]:
        time.sleep(0.001)
    note("begins")
    atexit.register(note, "ends")

def begin():
    from autol2.training import hardware

    hardware.unseen_gpu = lambda: ""  # else a run is refused that is given a GPU and sees none
    threading.Thread(target=watch).start()

if "autol2.sweeps.forkserver" in sys.orig_argv:
    os.register_at_fork(after_in_child=begin)
"""
    words = "seed=range(5)", *SMALL, f"hydra.launcher.runs_per_job={share}"
    done, found = sweep_with(hook, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert f"5 to do, {2 * share} at a time" in done.stdout
    assert [one["status"] for one in found] == ["completed"] * 5
    busy, most = Counter[str](), Counter[str]()
    for line in (notes / "all").read_text().splitlines():
        device, what = line.split()
        busy[device] += 1 if what == "begins" else -1
        most[device] = max(most[device], busy[device])
    assert most == {"3": share, "5": share}
    assert busy == {"3": 0, "5": 0}


def test_threads_are_shared_out(run_command: Command, tmp_path: Path) -> None:
    words = "-m", "seed=0,1", *(word for word in SMALL if not word.startswith("threads"))
    assert run_command("train", *words).returncode == 0
    cores = len(os.sched_getaffinity(0))
    for path in (tmp_path / "outputs").glob("*/*/run.json"):
        attempt = read_state(path.parent)["attempts"][0]
        assert attempt["threads"] == max(1, cores // min(2, cores))
