"""Query SLURM's queue and limits. This works with and without accounting (sacct)."""

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
"""SLURM's default for MaxArraySize, used if SLURM does not say."""
ACTIVE = (
    *("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_FED"),
    *("REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT"),
    *("STOPPED", "UNKNOWN"),
)
"""States of a job that SLURM has not finished with."""
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
AGAIN = ("REQUEUED", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "RESIZING")
"""States in which accounting leaves a job that was restarted under the same number."""
ELSEWHEN = 600.0
"""Seconds by which the clocks of two machines may differ."""
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables that say where SLURM is, not what a job is like."""
AT_A_TIME = 500
"""Number of jobs in one query of the accounting."""
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
"""Reasons for which a job does not start unless somebody acts, with the advice for the user."""
TOO_LARGE = re.compile(r"\w*(PerJob|PerNode)(Limit)?|\w*NotSatisfied")
"""Limits that the job exceeds by itself, so that it does not start, either."""


def available() -> bool:
    """Return whether SLURM's commands are installed on this machine."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


@dataclass(frozen=True)
class Line:
    """A line of squeue: a job, or the tasks of an array that wait for the same reason."""

    ids: str
    """The job's number, as in 12, 12_3 or 12_[1-5,7%2]."""
    state: str
    reason: str
    script: str
    """The script that was submitted."""

    def holds(self, task: str) -> bool:
        """Return whether task number `task` of the array is among `ids`."""
        inside = self.ids.partition("[")[2].partition("]")[0].partition("%")[0]
        if not task or not inside:
            return self.ids.partition("_")[2] == task
        for part in inside.split(","):
            numbers = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
            if numbers is None:
                return True  # cut off: a task that may be there counts as there
            first, last = int(numbers[1]), int(numbers[2] or numbers[1])
            if first <= int(task) <= last and (int(task) - first) % int(numbers[3] or 1) == 0:
                return True
        return False


def jobs(submitted: Mapping[str, float | None]) -> dict[str, Job]:
    """Return the state of jobs, named as in 12_3, or 12_3@CLUSTER if it is on another cluster.

    Args:
        submitted: the jobs, with the time of submission (Unix time) if known: a number may have
            belonged to another job before or may do so now.

    Raises:
        UserError: SLURM does not answer; the message contains its own words.
    """
    if not submitted:
        queue()  # make sure that SLURM answers before anything is submitted
    found = _queued(submitted)
    gone = [name for name, job in found.items() if not (job.active or job.state)]
    for cluster, names in _by_cluster(gone).items():
        ended = _ended(names, submitted, cluster)
        found |= {name: Job(name, False, ended.get(name, "")) for name in names}
    return found


def active(names: Collection[str]) -> dict[str, Job]:
    """Return those of the jobs `names` (as in `jobs`) that are pending or running.

    Raises:
        UserError: SLURM does not answer; the message contains its own words.
    """
    return {name: job for name, job in _queued(names).items() if job.active}


def _queued(names: Collection[str]) -> dict[str, Job]:
    """Return the state of the jobs `names` in squeue; unknown jobs are not active."""
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
    """Return the user's jobs: pending, running, and recently ended ones.

    Raises:
        UserError: SLURM does not answer; the message contains its own words.
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
    """Group jobs by cluster ("" for the local one), as number and array task ("" without one)."""
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
    """Return how jobs ended, from accounting; empty if the cluster has no accounting."""
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
    """Return how the job submitted at `submitted` ended, among all jobs with its number."""
    state = ""
    for word, when in sorted(found, key=lambda one: one[1] or 0.0):
        if submitted is not None and when is not None:
            if when < submitted - ELSEWHEN:
                continue  # an earlier job with this number
            if not state and when > submitted + ELSEWHEN:
                return ""  # a later job has this number now
        if state and state not in AGAIN:
            break
        state = word or state
    return state


def array_limit(cluster: str = "") -> int:
    """Return the largest size of a job array, or SLURM's default if SLURM does not say."""
    try:
        told = _ask(["scontrol", *_on(cluster), "show", "config"])
    except UserError:
        return ARRAY_LIMIT
    limits = re.findall(r"\b(?:MaxArraySize\s*|max_array_tasks)=\s*(\d+)", told)
    return max(1, min(map(int, limits), default=ARRAY_LIMIT))


def running(number: str) -> bool:
    """Return whether the job is running and not being cancelled; False if SLURM does not say."""
    try:
        told = _ask(["scontrol", "--oneliner", "show", "job", number])
    except UserError:
        return False
    return "RUNNING" in re.findall(r"\bJobState=(\w+)", told)


def cancel(number: str, cluster: str = "") -> None:
    """Cancel a job, including all tasks of an array.

    Raises:
        UserError: SLURM does not cancel it; the message contains its own words.
    """
    _ask(["scancel", *_on(cluster), number])


def variables_for_jobs(everything: Mapping[str, str]) -> Iterator[str]:
    """Yield the names of environment variables that would affect submitted jobs.

    These are the variables of the job that one submits from, and the user's own defaults.
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
    # Node lists without a limit on their length, and times in seconds since 1970.
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
    """Return SLURM's message on one line."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
