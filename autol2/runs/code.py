"""Digests of the user's own source files, which influence a run's results."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..component import Component
from ..config import Config

PACKAGE = __name__.partition(".")[0]


def own_code(config: Config) -> dict[str, str]:
    """Return a digest of each of the user's source files that `config` names, by module.

    These are the modules of components and of each ``target``, but not what they import.
    """
    found = {}
    for name in sorted(set(_modules(config))):
        try:
            spec = importlib.util.find_spec(name)
        except Exception:  # whatever imports it will report the error
            continue
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            content = Path(spec.origin).read_bytes()
            found[name] = hashlib.sha256(content).hexdigest()[:10]
    return found


def changed_module(state: Mapping[str, Any], config: Config) -> str:
    """Return a user's module that has changed since run.json was written; empty if none has."""
    before = state.get("code") or {}
    now = own_code(config).items()
    return next((name for name, digest in now if before.get(name, digest) != digest), "")


def _modules(config: Config) -> Iterator[str]:
    for option in fields(config):
        component = getattr(config, option.name)
        if isinstance(component, Component):
            named = (type(component).__module__, str(getattr(component, "target", "")))
            for module in (name.partition(":")[0] for name in named):
                if module and module.partition(".")[0] != PACKAGE:
                    yield module
