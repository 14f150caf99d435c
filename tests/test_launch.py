"""Sweeps on one machine, and the decision that both launchers share."""

from __future__ import annotations

import itertools
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autol2.run import FINISHED, read_state
from autol2.study import Record, common_error, standing

from .conftest import PROJECT, SMALL, Command, run_autol2

# ---------------------------------------------------------------------- deciding


def state(status: str, *, host: str = "", pid: int = 0, age: float = 0.0) -> dict[str, Any]:
    attempt = {"host": host or socket.gethostname(), "pid": pid or os.getpid(), "why": "SIGTERM"}
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


STATES = {
    "none": lambda: {},
    "completed": lambda: state("completed"),
    "diverged": lambda: state("diverged"),
    "failed": lambda: state("failed"),
    "interrupted": lambda: state("interrupted"),
    "running here": lambda: state("running"),
    "running here, dead": lambda: state("running", pid=dead()),
    "running elsewhere": lambda: state("running", host="elsewhere", age=20),
    "running elsewhere, silent": lambda: state("running", host="elsewhere", age=300),
}
QUEUES: dict[str, tuple[str | None, dict[str, str] | None]] = {
    "no scheduler": (None, None),
    "not submitted": (None, {}),
    "pending": ("7_1", {"7_1": "PENDING"}),
    "gone": ("7_1", {"7_2": "RUNNING"}),
}


@pytest.mark.parametrize(("found", "queue"), itertools.product(STATES, QUEUES))
def test_every_standing(found: str, queue: str) -> None:
    how = standing(STATES[found](), *QUEUES[queue])
    expected = {
        "completed": "done",
        "diverged": "done",
        "running here": "running",
        "running elsewhere": "running",
    }.get(found)
    if expected is None and queue == "pending":
        expected = "queued"
    if expected is None:
        expected = {
            "failed": "failed",
            "none": "lost" if queue == "gone" else "missing",
        }.get(found, "lost")
    assert how.status == expected
    assert how.why
    assert how.wanted == (expected in ("lost", "missing"))


def test_only_runs_that_all_fail_alike_end_a_study() -> None:
    def runs(*statuses: str) -> list[Record]:
        return [Record(Path("x"), state(status)) for status in statuses]

    assert common_error(runs("failed", "failed", "failed")) == "ValueError: bad"
    assert common_error(runs("failed", "failed", "failed", "running")) == "ValueError: bad"
    assert common_error(runs("failed", "failed")) == ""
    assert common_error(runs("failed", "failed", "failed", "completed")) == ""
    different = runs("failed", "failed", "failed")
    different[1].state["error"] = "KeyError: other"
    assert common_error(different) == ""


# ---------------------------------------------------------------------- doing


def states(outputs: Path) -> dict[str, str]:
    return {
        path.parent.name: read_state(path.parent)["status"] for path in outputs.glob("*/*/run.json")
    }


def test_a_sweep_does_what_is_missing(tmp_path: Path) -> None:
    words = "-m", "method=fixed,auto_l2", "seed=range(2)", *SMALL
    dry = run_autol2("train", tmp_path, *words, "hydra.launcher.dry_run=true")
    assert dry.returncode == 0
    assert dry.stdout.count("missing  never begun  submitted") == 4
    assert not any(tmp_path.iterdir())
    first = run_autol2("train", tmp_path, *words)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "4 of 4 runs have come to a result"
    assert list(states(tmp_path).values()) == ["completed"] * 4
    more = run_autol2("train", tmp_path, *words[:2], "seed=range(3)", *SMALL)
    assert "6 runs: 4 done, 2 missing" in more.stdout
    assert len(states(tmp_path)) == 6
    dry = run_autol2("train", tmp_path, *words, "hydra.launcher.dry_run=true")
    assert "nothing to do" in dry.stdout


def test_the_same_run_under_two_names_is_done_once(tmp_path: Path) -> None:
    done = run_autol2("train", tmp_path, "-m", "method=fixed", "alpha=0,5,10", *SMALL)
    assert done.returncode == 0
    assert "1 runs: 1 missing" in done.stdout
    assert len(states(tmp_path)) == 1


def test_a_failing_run_leaves_the_others_alone(tmp_path: Path) -> None:
    """A dense layer that no machine has room for, between runs that go well."""
    words = "-m", *SMALL, "model.hidden=8,999999999999,9"
    done = run_autol2("train", tmp_path, *words)
    assert done.returncode == 1
    assert "2 of 3 runs have come to a result" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert sorted(states(tmp_path).values()) == ["completed", "completed", "failed"]
    again = run_autol2("train", tmp_path, *words)
    assert "3 runs: 2 done, 1 failed" in again.stdout
    retried = run_autol2("train", tmp_path, *words, "hydra.launcher.retry_failed=true")
    assert "1 to do" in retried.stdout


def test_a_study_that_cannot_succeed_ends_early(tmp_path: Path) -> None:
    words = "model.hidden=999999999999", "seed=range(8)", "hydra.launcher.n_jobs=1"
    done = run_autol2("train", tmp_path, "-m", *SMALL, *words)
    assert done.returncode == 1
    assert list(states(tmp_path).values()) == ["failed"] * 3


@pytest.mark.parametrize("code", ["os._exit(7)", "os.kill(os.getpid(), 9)"])
def test_run_json_is_true_of_a_run_without_a_last_word(tmp_path: Path, code: str) -> None:
    """A process that vanishes in the middle of training."""
    hook = tmp_path / "hook"
    hook.mkdir()
    own = tmp_path / "outputs/*/*-s0-*/checkpoint.pt"
    (hook / "sitecustomize.py").write_text(
        f"""
import glob, os, sys, threading, time

def vanish():
    while not glob.glob({str(own)!r}):
        time.sleep(0.02)
    {code}

if "seed=0" in sys.orig_argv:
    threading.Thread(target=vanish, daemon=True).start()
"""
    )
    words = "-m", "seed=0,1", "epochs=60", "checkpoint.every_steps=5", *SMALL[:3], "threads=1"
    done = subprocess.run(
        [sys.executable, "-m", "autol2.train", *words, f"outputs={tmp_path / 'outputs'}"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(hook)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = states(tmp_path / "outputs")
    assert sorted(found.values()) == sorted(
        ["completed", "failed" if "_exit" in code else "interrupted"]
    )
    again = run_autol2("train", tmp_path / "outputs", *words)
    if "_exit" in code:
        assert again.returncode == 1
        assert "1 done, 1 failed" in again.stdout
    else:
        assert again.returncode == 0, again.stderr
        assert list(states(tmp_path / "outputs").values()) == ["completed"] * 2


def test_control_c_stops_and_the_command_goes_on(tmp_path: Path) -> None:
    words = "-m", "seed=0,1,2", "epochs=150", *SMALL[:3], "threads=1"
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
    process.send_signal(signal.SIGINT)
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
    assert process.wait(60) == 130
    assert "interrupted; every run is saved, and the same command goes on" in seen.decode()
    assert "Traceback" not in seen.decode()
    assert "interrupted" in states(tmp_path).values()
    assert set(states(tmp_path).values()) <= {"interrupted", *FINISHED}
    again = run_autol2("train", tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert list(states(tmp_path).values()) == ["completed"] * 3


def test_detached_runs_go_on(tmp_path: Path) -> None:
    words = "-m", "seed=0,1", *SMALL, "hydra.launcher.detach=true"
    done = run_autol2("train", tmp_path, *words)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 90
    while list(states(tmp_path).values()) != ["completed"] * 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_threads_are_shared_out(run_command: Command, tmp_path: Path) -> None:
    words = "-m", "seed=0,1", *(word for word in SMALL if not word.startswith("threads"))
    assert run_command("train", *words).returncode == 0
    cores = len(os.sched_getaffinity(0))
    for path in (tmp_path / "outputs").glob("*/*/run.json"):
        attempt = read_state(path.parent)["attempts"][0]
        assert attempt["threads"] == max(1, cores // min(2, cores))
