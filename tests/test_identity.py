"""What makes two runs the same, walked through option for option.

Every option changes the directory of a run, or says at itself why it cannot change a number.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from autol2.cli.command import CONF
from autol2.component import NEUTRAL, NO_EFFECT, Component, Options, locate
from autol2.config import Config, parse
from autol2.recipe.optimizers.sgd import SGD
from autol2.rules.paper_methods import Advance
from autol2.runs.identity import run_id

BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("CPR", "kappa_init_param"): {"kappa_init": "uniform"},
    ("ControlConfig", "parameters"): {"scale": 2.0},
    ("ControlConfig", "pulse_height"): {"pulse_length": 3},
}
"""Options that count beside another one only, and a value of that one."""


def another(value: Any) -> Any:
    """A value that is not `value`; whether it makes sense does not matter to an identity."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 1.5 if math.isinf(value) else value + 1
    if isinstance(value, list):
        return [*value, 1]
    if isinstance(value, dict):
        return {**value, "another": 1}
    return f"{value or ''}x"


def components() -> list[type[Component]]:
    """The classes that the files of conf/ name."""
    texts = "\n".join(path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml"))
    targets = sorted(set(re.findall(r"_target_: (autol2\.\S+)", texts)))
    return [locate(target, "conf", Component) for target in targets]


def bare(kind: type[Options]) -> Options:
    """One with its defaults, unchecked: what its class needs may not be installed."""
    made = object.__new__(kind)
    for one in fields(kind):
        value: Any = "x"
        if one.default_factory is not dataclasses.MISSING:
            value = one.default_factory()
        elif one.default is not dataclasses.MISSING:
            value = one.default
        setattr(made, one.name, value)
    return made


def groups() -> list[type[Options]]:
    """The groups of options of a run that are no components."""
    config = composed("method=fixed")
    values = (getattr(config, one.name) for one in fields(Config))
    return [type(one) for one in values if isinstance(one, Options)]


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", list(overrides)))


KINDS = [*components(), *(kind for kind in groups() if not issubclass(kind, Component))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_options_of_a_group(kind: type[Options]) -> None:
    for one in fields(kind):
        made = bare(kind)
        for name, value in BESIDE.get((kind.__name__, one.name), {}).items():
            setattr(made, name, value)
        before = made.identity()
        changed = copy.copy(made)
        setattr(changed, one.name, another(getattr(made, one.name)))
        if reason := one.metadata.get(NO_EFFECT):
            assert len(reason.split()) > 2
            assert changed.identity() == before, one.name
            continue
        assert changed.identity() != before, one.name
        if NEUTRAL in one.metadata:
            setattr(changed, one.name, one.metadata[NEUTRAL])
            assert one.name not in changed.identity()
            default = getattr(bare(kind), one.name)
            assert default == one.metadata[NEUTRAL], "older runs would be renamed"


def variants(value: Any) -> Iterator[Any]:
    """Values of an option of a run that are not `value`, each in a way of its own."""
    if not isinstance(value, Options):
        yield another(value)
        return
    for one in fields(value):
        if NO_EFFECT not in one.metadata:
            changed = copy.copy(value)
            setattr(changed, one.name, another(getattr(value, one.name)))
            if changed.identity() != value.identity():  # see BESIDE
                yield changed


@pytest.mark.parametrize(
    ("method", "unused"),
    [("combined", {"fixed_lambda"}), ("fixed", {"alpha"}), ("threshold", {"fixed_lambda"})],
)
def test_options_of_a_run(method: str, unused: set[str]) -> None:
    config = composed(f"method={method}")
    name = run_id(config)
    for one in fields(Config):
        for value in variants(getattr(config, one.name)):
            changed = copy.copy(config)
            setattr(changed, one.name, value)
            if one.name in unused or NO_EFFECT in one.metadata:
                assert run_id(changed) == name, one.name
            elif one.name == "protocol" and "protocol" not in config.method.uses:
                differs = value.initialization != config.protocol.initialization
                assert (run_id(changed) != name) == differs
            else:
                assert run_id(changed) != name, one.name


def test_every_choice_of_a_group_is_another_run() -> None:
    """But for where a run is shown, which is no part of it."""
    names = [path.stem for path in sorted((CONF / "lr_schedule").glob("*.yaml"))]
    assert len({run_id(composed(f"lr_schedule={name}")) for name in names}) == len(names)
    names = [path.stem for path in sorted((CONF / "logger").glob("*.yaml"))]
    assert len({run_id(composed(f"logger={name}")) for name in names}) == 1


def test_a_neutral_component_leaves_the_name_as_it_is() -> None:
    spelled = ("augmentation=none", "lr_schedule=constant", "loss=cross_entropy")
    assert run_id(composed(*spelled)) == run_id(composed())


def test_a_class_from_outside_counts_by_its_full_path() -> None:
    """Two networks of two users that have the same name are not the same."""

    @dataclasses.dataclass
    class Own(Component):
        size: int = 3

    assert Own.name == "own"
    name = Own().identity()["name"]
    assert name.startswith("tests.test_identity.")
    assert name.endswith(".Own")


def test_a_method_of_ones_own_that_is_derived_from_one_of_the_papers() -> None:
    """It applies that one's rule, and is called what it is called itself."""

    @dataclasses.dataclass
    class Slower(Advance):
        cooldown: float = 1.0

    config = composed("method=advance")
    own = copy.copy(config)
    own.method = Slower()
    assert own.rule() == dataclasses.replace(config.rule(), cooldown=1.0)
    assert (own.method.name, own.method.label) == ("slower", "slower")
    assert run_id(own).startswith("slower-")


def test_only_the_papers_choices_are_not_told_in_a_directorys_name() -> None:
    """A class of one's own that is derived from one of them is."""

    @dataclasses.dataclass
    class Clipped(SGD):
        norm: float = 1.0

    config = composed("method=advance")
    assert run_id(config).startswith("advance-nobn-s0-")
    own = copy.copy(config)
    own.optimizer = Clipped()
    assert run_id(own).startswith("advance-clipped-nobn-s0-")
