"""``--help`` explains every option, and shows the values that a command would run with."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest
import yaml

from autol2.bench.__main__ import BenchConfig
from autol2.cli.command import CONF
from autol2.cli.help import docstrings
from autol2.component import Component, locate
from autol2.config import Config
from autol2.replay import ReplayConfig
from autol2.report.__main__ import ReportConfig
from autol2.status import StatusConfig
from autol2.sweeps.local_launcher import LocalConf
from autol2.sweeps.slurm_launcher import SlurmConf

from .conftest import PROJECT, Command


def sections(text: str) -> dict[str, str]:
    """What stands below each heading, by the heading's first words."""
    _, *parts = text.split("\n== ")
    return {
        heading.partition(":")[0]: body.rpartition("\n--cfg")[0] or body
        for heading, _, body in (part.partition(" ==\n") for part in parts)
    }


def without_targets(options: Any) -> Any:
    """`options` less the classes that they stand for, which are no options."""
    if not isinstance(options, dict):
        return options
    return {key: without_targets(one) for key, one in options.items() if key != "_target_"}


def components() -> list[type[Component]]:
    """The classes that the files of conf/ name."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(CONF.rglob("*.yaml"))]
    targets = re.findall(r"_target_: (autol2\.\S+)", "\n".join(texts))
    return [locate(target, "conf", Component) for target in targets]


@pytest.mark.parametrize(
    "schema",
    [
        *components(),
        Config,
        BenchConfig,
        StatusConfig,
        ReportConfig,
        ReplayConfig,
        LocalConf,
        SlurmConf,
    ],
)
def test_every_option_is_explained(schema: Any) -> None:
    assert (schema.__doc__ or "").strip()
    types = get_type_hints(schema)
    for field in fields(schema):
        if is_dataclass(types[field.name]):
            test_every_option_is_explained(types[field.name])
        elif not field.name.startswith("_"):
            assert docstrings(schema).get(field.name), f"{schema.__name__}.{field.name}"


@pytest.mark.parametrize(
    ("command", "overrides"),
    [("train", ("method=combined", "alpha=7", "lr=0.3")), ("replay", ()), ("status", ())],
)
def test_values_are_those_of_the_command(
    run_command: Command, command: str, overrides: tuple[str, ...]
) -> None:
    shown = run_command(command, *overrides, "--help", COLUMNS="90")
    printed = run_command(command, *overrides, "--cfg", "job")
    assert shown.returncode == printed.returncode == 0
    options = yaml.safe_load(sections(shown.stdout)["Options"])
    assert options == without_targets(yaml.safe_load(printed.stdout))
    assert max(map(len, shown.stdout.splitlines())) <= 100
    assert "``" not in shown.stdout


def test_groups_and_launchers(run_command: Command) -> None:
    local = sections(run_command("train", "--help").stdout)
    slurm = sections(run_command("train", "--help", "-m", "hydra/launcher=nyu_greene").stdout)
    status = sections(run_command("status", "--help").stdout)
    groups = dict(line.split(maxsplit=1) for line in local["Groups"].splitlines() if line.strip())
    assert groups["batchnorm=off"] == "off, on"
    assert groups["method=auto_l2"].split(", ")[:3] == ["advance", "auto_l2", "combined"]
    assert groups["hydra/launcher=submitit_local"].startswith("nyu_greene, ")
    assert "n_jobs: 0  " in local["Options of the sweep launcher"]
    assert "gres: gpu:1  " in slurm["Options of the sweep launcher"]
    assert set(status) == {"Options"}


def test_a_reader_that_leaves() -> None:
    """``| head`` is no error of the program."""
    with subprocess.Popen(
        [sys.executable, "-m", "autol2.train", "--help"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141
