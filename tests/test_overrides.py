"""The words of a command line before Hydra reads them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from argparse import Action
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from autol2.cli import flags
from autol2.cli.composition import as_typed, keep_text, sources
from autol2.cli.overrides import numbers_to_options, one_by_one, prepared, quoted
from autol2.errors import UserError
from autol2.status import StatusConfig

from .conftest import few

BIN = Path(sys.executable).parent


def read(word: str) -> Any:
    return OverridesParser.create().parse_override(word).value()


def test_hydras_flags_are_those_that_are_known() -> None:
    actions: list[Action] = get_args_parser()._actions
    known = {*flags.VALUES, *flags.FIXED, *flags.CHOICES, *flags.SWITCHES, *flags.LONG}
    known.add("--experimental-rerun")
    assert {name for one in actions for name in one.option_strings} == known
    for one in actions:
        for name in one.option_strings:
            if name in flags.CHOICES:
                assert tuple(one.choices or ()) == flags.CHOICES[name] or one.nargs == "?"
            elif name in (*flags.VALUES, *flags.FIXED):
                assert one.nargs is None
            elif name in flags.SWITCHES:
                assert one.nargs == 0


@pytest.mark.parametrize(
    "value",
    [
        "run(1).csv",
        "it's",
        "a#b",
        "node[01-03]",
        "epoch=3/x",
        "a{b",
        "(",
        'say "it"',
        "a:b,c(",
        "[",
    ],
)
def test_what_hydra_would_misread_comes_back_quoted(value: str) -> None:
    """The whole command, which reads as what was meant."""
    with pytest.raises(UserError) as caught:
        prepared(["-m", "seed=1", f"data.root={value}", "lr=0.1"])
    line = str(caught.value)
    assert "\n" not in line
    mended = shlex.split(line[line.index("python -m ") :])
    assert mended[3:5] == ["-m", "seed=1"]
    assert mended[-1] == "lr=0.1"
    assert read(mended[-2]) == value


@given(st.text(st.characters(exclude_categories=["C"], exclude_characters="$"), min_size=1))
def test_quoted_text_is_read_as_it_is(text: str) -> None:
    assert read(f"key={quoted(text)}") == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["T =3"], "'T =3' is not a valid option"),
        ([" lr=3"], "is not a valid option"),
        (["lr"], "'lr' is not a valid option: options are written as NAME=VALUE"),
        (["=3"], "is not a valid option"),
        (["alpha@x=5"], "the name has no spaces or @"),
        (["~epochs"], "~epochs: options cannot be deleted; give epochs another value"),
        (["~method=fixed"], "options cannot be deleted"),
        (["alpha=[5]"], "alpha is a number or a name"),
        (["alpha={a:1}"], "alpha is a number or a name"),
        (["-m", "alpha=[5],[10]"], "alpha is a number or a name"),
        (["method=[fixed,auto_l2]"], "method takes one name; to use several in turn"),
        (["-m", "experiment=[alpha,decay_factor]"], "experiment takes one name"),
        (["-m", "method=[fixed],auto_l2"], "method takes one name"),
        (["-m", "hydra/launcher=[submitit_local]"], "hydra/launcher takes one name"),
        (["-m", "alpha=5,five"], "mixes numbers and names"),
        (["outputs=\udcff"], r"outputs=\xff is not valid UTF-8"),
        (["--experimental-rerun", "x"], "the same command again does what is missing"),
        (["--experimental-rerun=x"], "the same command again does what is missing"),
        (["-m", "--cfg", "job"], "-m and --cfg cannot be combined"),
        (["-m", "--info"], "cannot be combined: use one"),
        (["-m", "--cfg=job"], "-m and --cfg=job cannot be combined"),
        (["-c", "job", "--info", "config"], "cannot be combined: use one"),
        (["--nonsense"], "there is no flag --nonsense"),
        (["-x=3"], "there is no flag -x=3"),
        (["--cfg"], "--cfg needs a value"),
        (["lr=1", "--config-dir"], "--config-dir needs a value"),
        (["--cfg", "jobs"], "--cfg jobs is not one of job, hydra, all"),
    ],
)
def test_refused_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        prepared(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["epochs=3", "--info", "config"], ["--info", "config", "epochs=3"]),
        (["epochs=3", "--info"], ["--info=all", "epochs=3"]),
        (["--info", "epochs=3"], ["--info=all", "epochs=3"]),
        (["-i", "-cd", "x"], ["--info=all", "-cd", "x"]),
        (["lr=1", "-cd", "x", "-m"], ["-cd", "x", "-m", "lr=1"]),
        (["lr=1", "--config-dir=x"], ["--config-dir=x", "lr=1"]),
        (["alpha=10", "alpha=five"], ["alpha=five"]),
        (["alpha=five", "alpha=10"], ["alpha=five", "alpha.percent=10"]),
        (["alpha=five", "alpha.percent=3"], ["alpha=five", "alpha.percent=3"]),
        (["alpha.percent=3", "alpha=five"], ["alpha=five"]),
        (["alpha=1", "alpha.percent=3"], ["alpha.percent=3"]),
        (["fixed_lambda=1e-4", "lr=1", "fixed_lambda=weak"], ["lr=1", "fixed_lambda=weak"]),
        (["-m", "outputs=ü,ö"], ["-m", 'outputs="ü","ö"']),
        (["outputs=ü"], ['outputs="ü"']),
        (["-m", "outputs=a,ö"], ["-m", 'outputs=a,"ö"']),
        (["hydra/sweeper=optuna"], ["hydra/sweeper=search"]),
        (["method.k=7"], ["method.measure_every=7"]),
        (["-m", "method.k=1,2"], ["-m", "method.measure_every=1,2"]),
        (["-m", "method.cooldown=3"], ["-m", "method.cooldown=choice(3)"]),
        (["-m", "hydra.launcher.n_jobs=3"], ["-m", "hydra.launcher.n_jobs=3"]),
        (["-m", "seed=3"], ["-m", "seed=3"]),
    ],
)
def test_made_ready(arguments: list[str], expected: list[str]) -> None:
    assert prepared(arguments) == expected


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/at/home")
    assert prepared(["outputs=~/x"]) == ['outputs="/at/home/x"']
    assert prepared(["outputs=~"]) == ['outputs="/at/home"']
    both = ["-m", 'data.root="/at/home/a","/at/home/b"']
    assert prepared(["-m", "data.root=~/a,~/b"]) == both


@pytest.mark.parametrize(
    "text",
    ["2024_01", "1.10", "1.1", "1e3", "1_0", "0x10", "007", "true", "TRUE", "inf", "-0", "5"],
)
def test_text_stays_as_it_was_typed(text: str) -> None:
    """What YAML and Hydra read as numbers, for an option that is text; and numbers stay numbers."""
    config = OmegaConf.structured(StatusConfig)
    override = OverridesParser.create().parse_override(f"study={text}")
    OmegaConf.update(config, "study", override.value())
    keep_text(config, [f"study={text}", "every=1e1"])
    assert config.study == text
    assert config.every == 5.0


def test_null_and_quotes_are_hydras() -> None:
    config = OmegaConf.structured(StatusConfig)
    keep_text(config, ["study=null", "outputs='1.10'", "outputs=a,b"])
    assert config.study is None
    assert config.outputs == "outputs"


def test_a_component_of_a_users_own_keeps_text_too() -> None:
    config = OmegaConf.create(
        {"data": {"_target_": "autol2.status.StatusConfig", "study": 1.1, "every": 1.1}}
    )
    keep_text(config, ["data.study=1.10", "data.every=1.10", "data.nonsense=1.10"])
    assert config.data.study == "1.10"
    assert config.data.every == 1.1


def test_a_command_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "-m", "-cd", "conf", "--config-dir=more", "seed=1"])
    assert sources(["hydra.searchpath=[x]", "hydra.verbose=true"]) == (
        f"--config-dir={os.getcwd()}/conf",
        f"--config-dir={os.getcwd()}/more",
        "hydra.searchpath=[x]",
    )
    options = {"study": "m-12", "lr": 0.1, "data": {"root": "/a b"}}
    assert as_typed("study=m-${now:%H}", options) == 'study="m-12"'
    assert as_typed("+data.root=${x}", options) == '+data.root="/a b"'
    assert as_typed("lr=${x}", options) == "lr=0.1"
    assert as_typed("lr=0.2", options) == "lr=0.2"


def test_arguments_of_a_users_own_have_any_name() -> None:
    """As the help has it: model.options={depth:3}; no file lists depth."""
    words = ["model.options={depth:3}", "data.options.a.b=1", "++model.options.c=1", "lr=1"]
    ready = ["++model.options={depth:3}", "++data.options.a.b=1", "++model.options.c=1", "lr=1"]
    assert prepared(words) == ready


def test_options_of_groups_are_choices_of_one() -> None:
    kept = ["lr=1", "a.b='x,y'", "a.b=1,2", "a.b={c:1}", "a.b=${c}", "hydra/launcher=x", "a/b=c"]
    assert one_by_one(kept) == kept
    assert one_by_one(["a.b=1.10", "x/y.z=w"]) == ["a.b=choice(1.10)", "x/y.z=choice(w)"]


def test_numbers_for_groups() -> None:
    given = ["alpha=0,5", "alpha=range(0,9,3)", "alpha=interval(0,20)", "alpha=five"]
    assert numbers_to_options(given) == [
        *(word.replace("alpha", "alpha.percent") for word in given[:3]),
        "alpha=five",
    ]


@pytest.mark.parametrize(
    ("typed", "said"),
    few(
        [
            (["-m", "autol2.status", "-m"], "-m: autol2.status makes no sweeps"),
            (["-m", "autol2.report", "study=a,b"], "python -m autol2.report 'study=\"a,b\"'"),
            (
                ["-m", "cProfile", "-m", "autol2.train", "seed=0,1"],
                "python -m autol2.train -m seed=0,1",
            ),
            (["-m", "cProfile", "-m", "autol2.status", "-m"], "-m: autol2.status makes no sweeps"),
            ([str(BIN / "autol2-status"), "-m"], "-m: autol2.status makes no sweeps"),
            ([str(BIN / "autol2-report"), "study=a,b"], "python -m autol2.report 'study=\"a,b\"'"),
            ([str(BIN / "autol2-replay"), "trace=a,b"], "python -m autol2.replay 'trace=\"a,b\"'"),
        ],
        3,
    ),
)
def test_a_command_knows_its_name(tmp_path: Path, typed: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, *typed], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == (0 if "cProfile" in typed else 2)  # a profiler ends well
    assert done.stderr.strip().endswith(said)
