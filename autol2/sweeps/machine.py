"""The number of CPU cores that a sweep may use on this machine."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Where the control groups are mounted."""


def cores() -> int:
    """Return how many CPU cores this process may use by its affinity and control groups."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """Yield the quota of cores of each control group of this process that has one."""
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for group in groups:
        number, controllers, path = group.split(":", 2)
        old = "cpu" in controllers.split(",")
        if not (old or number == "0"):
            continue
        top = CGROUPS / "cpu" if old else CGROUPS
        below = Path(path.lstrip("/"))
        for folder in (top / below, *(top / parent for parent in below.parents)):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                yield _quota_v1(folder) if old else _quota_v2(folder)


def _quota_v1(folder: Path) -> float:
    quota = float((folder / "cpu.cfs_quota_us").read_text())
    if quota <= 0:
        raise ValueError("no quota")
    return quota / float((folder / "cpu.cfs_period_us").read_text())


def _quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return float(quota) / float(period)  # "max" is no number
