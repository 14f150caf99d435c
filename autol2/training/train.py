"""Execute one run from its configuration; used by the train command and by sweeps' processes."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import fields

from ..component import Component
from ..config import Config
from ..errors import UserError
from ..runs.code import changed_module
from ..runs.identity import identity, unused
from ..runs.run import Run
from ..runs.state import read_state, summary

LOOKED_AT = 100
"""The largest number of a study's runs to check for other data of the same name."""


def train(config: Config, overrides: Sequence[str] = ()) -> int:
    """Execute the run that `config` describes unless it is finished; return the exit status.

    See `attempt` for the status.

    Args:
        config: the run's configuration.
        overrides: what the user types for it, for messages and run.json.
    """
    run = Run(config, overrides)
    for group in unused(config, overrides):
        print(f"warning: method={config.method.name} does not use {group}")
    if not config.rerun:
        _refuse_other_code(run)
    if run.finished and not config.rerun:
        refuse_other_data(run)
        print(f"{run.folder}: already {summary(run.state)}; rerun=true repeats it")
        return 0
    require_installed(config)
    # Import only now what takes seconds to import.
    from ..data import dataset as data
    from . import hardware
    from .attempt import attempt

    device = hardware.prepare(config)
    found = data.load(config.data)
    _refuse_mixture(run, found.digest)
    return attempt(run, found, device)


def require_installed(config: Config) -> None:
    """Check that the packages that `config` needs are installed on this machine.

    Raises:
        UserError: a package is missing; the message says how to install it.
    """
    for option in fields(config):
        component = getattr(config, option.name)
        if isinstance(component, Component):
            component.require_installed()


def _refuse_mixture(run: Run, digest: str) -> None:
    """Raise a `UserError` if the study has runs on different data with the same name."""
    mine = identity(run.config).get("data")
    with contextlib.suppress(OSError):
        for folder in itertools.islice(run.folder.parent.iterdir(), LOOKED_AT):
            state = read_state(folder)
            there = state.get("data") or {}
            if "digest" not in there or (state.get("identity") or {}).get("data") != mine:
                continue
            if there["digest"] != digest:
                raise UserError(
                    f"{folder} was trained on different data with the same name, from "
                    f"{there.get('root')}: give yours another name with data.name=NAME"
                )
            return


def _refuse_other_code(run: Run) -> None:
    """Raise a `UserError` if the user's code has changed since the run was started."""
    if module := changed_module(run.state, run.config):
        raise UserError(
            f"{run.folder} was trained with an earlier version of {module}: "
            f"rerun=true repeats it, study=NAME keeps it and starts a new one"
        )


def refuse_other_data(run: Run) -> None:
    """Raise a `UserError` if a finished run used other data or code than it would use now.

    Data that no longer exist are not compared.

    Raises:
        UserError: the finished `run` was made from other data, or with other code.
    """
    _refuse_other_code(run)
    recorded, source = run.state.get("data") or {}, run.config.data
    if not recorded.get("digest"):
        return
    same_place = recorded.get("root") == (str(source.place) if source.place else None)
    # it is gone, or hidden from us
    if same_place and source.place and not os.path.exists(source.place):
        return
    if not source.holds(recorded["digest"]):
        where = "which were in the same folder" if same_place else f"from {recorded.get('root')}"
        raise UserError(
            f"{run.folder} was trained on different data, {where}: "
            f"give yours another name with data.name=NAME"
        )
