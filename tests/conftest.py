"""What the tests share: running the commands as a user does, and a rule about skips."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from xdist.scheduler import LoadScopeScheduling

from autol2.cli.command import CONF
from autol2.cli.overrides import numbers_to_options
from autol2.config import Config, parse

from . import cluster
from .forkserver import ForkServer

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"
"""Recordings and images that are not part of the project."""

SMALL = (
    "data=digits",
    "model.width=4",
    "model.hidden=8",
    "epochs=2",
    "batch_size=64",
    "threads=1",
)
"""A run that takes a moment."""

APART = ("test_resume.py", "test_launch.py", "test_train.py", "test_imagefolder.py")
"""Files whose tests have little in common and take long: any worker takes any of them."""

Command = Callable[..., subprocess.CompletedProcess[str]]


def composed(*words: str) -> Config:
    """The configuration of ``python -m autol2.train`` with these words."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse(compose("config", numbers_to_options(words)))


def distance(one: Tensor, exact: Tensor) -> float:
    """‖one − exact‖ / ‖exact‖, in the precision of `exact`."""
    return float(((one.to(exact.dtype) - exact).norm() / exact.norm()).detach())


def pytest_configure() -> None:
    """A shell ignores SIGINT for what it starts in the background, and that would be inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Under AUTOL2_NO_SKIPS=1 a skipped test has failed."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("AUTOL2_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped where it should run: {report.longrepr}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, so that the workers end together."""
    longest = (
        "test_slurm.py",
        "test_slurm_jobs.py",
        "test_resume.py",
        "test_launch.py",
        "test_train.py",
        "test_peers.py",
    )
    place = {name: number for number, name in enumerate(longest)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


class Sharing(LoadScopeScheduling):
    """A worker takes a whole file, whose tests have fixtures in common, or one test of `APART`."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return nodeid if Path(path).name in APART else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return Sharing(config, log)


@functools.cache
def forkserver() -> ForkServer:
    """Where commands are forked off, so that they need not import torch again."""
    return ForkServer(PROJECT)


def pytest_unconfigure() -> None:
    if forkserver.cache_info().currsize:
        forkserver().close()


def run_module(
    module: str, *arguments: str, timeout: float = 300, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m <module>`` from the project's root.

    The process is forked off one that has imported torch. Where `env` has a variable for Python
    itself (PYTHON…) or for the threads' libraries, it is one from the start. MODULES stands for a
    PYTHONPATH that has nothing that matters to that.
    """
    whole = {**os.environ, "COLUMNS": "200", **env}
    if modules := env.get("MODULES"):
        whole["PYTHONPATH"] = modules
    if not any(key.startswith(("PYTHON", "OMP_", "MKL_")) for key in env):
        return forkserver().run(module, arguments, PROJECT, whole, timeout)
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        env=whole,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_autol2(
    name: str, outputs: Path, *arguments: str, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m autol2.<name>`` from the project's root; see `run_module`."""
    return run_module(f"autol2.{name}", *arguments, f"outputs={outputs}", timeout=timeout)


def few(cases: Iterable[Any], quick: int) -> list[Any]:
    """Parameters of a test that is long with all of `cases`: the first `quick`, the others slow."""
    return [
        case if i < quick else pytest.param(*_together(case), marks=pytest.mark.slow)
        for i, case in enumerate(cases)
    ]


def _together(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    """A run with ``threads=`` in the tests' own process does not change those of the next test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2], ids=lambda threads: f"{threads}_threads")
def threads(request: pytest.FixtureRequest) -> None:
    """So many for PyTorch's sums: they are split up differently."""
    torch.set_num_threads(request.param)


@pytest.fixture
def unheeded() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def run_command(tmp_path: Path) -> Command:
    """Run ``python -m autol2.<name>`` from the project's root, with ``outputs=`` in `tmp_path`.

    See `run_module` for the process.
    """

    def run(
        name: str, *arguments: str, outputs: Path | None = None, timeout: float = 300, **env: str
    ) -> subprocess.CompletedProcess[str]:
        alone = name == "replay" or "-sc" in arguments
        where = () if alone else (f"outputs={outputs or tmp_path / 'outputs'}",)
        return run_module(f"autol2.{name}", *arguments, *where, timeout=timeout, **env)

    return run


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    if why := cluster.missing():
        pytest.skip(why)
    with cluster.running(tmp_path_factory.mktemp("slurm") / "cluster") as one:
        yield one
