"""``hydra/launcher=submitit_slurm``: a sweep as SLURM job arrays."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ..cli.progress import StudyProgress, counted
from ..errors import UserError, unwritable
from ..storage.lock import locked
from . import prerequisites, sbatch, slurm
from .job import JobBatch
from .launcher import Interrupted, Plan, StudyLauncher, remember
from .run_status import HOPELESS, Job, status_of
from .sbatch import SlurmConf
from .states import States
from .submission import Submission, reconciled
from .task import Task

SHARE = 0.05
"""Share of the waiting time by which the end of the jobs may be noticed late."""
QUICKEST, SLOWEST = 2.0, 30.0
"""Shortest and longest time between two checks of the queue, in seconds."""
OF_EACH = 0.02
"""Minimum seconds between two checks for each run that is waited for."""


class SlurmLauncher(StudyLauncher):
    """The launcher ``hydra/launcher=submitit_slurm``."""

    SCHEMA: ClassVar = SlurmConf
    AT_LEAST: ClassVar = {
        **{"timeout_min": 1, "nodes": 1, "tasks_per_node": 1, "signal_delay_s": 1},
        **{"array_parallelism": 1, "max_num_timeout": 0},
        **{"runs_per_job": 1, "side_by_side": 1, "max_retries": 0},
    }
    WILL_BE: ClassVar = "submitted"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._given = options
        self.options = sbatch.check(options)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Set up the launcher, and drop defaults that conflict with the given options."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        named = sbatch.named(config.hydra.overrides.hydra, self._given)
        self.options = sbatch.without_rivals(self.options, named)
        self.cluster = sbatch.cluster(self.options)

    def _jobs(self, submitted: Mapping[str, float | None]) -> dict[str, Job]:
        if not slurm.available():
            if self.options["dry_run"]:
                self._say("sbatch is not available here, so running jobs cannot be checked")
                return {}
            raise UserError(
                "sbatch is not available here: log in to a SLURM cluster, or run the sweep on this "
                "machine with hydra/launcher=submitit_local"
            )
        try:
            return slurm.jobs(submitted)
        except UserError as error:
            if not self.options["dry_run"]:
                raise UserError(f"{error}; is this a login node of the cluster?") from None
            self._say(f"{error}: running jobs cannot be checked")
            return {}

    def _show(self, plan: Plan) -> None:
        super()._show(plan)
        runs = sum(self._wanted(how) for _, how in plan)
        if self.options["dry_run"] and runs:
            self._say(sbatch.in_words(self.options, runs))

    # ---------------------------------------------------------------- submitting

    def _act(self, wanted: list[Task]) -> None:
        prerequisites.prepare(map(self._config, wanted), self._say)
        with contextlib.ExitStack() as stack:
            for study in sorted({task.study for task in wanted}):
                try:
                    stack.enter_context(locked(study / ".submit.lock", "submits runs"))
                except OSError as error:
                    raise unwritable(study / ".submit.lock", error) from error
            # An earlier command may have died while submitting.
            remember(reconciled(self._entries(wanted)))
            # The same command, given elsewhere at the same time, may have been faster.
            still = [task for task, how in self._decide(wanted) if self._wanted(how)]
            if still:
                self._submit(still)

    def _submit(self, wanted: list[Task]) -> None:
        options = self.options
        size = options["runs_per_job"]
        batches = [
            self._job_batch(wanted, wanted[first : first + size])
            for first in range(0, len(wanted), size)
        ]
        folder = Path(options["submitit_folder"] or wanted[0].study / ".launch" / "jobs")
        folder = sbatch.folder_for(folder.expanduser().absolute())
        limit = slurm.array_limit(self.cluster)
        arrays = [batches[first : first + limit] for first in range(0, len(batches), limit)]
        lanes, active = self._lanes(arrays, limit)
        before = [active] * len(lanes)
        for place, part in enumerate(arrays):
            lane = place % len(lanes)
            one = Submission(folder, part, options, lanes[lane], before[lane])
            remember(one.announced())
            remember(one.submit({} if options["retry_failed"] else self._in_vain(part)))
            before[lane] = one.number
            runs = counted(sum(len(batch.tasks) for batch in part))
            self._say(f"submitted {runs} as job {one.number}")

    def _in_vain(self, batches: list[JobBatch]) -> dict[Task, int]:
        tasks = (task for batch in batches for task in batch.tasks)
        jobs = {task: self.jobs.get(task) for task in tasks}
        return {task: job.in_vain for task, job in jobs.items() if job is not None and job.in_vain}

    def _job_batch(self, wanted: list[Task], tasks: list[Task]) -> JobBatch:
        cores, at_once = self.options["cpus_per_task"] or 0, self.options["side_by_side"]
        at_once = min(at_once, len(tasks))
        return JobBatch(
            tasks,
            wanted[:HOPELESS],
            at_once,
            max(1, cores // at_once) if cores else 0,
            retries=self.options["max_retries"],
            grace=max(5.0, 0.8 * self.options["signal_delay_s"]),
            await_others=False,
        )

    def _lanes(self, arrays: list[list[JobBatch]], limit: int) -> tuple[list[int], str]:
        """Return how many jobs at a time each array may have; the arrays are chained in lanes.

        `array_parallelism` applies to the sweep, SLURM's limit to an array. Jobs of an earlier
        command count. If they use up the limit, their numbers are returned as well, since they must
        end first.
        """
        names = {job.name for job in self.jobs.values() if job is not None and job.active}
        at_a_time: int = self.options["array_parallelism"] - len(names)
        before = ""
        if at_a_time < 1:
            at_a_time += len(names)
            numbers = {name.partition("@")[0].partition("_")[0] for name in names}
            before = ":".join(sorted(numbers, key=int))
        count = min(-(-at_a_time // limit), len(arrays))
        return [at_a_time // count + (lane < at_a_time % count) for lane in range(count)], before

    # ---------------------------------------------------------------- waiting

    def _wait(self, tasks: list[Task]) -> None:
        """Wait until SLURM has none of the jobs of `tasks` and no run gives a sign of life.

        Ctrl-C only stops the waiting. If SLURM does not answer for a while, the waiting continues.
        """
        names = {task: str(entry.get("job", "")) for task, entry in self._entries(tasks).items()}
        open_ = {task: task.state for task in tasks}
        count, states, began = len(open_), States(), time.monotonic()
        self._silent, self._told = False, set[str]()
        try:
            with StudyProgress(count, self.console) as progress:
                while open_:
                    jobs = self._ask({names[task] for task in open_} - {""})
                    under_way = {}
                    for task in list(open_):
                        job = jobs.get(names[task]) if jobs is not None else None
                        if job is not None and job.state in slurm.WAITING:
                            continue  # nothing can have happened to it
                        state = states.read(Path(task.folder))
                        if _over(task, open_[task], state):
                            del open_[task]
                            self._tell(task, count - len(open_), count)
                        elif jobs is None or job or _lives(state, names[task]):
                            under_way[task.run_id] = state
                    if jobs is not None and not (jobs or under_way):
                        return
                    progress.update(count - len(open_), under_way)
                    if open_:
                        time.sleep(_pause(time.monotonic() - began, len(open_)))
        except KeyboardInterrupt:
            raise Interrupted(
                "no longer waiting; the jobs continue. The same command waits again; scancel ends "
                "the jobs"
            ) from None

    def _ask(self, names: set[str]) -> dict[str, Job] | None:
        """Return those of the jobs that SLURM still has; None if it does not answer."""
        if not names:
            return {}
        try:
            jobs = slurm.active(names)
        except UserError as error:
            if not self._silent:
                self._say(f"{error}; still waiting")
            self._silent = True
            return None
        self._silent = False
        for reason, words in _waiting(jobs).items():
            if reason not in self._told:
                self._say(words)
            self._told.add(reason)
        return jobs

    def _say(self, words: str) -> None:
        self.console.print(words, markup=False)


def _over(task: Task, before: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Return whether the run has ended; an error counts only if it is newer than the plan."""
    if state.get("status") != "failed":
        return task.finished(state)
    since = len(state.get("attempts", [])) > task.attempts
    return since or state.get("updated") != before.get("updated")


def _lives(state: Mapping[str, Any], gone: str) -> bool:
    """Return whether a process in none of our jobs executes the run; `gone` is its last job."""
    return status_of(state, Job(gone, False, "") if gone else None).status == "running"


def _waiting(jobs: Mapping[str, Job]) -> dict[str, str]:
    """Describe each reason for which some of `jobs` wait."""
    waiting = [job for job in jobs.values() if job.reason]
    counts = Counter(job.reason for job in waiting)
    first = {job.reason: job for job in reversed(waiting)}
    return {
        reason: first[reason].about
        if count == 1 or first[reason].never
        else f"{counted(count, 'job')} are pending ({reason})"
        for reason, count in counts.items()
    }


def _pause(elapsed: float, count: int) -> float:
    """Return the seconds until the next check after waiting for `elapsed` s for `count` runs."""
    return max(min(max(QUICKEST, SHARE * elapsed), SLOWEST), OF_EACH * count)


ConfigStore.instance().store("submitit_slurm_schema", SlurmConf, group="hydra/launcher")
