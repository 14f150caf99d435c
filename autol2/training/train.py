"""One run, from its configuration to its end: what a command does, and each process of a sweep."""

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
"""Runs of a study that are looked at for one on data of the same name."""


def train(config: Config, overrides: Sequence[str] = ()) -> int:
    """Do the run that `config` describes, unless it is done; the exit status (see `attempt`).

    Args:
        config: the run.
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
    # Only now what takes seconds to import.
    from ..data import dataset as data
    from . import hardware
    from .attempt import attempt

    device = hardware.prepare(config)
    found = data.load(config.data)
    _refuse_mixture(run, found.digest)
    return attempt(run, found, device)


def require_installed(config: Config) -> None:
    """Refuse what needs a package that is not on this machine.

    Raises:
        UserError: it says which, and how to install it.
    """
    for option in fields(config):
        component = getattr(config, option.name)
        if isinstance(component, Component):
            component.require_installed()


def _refuse_mixture(run: Run, digest: str) -> None:
    """Refuse to do a run beside runs on other data that are called the same."""
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
    """Refuse to go on with a run, or to pass off its result, when the user's code has changed."""
    if module := changed_module(run.state, run.config):
        raise UserError(
            f"{run.folder} was trained with an earlier version of {module}: "
            f"rerun=true repeats it, study=NAME keeps it and starts a new one"
        )


def refuse_other_data(run: Run) -> None:
    """Refuse to pass off a result as that of other images, unless those are gone, or other code.

    Raises:
        UserError: the finished `run` was made from other data, or with other code.
    """
    _refuse_other_code(run)
    recorded, source = run.state.get("data") or {}, run.config.data
    if not recorded.get("digest"):
        return
    same_place = recorded.get("root") == (str(source.place) if source.place else None)
    if same_place and source.place and not os.path.exists(source.place):  # nor to be seen by us
        return
    if not source.holds(recorded["digest"]):
        where = "which were in the same folder" if same_place else f"from {recorded.get('root')}"
        raise UserError(
            f"{run.folder} was trained on different data, {where}: "
            f"give yours another name with data.name=NAME"
        )
