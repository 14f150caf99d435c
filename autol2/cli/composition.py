"""Composing the runs of a sweep, from YAML files only once for each choice of groups.

Hydra composes each run anew, twice and for 0.15 s, which is minutes for a study of hundreds.
"""

from __future__ import annotations

import copy
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict


class SweepLoader:
    """A config loader of Hydra's, with a faster `load_sweep_config`."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._parser = OverridesParser.create(config_loader=loader)
        self._is_group: dict[str, bool] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """What Hydra's own gives, without ``hydra``, which is the sweep's and not a run's.

        Hydra chooses groups first, and then sets values; so one choice serves all their values.

        Args:
            master_config: the sweep's configuration, always the same one.
            sweep_overrides: of one run.
        """
        overrides = self._parser.parse_overrides(sweep_overrides)
        groups = tuple(str(one.input_line) for one in overrides if self._chooses(one))
        if groups not in self._composed:
            composed = self._loader.load_sweep_config(master_config, list(groups))
            with open_dict(composed):
                del composed["hydra"]
            self._composed[groups] = composed
        config = copy.deepcopy(self._composed[groups])
        values = [one for one in overrides if not self._chooses(one)]
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        return config

    def _chooses(self, override: Override) -> bool:
        """Whether it chooses from a group, by Hydra's own rule."""
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = self._loader.repository.group_exists(key)
        return self._is_group[key] and not isinstance(override.value(), dict)
