"""Composition and resolution of the configurations of runs, with caching for sweeps.

Hydra composes the configuration of each run twice, which takes 0.15 s each time and therefore
minutes for a study of hundreds of runs. Here, the YAML files are composed only once for each choice
of groups.
"""

from __future__ import annotations

import copy
import functools
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast, get_args, get_type_hints

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import HydraContext
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ..config import Config, parse_plain
from .flags import config_dirs
from .overrides import quoted


class SweepLoader:
    """Wraps a config loader of Hydra with a faster `load_sweep_config`.

    It replaces the loader in `HydraContext`. Hydra does not document this; it was tested with Hydra
    1.3.2 to 1.3.8.

    Args:
        loader: the config loader to wrap.

    Attributes:
        left_out: messages about options that were left out, because only some choices of the sweep
            have them.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._parser = OverridesParser.create(config_loader=loader)
        self.parse = functools.cache(lambda word: self._parser.parse_overrides([word])[0])
        self.is_group = functools.cache(self._is_group)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._reused: dict[tuple[tuple[str, ...], tuple[str, ...]], DictConfig] = {}
        self._others: list[tuple[str, ...]] = []
        self.left_out: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def expect(self, runs: Iterable[Sequence[str]]) -> None:
        """Register all `runs` of the sweep.

        An option that only some choices of the sweep have is then left out of the other runs
        instead of being refused.
        """
        self._others = list(dict.fromkeys(self.groups(run) for run in runs))

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: Sequence[str]
    ) -> DictConfig:
        """Compose the configuration of one run, as Hydra does but without the node ``hydra``.

        Hydra chooses the groups first and then sets values, so that the configuration of one choice
        of groups can be reused for all values.

        Args:
            master_config: the configuration of the sweep, which must be the same in every call.
            sweep_overrides: the overrides of the run.
        """
        overrides = self._parsed(sweep_overrides)
        config = copy.deepcopy(self._without_hydra(master_config, self._chosen(overrides)))
        return self._with_values(config, master_config, overrides)

    def options(self, master: DictConfig, run: Sequence[str]) -> dict[str, Any]:
        """Return the `resolved` options of a run; ``${now:…}`` is the same in every run.

        The runs of a sweep set the same options to different values. The values are therefore set
        in one reused configuration, which is faster than copying it for each of thousands of runs.

        Args:
            master: the configuration of the sweep.
            run: the overrides of the run.
        """
        overrides = self._parsed(run)
        values = [override for override in overrides if not self.chooses(override)]
        groups = self._chosen(overrides)
        key = (groups, tuple(value.key_or_group for value in values))
        if any(isinstance(value.value(), dict) for value in values):  # A dict would be merged.
            config = self.load_sweep_config(master, run)
        else:
            if key not in self._reused:
                self._reused[key] = copy.deepcopy(self._without_hydra(master, groups))
            config = self._with_values(self._reused[key], master, overrides)
        OmegaConf.copy_cache(from_config=master, to_config=config)
        options = resolved(config, run)
        OmegaConf.copy_cache(from_config=config, to_config=master)
        return options

    def _with_values(
        self, config: DictConfig, master: DictConfig, overrides: Sequence[Override]
    ) -> DictConfig:
        """Return `config` with the values that `overrides` set.

        Whatever cannot be set here is left to Hydra, which then composes a new configuration.
        """
        words = [str(word.input_line) for word in overrides]
        groups = self._chosen(overrides)
        for override in overrides:
            if self.chooses(override):
                continue
            if override.is_add() or override.is_delete():
                return self._as_hydra_does(master, words)
            key, adds = override.key_or_group, override.is_force_add()
            option = ".".join(key.split(".")[:2]) if adds else key
            try:
                if override.package is not None:
                    raise ConfigKeyError(str(override.input_line))
                if adds and not _has(config, option):
                    raise ConfigKeyError(str(override.input_line))
                value = override.value()
                OmegaConf.update(config, key, value, merge=True, force_add=adds)
            except (ConfigAttributeError, ConfigKeyError):
                if not self._others_have(master, groups, option):
                    return self._as_hydra_does(master, words)
            except OmegaConfBaseException:
                return self._as_hydra_does(master, words)
        return config

    def with_hydra(self, master: DictConfig, groups: Sequence[str]) -> DictConfig:
        """Return the configuration for a choice of groups, including the node ``hydra``."""
        key = tuple(groups)
        if key not in self._composed:
            composed = self._loader.load_sweep_config(master, list(groups))
            self._composed[key] = composed
        return self._composed[key]

    def chooses(self, override: Override) -> bool:
        """Whether `override` chooses an option of a group, by the same rule as in Hydra."""
        return self.is_group(override.key_or_group) and not isinstance(override.value(), dict)

    def groups(self, overrides: Iterable[str]) -> tuple[str, ...]:
        """Return those `overrides` that choose an option of a group."""
        return self._chosen(self._parsed(overrides))

    def _without_hydra(self, master: DictConfig, groups: tuple[str, ...]) -> DictConfig:
        key = ("", *groups)
        if key not in self._composed:
            plain = copy.deepcopy(self.with_hydra(master, groups))
            with open_dict(plain):
                del plain["hydra"]
            self._composed[key] = plain
        return self._composed[key]

    def _as_hydra_does(self, master: DictConfig, overrides: Sequence[str]) -> DictConfig:
        try:
            composed: DictConfig = self._loader.load_sweep_config(master, list(overrides))
        except HydraException as error:
            error.overrides = overrides  # type: ignore[attr-defined]  # for `explain`
            raise
        with open_dict(composed):
            del composed["hydra"]
        return composed

    def _others_have(self, master: DictConfig, groups: tuple[str, ...], key: str) -> bool:
        """Whether another choice in the sweep has the option `key`, which `groups` do not have."""
        group = key.rpartition(".")[0].replace(".", "/")
        if not self.is_group(group):
            return False
        chosen = self.with_hydra(master, groups).hydra.runtime.choices.get(group)
        for other in self._others:
            config = self.with_hydra(master, other)
            if config.hydra.runtime.choices.get(group) != chosen and _has(config, key):
                word = f"{group}={chosen} has no option {key.rpartition('.')[2]}"
                if word not in self.left_out:
                    self.left_out.append(word)
                return True
        return False

    def _parsed(self, overrides: Iterable[str]) -> list[Override]:
        return [self.parse(word) for word in overrides]

    def _chosen(self, overrides: Iterable[Override]) -> tuple[str, ...]:
        return tuple(str(override.input_line) for override in overrides if self.chooses(override))

    def _is_group(self, key: str) -> bool:
        parent, _, name = key.rpartition("/")
        return name in self._loader.list_groups(parent)


def sweep_loader(hydra_context: HydraContext) -> SweepLoader:
    """Return the config loader of `hydra_context`, wrapped in a `SweepLoader` if it is not yet."""
    if not isinstance(hydra_context.config_loader, SweepLoader):
        loader = SweepLoader(hydra_context.config_loader)
        hydra_context.config_loader = cast("ConfigLoader", loader)
    return cast("SweepLoader", hydra_context.config_loader)


def sources(hydra_overrides: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the arguments that tell a command like this one where to search for configurations.

    Args:
        hydra_overrides: the overrides of Hydra's own options, of which ``hydra.searchpath`` is
            kept.
    """
    words = [f"--config-dir={os.path.abspath(folder)}" for folder in config_dirs(sys.argv[1:])]
    words += [word for word in hydra_overrides if word.startswith("hydra.searchpath=")]
    return tuple(words)


def _has(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent)
    return isinstance(node, DictConfig) and name in node


# ---------------------------------------------------------------------- resolving


def resolved(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Convert the composed `config` of a run to plain dicts, lists, numbers and strings for JSON.

    Interpolations are resolved, text options keep the text that the user typed, and a leading ~ is
    replaced by the home folder.

    Args:
        config: the configuration, without the node ``hydra``. It is modified in place.
        overrides: the overrides that it was composed with.
    """
    keep_text(config, overrides)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): _at_home(value) for key, value in plain.items()}


def restored(options: Mapping[str, Any]) -> Config:
    """Build the validated `Config` from the `resolved` options of a run."""
    return parse_plain(Config, options)


def keep_text(config: DictConfig, overrides: Iterable[str]) -> None:
    """Set the text options of `config` to exactly the text given in `overrides`.

    Hydra reads ``study=1.10`` and ``study=2024_01`` as numbers, which would become 1.1 and 202401.
    """
    for word in overrides:
        override = _override(word)
        text = word.partition("=")[2]
        if override.is_sweep_override() or override.is_delete() or text[:1] in "'\"":
            continue
        value, key = override.value(), override.key_or_group
        if isinstance(value, dict):
            _keep_text_of(config, key, value, text)
            continue
        mangled = isinstance(value, bool | int | float) and str(value) != text
        if not (mangled or (isinstance(value, str) and value == text.strip() != text)):
            continue
        try:
            if _is_text(config, key):
                OmegaConf.update(config, key, text)
        except OmegaConfBaseException:
            continue  # There is no such option; the parser of `config` will report this.


def _keep_text_of(config: DictConfig, key: str, value: Mapping[Any, Any], text: str) -> None:
    """Restore the text of values in the mapping at `key` that Hydra has read as numbers."""
    node = OmegaConf.select(config, key, default=None)
    if not isinstance(node, DictConfig):
        return
    for name, own in re.findall(r"([\w.-]+)\s*:\s*([^\s,:{}\[\]'\"]+)\s*(?=[,}])", text):
        given = value.get(name)
        number = isinstance(given, int | float) and not isinstance(given, bool)
        if number and str(given) != own and name in node:
            with read_write(node):
                node[name] = own


def as_typed(word: str, options: Mapping[str, Any]) -> str:
    """Return the override `word` with its interpolations replaced by the values in `options`."""
    key, _, text = word.partition("=")
    if "${" not in text:
        return word
    value: Any = options
    for part in key.lstrip("+").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, str | int | float):
        return word
    return f"{key}={quoted(value) if isinstance(value, str) else value}"


_parser = functools.cache(OverridesParser.create)


@functools.lru_cache(maxsize=4096)
def _override(word: str) -> Override:
    return _parser().parse_override(word)


def _is_text(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig):
        return False
    schema = OmegaConf.get_type(node)
    if schema is dict:
        target = node.get("_target_")
        if target is None:
            return isinstance(node[name], str)
        schema = get_class(str(target))
    hint = get_type_hints(schema).get(name)
    return hint is str or (str in get_args(hint) and int not in get_args(hint))


def _at_home(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("~"):
        return os.path.expanduser(value)
    if isinstance(value, dict):
        return {key: _at_home(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_at_home(part) for part in value]
    return value
