"""Sweeps are composed as Hydra composes them, and faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict

from autol2.cli.command import CONF
from autol2.cli.composition import SweepLoader, resolved
from autol2.config import parse

MASTER = ("experiment=paper", "hydra.launcher.dry_run=true", "lr=0.5")


@pytest.fixture
def loader() -> Iterator[Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture
def master(loader: Any) -> DictConfig:
    return compose("config", list(MASTER), return_hydra_config=True)


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=paper", "arm=advance", "batchnorm=on", "seed=3"],
        ["seed=3", "experiment=paper", "batchnorm=off", "arm=fixed_5e-4", "epochs=7"],
        ["arm=explain/pulse", "control.pulse_height=2", "protocol=corrected"],
        [
            "method=combined",
            "method.measure_every=7",
            "alpha.percent=0.5",
            "data=digits",
            "data.mean=0",
        ],
        ["method=threshold", "alpha=ten", "alpha.percent=3"],
        ["protocol={lambda_max:1}", "++method.cooldown=3", "++lr=0.25", "data.root=null"],
        ["model=custom", "model.target=a:b", "++model.options={a:1}", "++model.options.b=2"],
        ["data=imagefolder", "data.root='/a b/c'", "study=x-1"],
        [],
    ],
)
def test_as_hydra_composes(loader: Any, master: DictConfig, overrides: list[str]) -> None:
    fast = SweepLoader(loader)
    for _ in range(2):  # the second time from what is kept
        ours = fast.load_sweep_config(master, list(overrides))
        theirs = loader.load_sweep_config(master, list(overrides))
        with open_dict(theirs):
            del theirs["hydra"]
        assert parse(ours) == parse(theirs)
        assert OmegaConf.to_yaml(ours) == OmegaConf.to_yaml(theirs)
        ours.lr = 123  # which must not reach the next one
        assert fast.options(master, overrides) == resolved(theirs, overrides)


@pytest.mark.parametrize(
    "overrides",
    [["arm=nonsense"], ["nonsense=3"], ["seed=many"], ["+seed=3"], ["~nonsense"], ["a@b=c"]],
)
def test_refuses_what_hydra_refuses(loader: Any, master: DictConfig, overrides: list[str]) -> None:
    messages = []
    for one in (loader, SweepLoader(loader)):
        with pytest.raises(ConfigCompositionException) as caught:
            one.load_sweep_config(master, list(overrides))
        messages.append((type(caught.value), str(caught.value), str(caught.value.__cause__)))
    assert messages[0] == messages[1]


def test_one_composition_for_each_choice_of_groups(loader: Any, master: DictConfig) -> None:
    spy = Mock(wraps=loader)
    fast = SweepLoader(spy)
    for seed in range(5):
        for arm in ("advance", "auto_l2"):
            fast.load_sweep_config(master, [f"arm={arm}", f"seed={seed}", f"lr={0.1 + seed}"])
    assert spy.load_sweep_config.call_count == 2
    assert fast.get_search_path() == loader.get_search_path()


def test_one_runs_options_do_not_reach_the_next(loader: Any, master: DictConfig) -> None:
    """Also where lists, dicts and text are set again, and where a run sets other options."""
    runs = [
        ["method=combined", "seed=1", "study=1.10", "data.mean=[0.1,0.2,0.3]"],
        ["method=combined", "seed=2", "study=2.0", "data.mean=0.5"],
        ["method=combined", "seed=3"],
        ["model=custom", "model.target=a:b", "++model.options={a:1}"],
        ["model=custom", "model.target=a:b", "++model.options.b=2"],
        ["method=auto_l2", "seed=1", "study=1.10"],
    ]
    fast = SweepLoader(loader)
    for run in [*runs, *reversed(runs)]:
        assert fast.options(master, run) == SweepLoader(loader).options(master, run)
    assert fast.options(master, runs[0])["study"] == "1.10"
    assert fast.options(master, runs[4])["model"]["options"] == {"b": 2}
