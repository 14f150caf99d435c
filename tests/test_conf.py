"""Every file under conf/ composes, and what an experiment says that it does is what it does."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from autol2 import status
from autol2.bench.case import BenchConfig
from autol2.cli import CONF, numbers_to_knobs
from autol2.config import Config, parse
from autol2.replay import ReplayConfig
from autol2.report.__main__ import ReportConfig

FILES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*.yaml"))
COMMANDS: dict[str, type] = {
    "config": Config,
    "bench": BenchConfig,
    "replay": ReplayConfig,
    "report": ReportConfig,
    "status": status.StatusConfig,
}
"""Primary configurations and their schemas."""
EXPERIMENTS = [name for name in FILES if name.startswith("experiment/")]
LAUNCHERS = [name for name in FILES if name.startswith("hydra/launcher/")]
ARMS = [name for name in FILES if name.startswith("arm/")]
OPTIONS = [
    name for name in FILES if "/" in name and name not in LAUNCHERS and name not in EXPERIMENTS
]


def composed(name: str, *overrides: str, hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, numbers_to_knobs(overrides), return_hydra_config=hydra)


def jobs(*overrides: str) -> list[Config]:
    """The runs of a sweep, as Hydra's sweeper and our launcher compose them."""
    parser = OverridesParser.create()
    cfg = composed("config", *overrides, hydra=True)
    params = OmegaConf.to_container(cfg.hydra.sweeper.params or {})
    assert isinstance(params, dict)
    words = [f"{key}={value}" for key, value in params.items()]
    loader = _loader()
    parsed = parser.parse_overrides(words)
    for override in parsed:
        override.config_loader = loader
    (product,) = BasicSweeper.split_arguments(parsed, None)
    return [parse(composed("config", *overrides, *job)) for job in product]
