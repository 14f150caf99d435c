"""Check that a data set fits into main memory before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError

WAY_OUT = "a data set must fit into memory: use fewer or smaller images, or a larger machine"


def require_room(needed: int, what: str) -> None:
    """Raise a `UserError` if `what` takes `needed` bytes and less memory is free."""
    free = available()
    if free is not None and needed > free:
        raise too_large(needed, what, f"the {size(free)} of memory that are free")


def too_large(needed: int, what: str, where: str = "memory") -> UserError:
    """Return the error for `what`, which takes `needed` bytes and does not fit into `where`."""
    return UserError(f"{what} take {size(needed)} and do not fit into {where}: {WAY_OUT}")


def size(count: float) -> str:
    """Format `count` bytes for people, as in 1.5 GB."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes of memory that this process can still use; None if the system does not say.

    This is the smaller of what Linux calls available and what the control groups (a batch system's
    limit) leave.
    """
    limits = [*_meminfo(proc), *_groups(proc, groups)]
    return min(limits, default=None)


def _meminfo(proc: Path) -> Iterator[int]:
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield 1024 * int(line.split()[1])


def _groups(proc: Path, groups: Path) -> Iterator[int]:
    """Yield the free memory of each control group of this process; version 2 or version 1."""
    for line in _text(proc / "self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield from _left(groups, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            yield from _left(groups / "memory", path, *names)


def _left(top: Path, path: str, limit: str, used: str, cached: str) -> Iterator[int]:
    here = top / path.lstrip("/")
    for group in (here, *here.parents):
        most, now = _text(group / limit).strip(), _text(group / used).strip()
        if most.isdigit() and now.isdigit():
            facts = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines())
            yield max(0, int(most) - int(now) + int(facts.get(cached, 0)))
        if group == top:
            break


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
