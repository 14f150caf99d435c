"""The user's own source files that a run is made with, which change its numbers."""

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
    """A digest of each source file of the user's that `config` names, by module.

    That is of a component's class and of a ``target``; not of what these import.
    """
    found = {}
    for name in sorted(set(_modules(config))):
        try:
            spec = importlib.util.find_spec(name)
        except Exception:  # what imports it will say so
            continue
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            content = Path(spec.origin).read_bytes()
            found[name] = hashlib.sha256(content).hexdigest()[:10]
    return found


def changed_module(state: Mapping[str, Any], config: Config) -> str:
    """A module of the user's that has changed since run.json was written; empty if none has."""
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
