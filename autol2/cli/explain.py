"""One-line explanations of errors from Hydra and OmegaConf that the user has caused.

These errors have no structured fields, so their messages are parsed, and only in this module.
Tested with Hydra 1.3.2 to 1.3.8 and OmegaConf 2.3.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..component import Component, locate
from ..errors import UserError
from .flags import config_dirs
from .overrides import ALIASES, CONF, NUMERIC_GROUPS


def explain(error: BaseException, config_name: str) -> str | None:
    """Explain in one line an error that the user has caused; return None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error.__cause__, UserError):  # Hydra could not instantiate the launcher.
        return str(error.__cause__)
    if isinstance(error, YAMLError | UnicodeDecodeError):
        return _unreadable(error)
    text = str(error) if error.__cause__ is None else f"{error}\n{error.__cause__}"
    if match := re.search(r"In '([^']+)': (\w+) raised while composing config:\s*(.*)", text, re.S):
        why = next((line.strip() for line in match[3].splitlines() if line.strip()), match[2])
        return (
            f"{match[1]}.yaml cannot be used: {why[:1].lower()}{why[1:]}; it must hold names and "
            f"values, and an experiment or an arm must begin with the line # @package _global_"
        )
    if match := re.search(r"Config group override must be a string", text):
        choice = _offending_choice()
        return choice and _unknown_choice(*choice)
    if match := re.search(r"Could not find '((?:hydra/)?[^'/]+)/([^']*)'", text):
        return _unknown_choice(match[1], match[2])
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{match[1]} already exists: leave out the +, as in {match[1]}=VALUE"
    if match := re.search(r"Could not (?:override|append to config)[^']*'([^']+)'", text):
        return _unknown_key(match[1], config_name, getattr(error, "overrides", sys.argv[1:]))
    if match := re.search(r"Error parsing override '([^'=]+)'\s+missing EQUAL", text):
        return f"{match[1]!r} is not a valid option: options are written as NAME=VALUE"
    if match := re.search(r"Could not find '([^']+)'", text):
        return f"there is no configuration {match[1]!r}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} needs a value: {match[1]}=…"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    key = next((line.split(":", 1)[1].strip() for line in lines if "full_key:" in line), None)
    if match := re.search(r"UserError raised while resolving interpolation: (.*)", text):
        return match[1]
    if key is not None:
        if "is not a ListConfig" in text:
            return f"{key} is a list: write {key}=[VALUE]"
        if "is not Optional" in text:
            return f"{key} needs a value: {key}=…"
        if re.search(r"Cannot convert '(list|dict)' to string", text):
            return (
                f"{key} is text: to use brackets literally, quote the value twice, as in "
                f"'{key}=\"[x]\"'"
            )
        what = next((line for line in lines if line.startswith("Value ")), lines[0])
        if match := re.match(r"Error merging override ([^=\s]+)=(\S*)", what):
            return f"{match[1]}={match[2]} is of the wrong kind: --help explains {match[1]}"
        return f"{key}: {what[:1].lower()}{what[1:]}"
    return "; ".join(lines[:2]) or type(error).__name__


def _unreadable(error: YAMLError | UnicodeDecodeError) -> str:
    """Explain what is wrong with a configuration file of the user, and in which line."""
    if isinstance(error, UnicodeDecodeError):
        for path in (path for root in _own() for path in sorted(root.rglob("*.yaml"))):
            with contextlib.suppress(OSError):
                if path.read_bytes() == error.object:
                    return f"{path} is not encoded in UTF-8: save it as UTF-8"
        return f"a configuration file is not encoded in UTF-8: {error}"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:
        return f"a configuration file is not valid YAML: {str(error).splitlines()[0]}"
    return f"{mark.name}, line {mark.line + 1}: {problem or 'this is not valid YAML'}"


def options_of(group: str) -> list[str]:
    """Return the names of the options in a group, including the user's own options."""
    folders = [root / group for root in (CONF, *_own())]
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in folders
        for path in folder.rglob("*.yaml")
        if path.is_file()
    )


def _own() -> list[Path]:
    """Return the folders given with ``--config-dir``, which contain the user's own options."""
    return [Path(folder) for folder in config_dirs(sys.argv[1:])]


def _offending_choice() -> tuple[str, str] | None:
    """Return the first group in the command that is given something other than a name, and what."""
    for argument in sys.argv[1:]:
        group, equals, value = argument.lstrip("+~").partition("=")
        if equals and (CONF / group).is_dir():
            override = OverridesParser.create().parse_override(argument)
            if not isinstance(override.value(), str | list):
                return group, value
    return None


def _unknown_choice(group: str, value: str) -> str:
    options = options_of(group)
    if group in NUMERIC_GROUPS:
        return f"{group}={value} is neither a number nor one of {', '.join(options)}"
    near = difflib.get_close_matches(value, options, 1)
    hint = f"; did you mean {group}={near[0]}?" if near else ""
    return f"{group}={value} does not exist: choose from {', '.join(options)}{hint}"


def _unknown_key(key: str, config_name: str, words: Iterable[str]) -> str:
    """Explain that the option `key` does not exist, and suggest another.

    Args:
        key: the option.
        config_name: the configuration of the command.
        words: all overrides of the command or of one run, which may choose from groups.
    """
    given = [word for word in words if "," not in word and "=" in word]
    chosen = [word for word in given if (CONF / word.partition("=")[0]).is_dir()]
    own = ",".join(f"file://{folder.absolute()}" for folder in _own())
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        chosen += [f"hydra.searchpath=[{own}]"] if own else []
        try:
            known = hydra.compose(config_name, chosen, return_hydra_config=True)
        except HydraException:  # One of the choices is the user's own.
            known = hydra.compose(config_name, return_hydra_config=True)
    if key.startswith("hydra.launcher."):
        options = sorted(option for option in known.hydra.launcher if option != "_target_")
        return _unknown_of("hydra/launcher", known.hydra.runtime.choices, key, options)
    container = OmegaConf.to_container(known, resolve=False)
    assert isinstance(container, dict)
    if not key.startswith("hydra."):
        del container["hydra"]
    group = key.rpartition(".")[0]
    if (CONF / group).is_dir() and group and group in container:
        options = sorted(option for option in container[group] if option != "_target_")
        if key.rpartition(".")[2] in _fields(group, container[group].get("_target_")):
            return (
                f"{group}={known.hydra.runtime.choices.get(group)} does not list the option {key}: "
                f"add it to the YAML file with its default value, or write +{key}=VALUE"
            )
        others = [alias.partition(".")[2] for alias in ALIASES if alias.startswith(f"{group}.")]
        return _unknown_of(group, known.hydra.runtime.choices, key, options, others)
    keys = sorted(
        full
        for full in _keys(cast("dict[str, Any]", container))
        if not f"{key}.".startswith(f"{full}.")
    )
    groups = sorted(
        {path.name for path in CONF.iterdir() if path.is_dir() and path.name[0] != "_"} - {key}
    )
    near = difflib.get_close_matches(key, [*keys, *groups], 1) or [
        full for full in keys if full.rpartition(".")[2] == key
    ]
    hint = f"; did you mean {near[0]}?" if near else "; --help explains them all"
    return f"there is no option {key!r}{hint}"


def _fields(group: str, target: str | None) -> set[str]:
    """Return the names of all options of the component class `target`; empty if there is none."""
    if target is None:
        return set()
    with contextlib.suppress(UserError):
        return {option.name for option in fields(locate(target, group, Component))}
    return set()


def _unknown_of(
    group: str,
    choices: Mapping[str, Any],
    key: str,
    options: list[str],
    aliases: Sequence[str] = (),
) -> str:
    prefix, _, word = key.rpartition(".")
    near = difflib.get_close_matches(word, [*options, *aliases], 1)
    hint = f": {', '.join(options)}" if options else "; it has none"
    hint = f"; did you mean {prefix}.{near[0]}?" if near else hint
    return f"{group}={choices[group]} has no option {word!r}{hint}"


def _keys(options: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in options.items():
        full = f"{prefix}{key}"
        yield full
        if isinstance(value, dict):
            yield from _keys(value, f"{full}.")
