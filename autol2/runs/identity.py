"""A run's identity: the options that can change its results and that its method uses.

The name of a run's directory ends in the digest of its identity. Whether an option counts is
declared at the option itself (`autol2.component.option`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..component import Component
from ..config import Config, ControlConfig


def identity(config: Config) -> dict[str, Any]:
    """Return the options of `config` that its method uses and that can change a result."""
    return config.identity()


def unused(config: Config, overrides: Sequence[str]) -> list[str]:
    """Return the groups and bounds that `overrides` set but the method of `config` does not use."""
    groups: dict[str, tuple[str, ...]] = {"alpha": ("alpha",), "fixed_lambda": ("fixed_lambda",)}
    groups["protocol"] = ("protocol.lambda_min", "protocol.lambda_max")
    return [
        option
        for group, options in groups.items()
        if group not in config.method.uses
        for option in options
        if any(word.lstrip("+").startswith((f"{option}=", f"{option}.")) for word in overrides)
    ]


def flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested `options` to ``{"method.name": …}``."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def digest(options: dict[str, Any]) -> str:
    """Return a short digest of `options`; equal options have the same digest."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:10]


def run_id(config: Config) -> str:
    """Return the name of the run's directory: readable parts, then the digest of the identity."""
    options = identity(config)
    words = [config.method.name]
    if "alpha" in options:
        words.append(f"a{config.alpha.percent:g}")
    if "fixed_lambda" in options:
        words.append(f"{config.fixed_lambda.value:g}")
    words += _component_words(config, options)
    if config.model.switches_batchnorm:
        words.append("bn" if config.batchnorm.enabled else "nobn")
    if config.protocol.name != "published" and "name" in options["protocol"]:
        words.append(config.protocol.name)
    words += _control_words(config.control)
    words += [f"s{config.seed}", digest(options)]
    return "-".join(words)


def _component_words(config: Config, options: dict[str, Any]) -> list[str]:
    """Return the names of the components that are not the paper's, except for data and method."""
    chosen = [
        getattr(config, option.name)
        for option in fields(config)
        if option.name in options and option.name not in ("method", "data")
    ]
    return [
        task.name
        for task in chosen
        if isinstance(task, Component)
        and not task.usual
        and task.name not in getattr(config.method, "optimizers", ())
    ]


def _control_words(control: ControlConfig) -> list[str]:
    words = []
    if control.pulse_length:
        words.append(f"pulse{control.pulse_height:g}x{control.pulse_length}")
    changed = "" if control.parameters == "all" else f"-{control.parameters}"
    if control.scale != 1:
        words.append(f"scale{control.scale:g}{changed}")
    if control.lr_factor != 1:
        words.append(f"lr{control.lr_factor:g}x{changed}")
    if control.penalized != "all":
        words.append(f"on-{control.penalized}")
    return words
