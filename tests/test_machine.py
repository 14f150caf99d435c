"""What a machine has for a sweep, and who gets it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from autol2.errors import UserError
from autol2.sweeps import local_launcher, machine
from autol2.sweeps.task import Task
from autol2.training import visible_gpus

TWO = "0, GPU-aaaa-1\n1, GPU-bbbb-2\n"


def smi(monkeypatch: pytest.MonkeyPatch, said: str | None) -> None:
    def run(*arguments: Any, **options: Any) -> Any:
        if said is None:
            raise FileNotFoundError
        return subprocess.CompletedProcess(arguments, 0, said, "")

    monkeypatch.setattr(visible_gpus.subprocess, "run", run)


@pytest.mark.parametrize(
    ("visible", "said", "expected"),
    [
        (None, TWO, ["0", "1"]),
        (None, None, []),
        (None, "No devices were found\n", []),
        ("", TWO, []),
        ("-1", TWO, []),
        ("1", TWO, ["1"]),
        ("1,0", TWO, ["1", "0"]),
        ("0,-1,1", TWO, ["0"]),
        ("0,7,1", TWO, ["0"]),
        ("0,0", TWO, ["0"]),
        ("none", TWO, []),
        ("GPU-bb", TWO, ["GPU-bb"]),
        ("GPU-cc", TWO, []),
        ("MIG-x/1/2", TWO, ["MIG-x/1/2"]),
        (" 0, 1", TWO, ["0", "1"]),
        ("3,5", None, ["3", "5"]),
    ],
)
def test_gpus_as_cuda_counts_them(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, said: str | None, expected: list[str]
) -> None:
    smi(monkeypatch, said)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus.gpus() == expected


def tasks(*devices: str) -> list[Task]:
    return [Task(f"/{place}", (), config={"device": one}) for place, one in enumerate(devices)]


def test_devices_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    smi(monkeypatch, TWO)
    assert local_launcher._devices(tasks("auto", "cuda")) == ["0", "1"]
    assert local_launcher._devices(tasks("cpu", "cpu")) == []
    assert local_launcher._devices(tasks("cuda:1", "cuda:1")) == ["1"]
    assert local_launcher._devices(tasks("cuda:1", "auto")) == ["0", "1"]
    with pytest.raises(UserError, match="device=cuda:2: this machine has 2 CUDA devices"):
        local_launcher._devices(tasks("cuda:2"))


def test_a_quota_of_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(16)))
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine.Path, "read_text", reading("0::/a/b\n", machine.Path.read_text))
    assert machine.cores() == 16
    (group / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("250000 100000\n")
    assert machine.cores() == 3
    (group / "cpu.max").write_text("50000 100000\n")
    assert machine.cores() == 1


def reading(groups: str, real: Any) -> Any:
    def read_text(path: Path, **options: Any) -> str:
        return groups if str(path) == "/proc/self/cgroup" else real(path, **options)

    return read_text
