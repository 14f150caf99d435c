"""``hydra/sweeper=search``: search with Optuna for the option values of highest accuracy.

The values to search are written as for a sweep: ``alpha.percent=interval(0, 50)``, ``lr=tag(log,
interval(1e-3, 1))``, ``batch_size=32,64``. ``seed`` is never searched: with several seeds, every
trial runs all of them and is judged by their mean. Trials are stored in the study's folder, so that
the same command continues a search that was stopped. A trial that fails does not end the search.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ..cli.composition import restored
from ..cli.progress import counted
from ..errors import UserError, first_line, require, unwritable
from ..runs.identity import digest
from ..runs.state import FINISHED
from ..storage.files import to_json, write_atomically
from ..storage.lock import exclusive
from .grid import StudySweeper, choices, product
from .launcher import Failed
from .run_status import HOPELESS, common_error, last_line
from .task import Task

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

OBJECTIVES = {
    "mean_last_tenth_validation": "validation accuracy, mean of the last tenth of training",
    "mean_last_tenth": "test accuracy, mean of the last tenth of training",
}
"""What can be maximised, with its name for the user; the first one in a run's result is used."""
RECORD = "search.json"
"""The file in the study's folder with the best result."""


@dataclass
class SamplerConf:
    """Where trials come from: Optuna's tree-structured Parzen estimator."""

    seed: int = 0
    """Seed of the sampler. With the same seed, an interrupted search continues unchanged."""


@dataclass
class SearchConf:
    """How to search for the option values that give the highest accuracy."""

    _target_: str = "hydra_plugins.autol2_launchers.Search"
    params: dict[str, str] = field(default_factory=dict)
    """Options to search and their values, written as on the command line."""
    rivals: dict[str, str] = field(default_factory=dict)
    """A sweep that runs first, in the same study, to compare the search's result with."""
    n_trials: int = 20
    """Total number of trials, including those of earlier commands."""
    n_jobs: int = 4
    """Number of trials per round; they run in parallel as far as the launcher allows."""
    storage: str | None = None
    """Where trials are stored: a file, or a database URL as for Optuna (sqlite:///FILE); null for
    search.journal in the study's folder."""
    sampler: SamplerConf = field(default_factory=SamplerConf)


@dataclass
class Space:
    """What is searched, and what is fixed."""

    fixed: list[str]
    """Overrides of every run."""
    seeds: list[str]
    """Overrides with the seeds of each trial; one empty string if there are none."""
    searched: dict[str, BaseDistribution]

    def runs(self, params: Mapping[str, Any]) -> list[list[str]]:
        """Return the overrides of each run of a trial."""
        words = [f"{key}={params[key]}" for key in self.searched]
        return [[*self.fixed, *words, *([seed] if seed else [])] for seed in self.seeds]


class SearchSweeper(StudySweeper):
    """The sweeper ``hydra/sweeper=search``."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Set up the sweeper, and reject options that a search does not support."""
        for name in ("n_trials", "n_jobs"):
            if self.options[name] < 1:
                raise UserError(
                    f"hydra.sweeper.{name} must be at least 1, not {self.options[name]}"
                )
        require(
            0 <= self.options["sampler"]["seed"] < 2**31,
            f"hydra.sweeper.sampler.seed must be at least 0 and below 2^31, not "
            f"{self.options['sampler']['seed']}",
        )
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        for option in ("detach", "dry_run"):
            if self.launcher.options[option]:
                raise UserError(
                    f"a search needs the results of its runs: set hydra.launcher.{option}=false"
                )

    def sweep(self, arguments: list[str]) -> None:
        """Search, and report the best result.

        Raises:
            Failed: every trial failed.
        """
        space = self._space(arguments)
        example = self.loader.options(self.config, space.fixed)
        self.folder = Path(example["outputs"]) / example["study"]
        with _optuna() as optuna, self._alone():
            self.seed = int(self.options["sampler"]["seed"])
            self.study = self._open(optuna, digest(_identity(space, example)))
            self._do_rivals(space)
            self._search(optuna, space)
            self._say_best()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other commands that search in this study; they would run the same trials."""
        try:
            with exclusive(self.folder / ".search.lock", "searches in this study"):
                yield
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _do_rivals(self, space: Space) -> None:
        """Execute the runs that the search is compared with, on the seeds of each trial."""
        rivals: dict[str, str] = self.options["rivals"] or {}
        if not rivals:
            return
        kept = [word for word in space.fixed if word.partition("=")[0] not in rivals]
        runs = [
            [*run, *([seed] if seed else [])]
            for run in product(self.axes(rivals, kept))
            for seed in space.seeds
        ]
        with contextlib.suppress(Failed):  # the report will show it
            self.launcher.launch(runs, initial_job_idx=0)

    def _space(self, arguments: list[str]) -> Space:
        """Return what is searched, according to the experiment and the command line.

        Raises:
            UserError: nothing is searched, or it is something that a search does not support.
        """
        space = Space([], [""], {})
        for key, override in self.overrides(self.params, arguments).items():
            if not override.is_sweep_override():
                space.fixed.append(str(override.input_line))
            elif key in ("study", "outputs", "experiment"):
                raise UserError(f"a search takes one {key}, not {override.input_line}")
            elif override.is_discrete_sweep() and len(words := choices(override)) < 2:
                require(bool(words), f"{override.input_line} has no values")
                space.fixed += words
            elif key == "seed":
                space.seeds = choices(override)
            else:
                space.searched[key] = _distribution(override)
        if not space.searched:
            raise UserError(
                "there is nothing to search: name values, as in 'alpha.percent=interval(0,50)'"
            )
        return space

    def _open(self, optuna: Any, name: str) -> Study:
        storage: Any = self.options["storage"] or self.folder / "search.journal"
        self.kept = str(storage)
        with self._keeping():
            if "://" not in self.kept:
                path = Path(self.kept)
                require(path.is_file() or not path.exists(), "it is not a file")
                path.parent.mkdir(parents=True, exist_ok=True)
                _cut_torn_line(path)
                backend = optuna.storages.journal.JournalFileBackend(str(path))
                storage = optuna.storages.JournalStorage(backend)
            found: Study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True
            )
        return found

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        """Turn errors of the trials' storage into one-line messages."""
        try:
            yield
        except Exception as error:  # a database and its driver may raise anything
            raise UserError(
                f"trials cannot be stored in {self.kept}: {first_line(error)}; choose another "
                f"place with hydra.sweeper.storage=FILE"
            ) from error

    def _search(self, optuna: Any, space: Space) -> None:
        from optuna.trial import TrialState

        launcher = self.launcher
        failed = [item for item in self._trials() if item.state == TrialState.FAIL]
        if failed and launcher.options["retry_failed"]:
            with self._keeping():
                for item in failed:
                    self.study.enqueue_trial(item.params)
        goal = self.options["n_trials"] + (len(failed) * launcher.options["retry_failed"])
        while True:
            trials = self._trials()
            waiting = {
                trial_.number: trial_.params
                for trial_ in trials
                if trial_.state == TrialState.RUNNING
            }
            if not waiting:  # otherwise, a command that was stopped left them open
                count = goal - sum(trial_.state.is_finished() for trial_ in trials)
                self.study.sampler = optuna.samplers.TPESampler(
                    seed=self.seed + len(trials), constant_liar=True
                )
                for _ in range(min(self.options["n_jobs"], count)):
                    with self._keeping():
                        trial = self.study.ask(space.searched)
                    waiting[trial.number] = trial.params
            if not waiting:
                return
            of = {number: space.runs(params) for number, params in waiting.items()}
            self._refuse(of, waiting)
            jobs = [run for runs in of.values() for run in runs]
            if not jobs:
                continue
            with contextlib.suppress(Failed):  # reported below
                launcher.launch(jobs, initial_job_idx=min(of))
            tasks = iter(launcher.tasks)
            for number, runs in of.items():
                self._tell(number, waiting[number], [next(tasks) for _ in runs])

    def _refuse(self, runs: dict[int, list[list[str]]], params: Mapping[int, Any]) -> None:
        """Remove the trials whose runs are invalid, and count them as failed.

        Raises:
            UserError: no trial has been valid so far.
        """
        from optuna.trial import TrialState

        for number in list(runs):
            try:
                for run in runs[number]:
                    restored(self.loader.options(self.config, run))
            except UserError as error:
                del runs[number]
                with self._keeping():
                    self.study.tell(number, state=TrialState.FAIL)
                self.launcher.console.print(
                    f"trial {number}: {_words(params[number])}: {error}; the search continues",
                    markup=False,
                )
                finished = [trial for trial in self._trials() if trial.state.is_finished()]
                if len(finished) >= HOPELESS and all(
                    trial.state == TrialState.FAIL for trial in finished
                ):
                    raise

    def _tell(self, number: int, params: Mapping[str, Any], tasks: Sequence[Task]) -> None:
        """Report the result of a trial to Optuna.

        Raises:
            Failed: all trials so far have failed.
        """
        from optuna.trial import TrialState

        console = self.launcher.console
        states = [task.state for task in tasks]
        said = f"trial {number}: {_words(params)}"
        if any(state.get("status") not in FINISHED for state in states):
            with self._keeping():
                self.study.tell(number, state=TrialState.FAIL)
            console.print(f"{said}: failed; the search continues", markup=False)
            finished = [trial for trial in self._trials() if trial.state.is_finished()]
            why = common_error(states) or states[0].get("error", "no result")
            if len(finished) >= HOPELESS and all(
                trial.state == TrialState.FAIL for trial in finished
            ):
                raise Failed(f"all {len(finished)} trials failed: {last_line(why)}")
            return
        kind = next(
            (objective for objective in OBJECTIVES if objective in _results(states)),
            "mean_last_tenth",
        )
        values = [float(state.get("result", {}).get(kind, 0.0)) for state in states]
        with self._keeping():
            self.study.set_user_attr("objective", kind)
            self.study.tell(number, statistics.fmean(values))
        console.print(f"{said}: {statistics.fmean(values):.2f} %", markup=False)
        self._record()

    def _trials(self) -> list[FrozenTrial]:
        with self._keeping():
            return self.study.get_trials(deepcopy=False)

    def _best(self) -> FrozenTrial | None:
        try:
            return self.study.best_trial
        except ValueError:  # there is none yet
            return None

    def _record(self) -> None:
        """Write the best result so far to the study's folder."""
        best = self._best()
        if best is None:
            return
        found = {
            "objective": OBJECTIVES[self.study.user_attrs["objective"]],
            "best_params": best.params,
            "best_value": best.value,
            "best_trial": best.number,
            "trials": sum(trial.state.is_finished() for trial in self._trials()),
            "storage": self.kept,
        }
        with contextlib.suppress(OSError):  # the trials are stored all the same
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / RECORD, to_json(found).encode())

    def _say_best(self) -> None:
        self._record()
        best = self._best()
        count = counted(sum(trial.state.is_finished() for trial in self._trials()), "trial")
        if best is None:
            raise Failed(f"none of {count} has a result; they are stored in {self.kept}")
        objective = OBJECTIVES[self.study.user_attrs["objective"]]
        self.launcher.console.print(
            f"best of {count}: {_words(best.params)} with {best.value:.2f} % ({objective}); "
            f"see {self.folder / RECORD}; trials are stored in {self.kept}",
            markup=False,
        )


def _cut_torn_line(journal: Path) -> None:
    """Remove an incomplete last line, which a killed process or a full disk left behind."""
    with contextlib.suppress(FileNotFoundError), journal.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _distribution(override: Override) -> BaseDistribution:
    """Convert a sweep of Hydra's grammar to the distribution that Optuna draws from."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            low, high = value.start, value.end
            assert low is not None
            assert high is not None
            log = "log" in value.tags
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log=log)
            return FloatDistribution(float(low), float(high), log=log)
        words = [word.partition("=")[2] for word in choices(override)]
        if isinstance(value, RangeSweep) and not value.shuffle and len(words) > 1:
            numbers = [float(word) for word in words]
            low, step = min(numbers), abs(numbers[1] - numbers[0])
            if all(number.is_integer() for number in numbers):
                return IntDistribution(int(low), int(max(numbers)), step=int(step))
            step = float(f"{step:.12g}")  # 0.03 - 0.01 is below 0.02
            return FloatDistribution(low, low + step * (len(numbers) - 1), step=step)
        assert isinstance(value, ChoiceSweep | RangeSweep)
        return CategoricalDistribution(words)
    except ValueError as error:
        raise UserError(f"{override.input_line} cannot be searched: {error}") from error


def _identity(space: Space, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies a search."""
    ignored = ("rerun", "device", "threads")
    return {
        "options": {key: value for key, value in options.items() if key not in ignored},
        "searched": {key: str(distribution) for key, distribution in space.searched.items()},
        "seeds": space.seeds,
    }


def _results(states: Sequence[Mapping[str, Any]]) -> set[str]:
    return {key for state in states for key in state.get("result", {})}


def _words(params: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in params.items()
    )


@contextlib.contextmanager
def _optuna() -> Iterator[Any]:
    """Import Optuna and silence it.

    Raises:
        UserError: it is not installed or too old.
    """
    try:
        import optuna
        from optuna.storages import journal  # noqa: F401
    except ImportError as error:
        raise UserError("a search needs Optuna 4 or newer: pip install 'autol2[optuna]'") from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield optuna
    finally:
        optuna.logging.set_verbosity(before)


ConfigStore.instance().store("search_schema", SearchConf, group="hydra/sweeper")
