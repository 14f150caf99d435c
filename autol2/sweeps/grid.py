"""``hydra/sweeper=grid``: every combination of the given values.

It replaces Hydra's basic sweeper and has the same options. In addition, it uses an experiment's own
sweep if several experiments are swept over, keeps values as they are written, composes each run
once and continues after failed runs.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override, RangeSweep, ValueType
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ..cli.composition import SweepLoader, keep_text, restored, sweep_loader
from ..cli.overrides import NUMERIC_GROUPS, numbers_to_options
from ..errors import UserError
from .launcher import Failed, StudyLauncher

MOST = 100_000
"""The largest number of runs in a sweep."""
Axes = dict[str, list[str]]
"""The overrides to choose from, by key; a key with a single one is fixed."""


@dataclass
class GridConf:
    """How a sweep's runs are made."""

    _target_: str = "hydra_plugins.autol2_launchers.Grid"
    params: dict[str, str] = field(default_factory=dict)
    """Options that an experiment sweeps over and their values, written as on the command line."""
    max_batch_size: int | None = None
    """Plan and finish this many runs before planning the next; null for all runs at once."""


class StudySweeper(Sweeper):
    """Base class of the sweepers: it keeps what Hydra passes and determines the axes of a sweep."""

    launcher: StudyLauncher

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.params: Mapping[str, str] = options["params"] or {}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra passes, and create the launcher.

        Raises:
            UserError: the launcher is not one of this package's.
        """
        HydraConfig.instance().set_config(config)  # for ${hydra:runtime.cwd} and the like
        keep_text(config, config.hydra.overrides.hydra)
        self.loader: SweepLoader = sweep_loader(hydra_context)
        self.config: DictConfig = config
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not isinstance(launcher, StudyLauncher):
            chosen = config.hydra.runtime.choices["hydra/launcher"]
            raise UserError(
                f"hydra/launcher={chosen} does not support studies: a sweep needs submitit_local, "
                f"submitit_slurm or a launcher derived from them"
            )
        self.launcher = launcher

    def overrides(self, params: Mapping[str, str], arguments: Iterable[str]) -> dict[str, Override]:
        """Return the overrides of a sweep over `params` and over the `arguments`, by key.

        An argument replaces the entry of `params` with the same key.
        """
        given = [self.loader.parse(word) for word in arguments]
        named = {option.key_or_group for option in given}
        found: dict[str, Override] = {}
        for word in numbers_to_options(f"{key}={value}" for key, value in params.items()):
            override = self.loader.parse(word)
            group = override.key_or_group.partition(".")[0]
            if not (group in NUMERIC_GROUPS and group in named):
                found[override.get_key_element()] = override
        return {**found, **{option.get_key_element(): option for option in given}}

    def axes(self, params: Mapping[str, str], arguments: Iterable[str]) -> Axes:
        """Return the `overrides`, each as a list of single overrides to choose from."""
        return {key: choices(sweep) for key, sweep in self.overrides(params, arguments).items()}


class GridSweeper(StudySweeper):
    """The sweeper ``hydra/sweeper=grid``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        size = options["max_batch_size"]
        if size is not None and size < 1:
            raise UserError(f"hydra.sweeper.max_batch_size must be at least 1, not {size}")

    def sweep(self, arguments: list[str]) -> list[Any]:
        """Execute the runs batch by batch, and return the launcher's results of each batch.

        Raises:
            Failed: some runs have no result. All runs that could be done are done by then.
        """
        runs = self.runs(arguments)
        size = self.options["max_batch_size"] or max(1, len(runs))
        if len(runs) > size and self.config.hydra.launcher.get("detach"):
            raise UserError(
                "hydra.sweeper.max_batch_size waits for each batch: leave it out, or use "
                "hydra.launcher.detach=false"
            )
        self.loader.expect(runs)
        if len(runs) > size:  # otherwise, the launcher checks all of them before the first begins
            for run in runs:
                restored(self.loader.options(self.config, run))
        returned, failed = [], []
        for first in range(0, max(1, len(runs)), size):
            try:
                returned.append(
                    self.launcher.launch(runs[first : first + size], initial_job_idx=first)
                )
            except Failed as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return returned

    def runs(self, arguments: list[str]) -> list[list[str]]:
        """Return the overrides of each run of the sweep.

        Raises:
            UserError: a choice that is swept over changes how the sweep itself is executed.
        """
        given = self.overrides({}, arguments)
        axes = {key: choices(option) for key, option in given.items()}
        ours = self._settings(self.config)
        # a single value counts, too, as from glob(lam*): `config` does not contain its choice
        swept = {
            key: axes[key]
            for key, option in given.items()
            if option.is_sweep_override() and self.loader.is_group(key)
        }
        own = {
            (key, word): settings
            for key, words in swept.items()
            for word in words
            if (settings := self._settings(self.loader.with_hydra(self.config, [word]))) != ours
        }
        for (key, word), settings in own.items():
            for part in settings:
                if part != "params" and settings[part] != ours[part]:
                    raise UserError(
                        f"{word} sets {part}, which applies to the whole sweep: leave it out, or "
                        f"use a separate command for each {key}"
                    )
        by_itself = {key for key, _ in own}
        if len(by_itself) > 1:
            raise UserError(
                f"{' and '.join(sorted(by_itself))} each define a sweep: sweep over only one of "
                f"them at a time"
            )
        found: list[list[str]] = []
        for key in by_itself or {""}:
            for word in axes.get(key, [""]):
                params = own.get((key, word), ours)["params"]
                fixed = [word] if word else []
                others = [
                    argument
                    for argument in arguments
                    if self.loader.parse(argument).key_or_group != key
                ]
                found += product(self.axes(params, fixed + others))
        if {key for key in self.params if self.loader.is_group(key)}:
            self._refuse_nested(found, [ours, *own.values()])
        return found

    def _refuse_nested(self, runs: list[list[str]], known: list[dict[str, Any]]) -> None:
        """Reject nested sweeps: an experiment's choices must not define sweeps of their own."""
        for groups in {self.loader.groups(run) for run in runs}:
            if self._settings(self.loader.with_hydra(self.config, groups)) not in known:
                raise UserError(
                    f"{' '.join(groups)} changes how the sweep runs (hydra.sweeper or "
                    f"hydra.launcher), which a choice within a sweep cannot do"
                )

    def _settings(self, config: DictConfig) -> dict[str, Any]:
        """Return the sweeper's and the launcher's settings in `config`."""
        hydra = config.hydra
        sweeper = OmegaConf.to_container(hydra.sweeper, resolve=False)
        assert isinstance(sweeper, dict)
        params = sweeper.pop("params", None) or {}
        launcher = OmegaConf.to_container(hydra.launcher, resolve=False)
        return {"params": params, "hydra.sweeper": sweeper, "hydra.launcher": launcher}


def product(axes: Axes) -> list[list[str]]:
    """Return every combination of the axes.

    Raises:
        UserError: there are too many.
    """
    _refuse_many("the sweep", math.prod(map(len, axes.values())))
    return [list(words) for words in itertools.product(*axes.values())]


def choices(override: Override) -> list[str]:
    """Return the overrides that a sweep chooses from, if possible as the user wrote them.

    Raises:
        UserError: an interval has no list of values.
    """
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise UserError(
            f"{override.input_line} needs a search: use hydra/sweeper=search, or list the values"
        )
    swept = override.value()
    if isinstance(swept, RangeSweep) and swept.step == 0:
        raise UserError(f"{override.input_line} never ends: its step is 0")
    values = list(itertools.islice(override.sweep_string_iterator(), MOST + 1))
    _refuse_many(str(override.input_line), len(values))
    text = str(override.input_line).partition("=")[2]
    if override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
        match = re.fullmatch(r"(choice|sort|shuffle)\((.*)\)", text)
        function, text = match.groups() if match else ("choice", text)
        own = [part.strip() for part in text.split(",") if "=" not in part]
        plain = not re.search(r"[\"'\\(\[{$]", text)
        if function == "choice" and len(own) == len(values) and plain:
            values = own
        elif function != "choice" and plain and sorted(values) != sorted(own):
            raise UserError(
                f"{override.input_line} reads its values as numbers, which would change how they "
                f"are written: list them in the order that you want"
            )
    return [f"{key}={value}" for value in values]


def _refuse_many(what: str, count: int) -> None:
    if count > MOST:
        raise UserError(f"{what} has over {MOST:,} values, which is more than a sweep can have")


ConfigStore.instance().store("grid_schema", GridConf, group="hydra/sweeper")
