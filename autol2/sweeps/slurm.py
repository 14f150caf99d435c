"""What SLURM says: its queue and its limits. Works with and without accounting (sacct)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UserError
from .run_status import Job

ARRAY_LIMIT = 1001
"""MaxArraySize where SLURM does not tell (its default)."""
ACTIVE = (
    *("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_FED"),
    *("REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT"),
    *("STOPPED", "UNKNOWN"),
)
"""States of a job that SLURM still has something to do with."""
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
AGAIN = ("REQUEUED", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "RESIZING")
"""States in which accounting leaves a job that began anew, under the same number."""
ELSEWHEN = 600.0
"""Seconds by which the clocks of two machines may differ."""
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables that say where SLURM is, and not what a job is like."""
AT_A_TIME = 500
"""Jobs that accounting is asked for in one command."""
HELD = "it is held: scontrol release {0}"
LESS = "scancel {0}, and request less"
NEVER = {
    **dict.fromkeys(("JobHeldUser", "job requeued in held state", "JobHoldMaxRequeue"), HELD),
    "launch failed requeued held": "it could not be launched, and is held: scontrol release {0}",
    "JobHeldAdmin": "an administrator holds it",
    **dict.fromkeys(
        ("PartitionNodeLimit", "PartitionTimeLimit", "PartitionConfig", "BadConstraints"), LESS
    ),
    **dict.fromkeys(
        ("AccountNotAllowed", "QOSNotAllowed", "InvalidAccount", "InvalidQOS"),
        "scancel {0}, and name another account, qos or partition",
    ),
    **dict.fromkeys(("DependencyNeverSatisfied", "ReservationDeleted"), "scancel {0}"),
}
"""Reasons for which SLURM does not start a job unless somebody acts, and how to."""
TOO_LARGE = re.compile(r"\w*(PerJob|PerNode)(Limit)?|\w*NotSatisfied")
"""And limits that the job is above by itself."""


def available() -> bool:
    """Whether SLURM's commands are on this machine."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


@dataclass(frozen=True)
class Line:
    """What squeue says of a job, or of the tasks of an array that wait for the same reason."""

    ids: str
    """As in 12, 12_3 or 12_[1-5,7%2]."""
    state: str
    reason: str
    script: str
    """The file that was submitted."""

    def holds(self, task: str) -> bool:
        """Whether task number `task` of its array is among `ids`."""
        inside = self.ids.partition("[")[2].partition("]")[0].partition("%")[0]
        if not task or not inside:
            return self.ids.partition("_")[2] == task
        for part in inside.split(","):
            numbers = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
            if numbers is None:
                return True  # cut off: what is not told apart counts as there
            first, last = int(numbers[1]), int(numbers[2] or numbers[1])
            if first <= int(task) <= last and (int(task) - first) % int(numbers[3] or 1) == 0:
                return True
        return False


def jobs(submitted: Mapping[str, float | None]) -> dict[str, Job]:
    """What SLURM says of jobs, each as in 12_3, or 12_3@CLUSTER where that is another's.

    Args:
        submitted: the jobs, and when each was submitted (Unix time) where that is known: a number
            may have been another job's before, or become one's since.

    Raises:
        UserError: SLURM does not answer; with its own words.
    """
    if not submitted:
        queue()  # that it answers must be known before anything is submitted
    found = _queued(submitted)
    gone = [name for name, job in found.items() if not (job.active or job.state)]
    for cluster, names in _by_cluster(gone).items():
        ended = _ended(names, submitted, cluster)
        found |= {name: Job(name, False, ended.get(name, "")) for name in names}
    return found


def active(names: Collection[str]) -> dict[str, Job]:
    """Those of the jobs `names`, each as in `jobs`, that are pending or running.

    Raises:
        UserError: SLURM does not answer; with its own words.
    """
    return {name: job for name, job in _queued(names).items() if job.active}


def _queued(names: Collection[str]) -> dict[str, Job]:
    """What squeue says of the jobs `names`: those that it does not know are not active."""
    found = {}
    for cluster, numbers in _by_cluster(names).items():
        lines = defaultdict(list)
        for line in queue(cluster):
            lines[line.ids.partition("_")[0]].append(line)
        for name, (number, task) in numbers.items():
            here = [line for line in lines[number] if line.holds(task)]
            there = [line for line in here if line.state in ACTIVE]
            ended = Job(name, False, here[0].state if here else "")
            found[name] = _active(name, there[0]) if there else ended
    return found


def queue(cluster: str = "") -> list[Line]:
    """The user's jobs: those that are pending or running, and those that ended a moment ago.

    Raises:
        UserError: SLURM does not answer; with its own words.
    """
    command = ["squeue", *_on(cluster), "--noheader", "--states=all", f"--user={os.getuid()}"]
    told = _ask([*command, "--format=%i|%T|%r|%o"]).splitlines()
    rows = [line.strip().split("|", 3) for line in told if line.count("|") >= 1]
    return [Line(*(row + [""] * 4)[:4]) for row in rows]


def _active(name: str, line: Line) -> Job:
    if line.state not in WAITING:
        return Job(name, True, line.state)
    reason = line.reason.strip("()")
    reason = "" if reason == "None" else reason
    never = NEVER.get(reason, LESS if TOO_LARGE.fullmatch(reason) else "")
    return Job(name, True, line.state, reason, never.format(name.partition("@")[0]))


def _by_cluster(names: Collection[str]) -> dict[str, dict[str, tuple[str, str]]]:
    """Of each cluster ("" for the local one) its jobs: number and task of the array, or ""."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for name in names:
        job, _, cluster = name.partition("@")
        number, _, task = job.partition("_")
        found.setdefault(cluster, {})[name] = number, task
    return found


def _on(cluster: str) -> list[str]:
    return [f"--clusters={cluster}"] if cluster else []


def _ended(
    names: Mapping[str, tuple[str, str]], submitted: Mapping[str, float | None], cluster: str
) -> dict[str, str]:
    """How jobs ended, from accounting; of none where the cluster keeps no accounts."""
    numbers = sorted({number for number, _ in names.values()})
    command = ["sacct", *_on(cluster), "--noheader", "--parsable2", "--allocations", "--duplicates"]
    lines = defaultdict(list)
    for first in range(0, len(numbers), AT_A_TIME):
        part = ",".join(numbers[first : first + AT_A_TIME])
        try:
            told = _ask([*command, "--format=JobID,State,Submit", f"--jobs={part}"])
        except UserError:
            return {}
        for text in told.splitlines():
            ids, state, since = [*text.strip().split("|"), "", ""][:3]
            word = (state.split() or [""])[0]  # CANCELLED by 0
            when = float(since) if since.isdigit() else None
            lines[ids.partition("_")[0]].append((Line(ids, word, "", ""), when))
    return {
        name: _last(
            [(line.state, when) for line, when in lines[number] if line.holds(task)],
            submitted[name],
        )
        for name, (number, task) in names.items()
    }


def _last(found: Sequence[tuple[str, float | None]], submitted: float | None) -> str:
    """How the job that was submitted at `submitted` ended, of all that had its number."""
    state = ""
    for word, when in sorted(found, key=lambda one: one[1] or 0.0):
        if submitted is not None and when is not None:
            if when < submitted - ELSEWHEN:
                continue  # it had the number before
            if not state and when > submitted + ELSEWHEN:
                return ""  # it has the number now
        if state and state not in AGAIN:
            break
        state = word or state
    return state


def array_limit(cluster: str = "") -> int:
    """How many tasks one job array may have; SLURM's default where it does not tell."""
    try:
        told = _ask(["scontrol", *_on(cluster), "show", "config"])
    except UserError:
        return ARRAY_LIMIT
    limits = re.findall(r"\b(?:MaxArraySize\s*|max_array_tasks)=\s*(\d+)", told)
    return max(1, min(map(int, limits), default=ARRAY_LIMIT))


def running(number: str) -> bool:
    """Whether the job is running, and not being cancelled; False where SLURM does not tell."""
    try:
        told = _ask(["scontrol", "--oneliner", "show", "job", number])
    except UserError:
        return False
    return "RUNNING" in re.findall(r"\bJobState=(\w+)", told)


def cancel(number: str, cluster: str = "") -> None:
    """Cancel a job, and with it all tasks of an array.

    Raises:
        UserError: SLURM does not; with its own words.
    """
    _ask(["scancel", *_on(cluster), number])


def variables_for_jobs(everything: Mapping[str, str]) -> Iterator[str]:
    """The names of variables that would change jobs that are submitted beside them.

    They are those of the job in which one submits, and a user's own defaults.
    """
    for name in everything:
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_")) and name not in KEPT:
            yield name


def _ask(command: list[str]) -> str:
    # A user's own SQUEUE_STATES or SQUEUE_PARTITION would hide jobs.
    others = ("SQUEUE_", "SACCT_", "SLURM_", "SCONTROL_")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(others) or name in ("SLURM_CONF", "SLURM_JWT")
    }
    # Without limit, and in seconds since 1970.
    environment |= {"SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=60,
        )
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not available here: log in to a SLURM cluster, or run the sweep on "
            f"this machine with hydra/launcher=submitit_local"
        ) from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{command[0]} says: {words(error.stderr)}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} does not answer; try again later") from None
    except OSError as error:  # a login node that is out of processes or memory
        raise UserError(f"{command[0]} cannot be run: {error.strerror or error}") from None
    return done.stdout


def words(text: str) -> str:
    """SLURM's own message on one line."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
