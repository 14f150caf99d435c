"""Every file under conf/ composes, and what an experiment says that it does is what it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from autol2 import status
from autol2.bench.__main__ import BenchConfig
from autol2.cli.command import CONF, numbers_to_options
from autol2.cli.composition import SweepLoader
from autol2.config import Config, ControlConfig, parse, parse_as
from autol2.replay import ReplayConfig
from autol2.report.__main__ import ReportConfig
from autol2.report.published import published
from autol2.report.stats import fewest_pairs
from autol2.runs.identity import run_id

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
        return compose(name, numbers_to_options(overrides), return_hydra_config=hydra)


def jobs(*overrides: str, seeds: str = "") -> list[Config]:
    """The runs of a sweep, as Hydra's sweeper and our launcher compose them; `seeds` may be others
    than those of the experiment."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
        params = OmegaConf.to_container(cfg.hydra.sweeper.params or {})
        assert isinstance(params, dict)
        params |= {"seed": seeds} if seeds else {}
        loader = GlobalHydra.instance().config_loader()
        parser = OverridesParser.create(config_loader=loader)
        words = [f"{key}={value}" for key, value in params.items()]
        (product,) = BasicSweeper.split_arguments(parser.parse_overrides(words), None)
        sweep = SweepLoader(loader)
        sweep.expect([*overrides, *job] for job in product)
        master = loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)
        return [parse(sweep.load_sweep_config(master, [*overrides, *job])) for job in product]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_composes(name: str) -> None:
    assert isinstance(parse_as(COMMANDS[name], composed(name)), COMMANDS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_composes(name: str) -> None:
    group, _, option = name.removeprefix("hydra/").partition("/")
    group = f"hydra/{group}" if name.startswith("hydra/") else group
    needed = [f"{group}.target=package.module:factory"] if option == "custom" else []
    cfg = composed("config", f"{group}={option}", *needed)
    assert isinstance(parse(cfg), Config)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_composes(name: str) -> None:
    option = name.rpartition("/")[2]
    cfg = composed("config", f"hydra/launcher={option}", hydra=True)
    assert cfg.hydra.launcher._target_.startswith("hydra_plugins.autol2_launchers.Submitit")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name: str) -> None:
    option = name.partition("/")[2]
    cfg = composed("config", f"experiment={option}", hydra=True)
    sweeper = "Search" if option == "search_alpha" else "Grid"
    assert sweeper in cfg.hydra.sweeper._target_
    assert cfg.hydra.sweeper.params
    config = parse(composed("config", f"experiment={option}"))
    assert config.study == option


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_begins_with_its_command(name: str) -> None:
    lines = (CONF / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert f"experiment={name.rpartition('/')[2]}" in lines[1]
    assert lines[1].startswith("# python -m autol2.train -m ")


@pytest.mark.slow
def test_the_papers_twenty_runs() -> None:
    """Ten curves, each without and with batch-norm; the second attempt is another seed."""
    table = published()
    expected = {
        (
            row.method,
            row.batchnorm == "on",
            row.attempt - 1,
            row.alpha if row.method in ("threshold", "combined") else None,
            row.fixed_lambda if row.method == "fixed" else None,
        )
        for row in table.itertuples()
    }
    paper = jobs("experiment=paper")
    found = {
        (
            config.method.name,
            config.batchnorm.enabled,
            config.seed,
            config.alpha.percent if config.method.name in ("threshold", "combined") else None,
            config.fixed_lambda.value if config.method.name == "fixed" else None,
        )
        for config in paper
    }
    assert found == expected
    assert len({run_id(config) for config in paper}) == 20
    assert len({run_id(config) for config in jobs("experiment=paper", "seed=7")}) == 18
    assert all(config.epochs == 200 for config in paper)
    assert all(config.protocol.name == "published" for config in paper)


@pytest.mark.parametrize(
    ("experiment", "option", "count"),
    [
        ("alpha", lambda config: config.alpha.percent, 6),
        ("decay_factor", lambda config: config.method.decay_factor, 4),
        ("lambda_max", lambda config: config.protocol.lambda_max, 3),
        ("converged", lambda config: config.method.raise_when_converged, 3),
    ],
)
def test_future_work_sweeps_what_it_says(
    experiment: str, option: Callable[[Config], float], count: int
) -> None:
    cfg = composed("config", f"experiment={experiment}", hydra=True)
    assert cfg.hydra.sweeper.params.seed == "range(10)"
    configs = jobs(f"experiment={experiment}", seeds="0,9")
    schedules = [config for config in configs if not config.method.baseline]
    fixed = [config for config in configs if config.method.baseline]
    assert len({option(config) for config in schedules}) == count
    assert {config.study for config in configs} == {experiment}
    assert {config.protocol.name for config in configs} == {"corrected"}
    runs = {run_id(config) for config in schedules}
    assert len(runs) == 2 * count * 2  # with and without batch-norm, two seeds
    rivals = {run_id(config): config for config in fixed}
    assert len(rivals) == 2 * 4 * 2
    assert {config.seed for config in rivals.values()} == {config.seed for config in schedules}
    # Every schedule beside every fixed λ: of all p that ten seeds can give, enough are small.
    assert 2 * count * 2 / 2**10 <= 0.05


@pytest.mark.parametrize(
    ("experiment", "comparisons", "seeds"),
    [
        ("demo", 4, range(8)),
        ("explain", 7, range(9)),
        ("paper", 10, range(9)),
        ("original_1c", 1, range(6)),
    ],
)
def test_the_seeds_suffice_for_a_claim(experiment: str, comparisons: int, seeds: range) -> None:
    """As many as the experiment runs, or as its comment asks for, and not more than it takes."""
    cfg = composed("config", f"experiment={experiment}", hydra=True)
    text = (CONF / f"experiment/{experiment}.yaml").read_text()
    own = str(cfg.hydra.sweeper.params.get("seed", ""))
    assert f"range({len(seeds)})" in (own if own.startswith("range") else text)
    compared = {
        run_id(config)
        for config in jobs(f"experiment={experiment}", "seed=0", seeds="0")
        if not config.method.baseline or config.control != ControlConfig()
    }
    assert len(compared) == comparisons
    assert fewest_pairs(comparisons) == len(seeds)


@pytest.mark.parametrize(
    ("experiment", "count"),
    [
        (("original_1a",), 13),  # 200 epochs are 0.1/λ for one λ of seven
        (("original_1b",), 14),
        (("original_1c",), 2),
        (("original_2",), 16),
        (("original_1a", "small"), 7),
        (("original_1b", "small"), 6),
        (("original_1c", "small"), 2),
        (("original_2", "small"), 6),
    ],
)
def test_the_experiments_of_auto_l2s_authors(experiment: tuple[str, ...], count: int) -> None:
    words = [f"experiment={experiment[0]}", *(f"size={size}" for size in experiment[1:])]
    configs = jobs(*words)
    assert len({run_id(config) for config in configs}) == count
    assert {config.study for config in configs} == {"_".join(experiment)}
    small = len(experiment) > 1
    for config in configs:
        assert (config.model.depth, config.model.width) == ((10, 2) if small else (28, 10))  # type: ignore[attr-defined]
        assert config.batchnorm.enabled
        assert config.loss.loss_scale == "mean_over_classes"  # type: ignore[attr-defined]
        assert config.method.measure_every == 10
    if experiment[0] == "original_1a":
        pairs = {(config.fixed_lambda.value, config.epochs) for config in configs}
        assert pairs >= ({(1e-4, 20), (1e-4, 10)} if small else {(1e-3, 100), (1e-3, 200)})
