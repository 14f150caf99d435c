"""The command line: Hydra's override grammar for every command, and one clear line for an error.

`command` wraps a task function as `hydra.main` does, and adds what autol2's users type and see:
numbers for the groups `alpha` and `fixed_lambda`, an exit status, and errors without a traceback
(``HYDRA_FULL_ERROR=1`` shows it all the same).
"""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError
from .help import help_text

CONF = Path(__file__).resolve().parents[1] / "conf"
if not CONF.is_dir():  # a source tree; an installed package carries the folder inside
    CONF = CONF.parents[1] / "conf"

NUMERIC_GROUPS = {"alpha": "alpha.percent", "fixed_lambda": "fixed_lambda.value"}
"""Groups that people give numbers to, and the option that such a number means."""

ALIASES = {"method.k": "method.measure_every"}
"""Other names of options, and theirs: the paper says k."""

Task = Callable[[DictConfig], int | None]


def command(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """Make a task function a command that reads ``conf/<config_name>.yaml`` and ``sys.argv``.

    The task's return value is the exit status (None is 0); a multirun exits with the largest.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def main() -> None:
            statuses = [0]

            @functools.wraps(task)
            def keep_status(cfg: DictConfig) -> int:
                try:
                    status = task(cfg) or 0
                except UserError as error:  # the other runs of a multirun go on
                    _report(str(error))
                    status = error.status
                statuses.append(status)
                return status

            full_error = os.environ.get("HYDRA_FULL_ERROR")
            os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed
            try:
                sys.argv[1:] = _flags_first(numbers_to_options(sys.argv[1:]))
                _complete_numbers()
                _explain_options(inspect.getdoc(sys.modules[task.__module__]) or "")
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(
                    keep_status
                )()
                sys.stdout.flush()
            except (UserError, HydraException, OmegaConfBaseException, ValueError) as error:
                message = explain(error, config_name)
                if full_error == "1" or message is None:
                    raise
                _report(message)
                sys.exit(getattr(error, "status", UserError.status))
            except BrokenPipeError:  # whoever reads the output wants no more of it
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(128 + signal.SIGPIPE)
            except KeyboardInterrupt:
                _report("interrupted")
                sys.exit(128 + signal.SIGINT)
            finally:
                if full_error is None:
                    del os.environ["HYDRA_FULL_ERROR"]
                else:
                    os.environ["HYDRA_FULL_ERROR"] = full_error
            sys.exit(max(statuses))

        return main

    return decorate


def _report(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def _flags_first(arguments: list[str]) -> list[str]:
    """`arguments` with Hydra's flags before the overrides, where alone it understands them."""
    takes_a_value = {
        name: action.nargs is None
        for action in get_args_parser()._actions
        for name in action.option_strings
    }
    flags, overrides, rest = [], [], iter(arguments)
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        if takes_a_value.get(word):
            flags += itertools.islice(rest, 1)
    return flags + overrides


def numbers_to_options(arguments: Iterable[str]) -> list[str]:
    """`arguments` with ``alpha=5`` written ``alpha.percent=5``, and likewise ``fixed_lambda``.

    Hydra takes only names for a group. A sweep over numbers (``alpha=0,5``, ``alpha=range(0,9,3)``,
    ``alpha=interval(0,20)``) becomes a sweep over the option; names are left alone.

    Raises:
        UserError: a sweep that mixes numbers and names.
    """
    return [_number_to_option(argument) for argument in arguments]


def _number_to_option(argument: str) -> str:
    group, equals, value = argument.partition("=")
    if group in ALIASES:
        return f"{ALIASES[group]}{equals}{value}"
    if equals and not value.isascii() and not re.search(r"[\"',(\[{]", value):
        return f'{group}="{value}"'  # Hydra takes other letters only in quotes
    option = NUMERIC_GROUPS.get(group)
    if not (option and equals and value):
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return argument  # Hydra itself will say what is wrong with it
    numeric = [_is_number(element) for element in _elements(override)]
    if all(numeric):
        return f"{option}={value}"
    if any(numeric):
        raise UserError(f"{argument} mixes numbers and names: use one or the other")
    return argument


def _elements(override: Override) -> list[object]:
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return list(value.list)
    if isinstance(value, RangeSweep | IntervalSweep):
        return [value.start]
    return [value]


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return not isinstance(value, bool)


def _complete_numbers() -> None:
    """Let Hydra's shell completion read a line with numbers for groups, or with ``python -m``."""
    line = os.environ.get("COMP_LINE")
    if line is None or "-sc" not in sys.argv:
        return
    program = r"^(\s*)\S*python[\d.]*\s+-m\s+autol2\.(\w+)"
    words = re.sub(program, r"\1autol2-\2", line).split(" ")
    os.environ["COMP_LINE"] = " ".join([*numbers_to_options(words[:-1]), words[-1]])


def _explain_options(about: str) -> None:
    """Let conf/hydra_settings.yaml's template for ``--help`` be ours; `about` is its beginning."""

    def text(*, _root_: DictConfig) -> str:
        chosen = {str(group): name for group, name in _root_.hydra.runtime.choices.items()}
        options = {
            group: _options(group)
            for group in reversed(chosen)
            if (CONF / group).is_dir() and not group.startswith("_")
        }
        launcher = "hydra/launcher"
        if chosen[launcher] in options.pop(launcher):
            options[launcher] = _options(launcher)
        return help_text(about, _root_, options).replace("$", "$$")  # for string.Template

    OmegaConf.register_new_resolver("autol2.help", text, replace=True)


def explain(error: BaseException, config_name: str) -> str | None:
    """One line about an error that the user caused; None where the program is to blame."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error.__cause__, UserError):  # from a launcher that Hydra could not make
        return str(error.__cause__)
    text = str(error) if error.__cause__ is None else f"{error}\n{error.__cause__}"
    if match := re.search(r"Config group override must be a string", text):
        choice = _offending_choice()
        return choice and _unknown_choice(*choice)
    if match := re.search(r"Could not find '((?:hydra/)?[^'/]+)/([^']*)'", text):
        return _unknown_choice(match[1], match[2])
    if match := re.search(r"Could not (?:override|append to config)[^']*'([^']+)'", text):
        return _unknown_key(match[1], config_name, text)
    if match := re.search(r"Error parsing override '([^'=]+)'\s+missing EQUAL", text):
        return f"{match[1]!r} is no setting: they are written NAME=VALUE"
    if match := re.search(r"Could not find '([^']+)'", text):
        return f"there is no configuration {match[1]!r}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} needs a value: {match[1]}=…"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    key = next((line.split(":", 1)[1].strip() for line in lines if "full_key:" in line), None)
    if key is not None:
        what = next((line for line in lines if line.startswith("Value ")), lines[0])
        return f"{key}: {what[:1].lower()}{what[1:]}"
    return "; ".join(lines[:2])


def _options(group: str) -> list[str]:
    folder = CONF / group
    files = folder.rglob("*.yaml")
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)


def _offending_choice() -> tuple[str, str] | None:
    """The group, and what was given for it, where that is no name."""
    for argument in sys.argv[1:]:
        group, equals, value = argument.lstrip("+~").partition("=")
        if equals and (CONF / group).is_dir():
            override = OverridesParser.create().parse_override(argument)
            if not isinstance(override.value(), str | list):
                return group, value
    return None


def _unknown_choice(group: str, value: str) -> str:
    options = _options(group)
    if group in NUMERIC_GROUPS:
        return f"{group}={value} is neither a number nor one of {', '.join(options)}"
    near = difflib.get_close_matches(value, options, 1)
    hint = f"; did you mean {group}={near[0]}?" if near else ""
    return f"{group}={value} does not exist: choose from {', '.join(options)}{hint}"


def _unknown_key(key: str, config_name: str, text: str) -> str:
    launcher = next((word for word in sys.argv[1:] if word.startswith("hydra/launcher=")), None)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        known = hydra.compose(config_name, [launcher] if launcher else [], return_hydra_config=True)
    if key.startswith("hydra.launcher."):
        options = sorted(option for option in known.hydra.launcher if option != "_target_")
        word = key.removeprefix("hydra.launcher.")
        near = difflib.get_close_matches(word, options, 1)
        hint = f"; did you mean hydra.launcher.{near[0]}?" if near else f": {', '.join(options)}"
        chosen = known.hydra.runtime.choices["hydra/launcher"]
        return f"hydra/launcher={chosen} has no option {word!r}{hint}"
    if not key.startswith("hydra."):
        with open_dict(known):
            del known["hydra"]
    keys = sorted(_keys(known))
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    near = difflib.get_close_matches(key, [*keys, *groups], 1) or [
        full for full in keys if full.rpartition(".")[2] == key
    ]
    hint = f"; did you mean {near[0]}?" if near else "; --help explains them all"
    return f"there is no option {key!r}{hint}"


def _keys(cfg: DictConfig, prefix: str = "") -> Iterable[str]:
    for key in cfg:
        full = f"{prefix}{key!s}"
        yield full
        node = cfg._get_node(str(key))
        if OmegaConf.is_dict(node):
            assert isinstance(node, DictConfig)
            yield from _keys(node, f"{full}.")
