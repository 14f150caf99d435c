"""Preparation of command line arguments for Hydra.

Flags are moved to the front, and numbers given for groups become options. Arguments that Hydra
would silently misread or answer with a traceback are corrected, or refused with a clear message.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from ..config import study_name
from ..errors import UserError, require
from .flags import CHOICES, LONG, ONE_RUN, SWEEPS, split

CONF = Path(__file__).resolve().parents[1] / "conf"
"""The folder with the configuration files."""
if not CONF.is_dir():  # This is a source tree; an installed package contains the folder.
    CONF = CONF.parents[1] / "conf"
TRAIN = "autol2.train"
"""The module of the only command that supports sweeps."""
NUMERIC_GROUPS = {"alpha": "alpha.percent", "fixed_lambda": "fixed_lambda.value"}
"""Groups that also accept a number, with the option that the number sets."""
ALIASES = {"method.k": "method.measure_every"}
"""Alternative names of options, with the actual names; the paper writes k."""
ARGUMENTS = re.compile(r"\w+\.options(\.\w+)*=")
"""Matches keyword arguments for the user's own functions, ``model.options`` and ``data.options``.

No configuration file lists their names, so Hydra accepts them only with ``++``.
"""
OTHER_WORDS = {"hydra/sweeper=optuna": "hydra/sweeper=search"}
"""Overrides that users may know from elsewhere, with the corresponding overrides of autol2."""

FUNCTIONS = ("choice", "range", "interval", "glob", "sort", "shuffle", "tag")
"""The functions for sweeps in Hydra's override grammar."""
MOST_SHOWN = 500
"""Maximum number of characters of an argument that a message shows."""
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()} | {
    "hydra/launcher",
    "hydra/sweeper",
}


HEEDED = (
    *("launcher", "sweeper", "searchpath", "verbose"),
    *("help", "hydra_help", "hydra_logging", "job_logging"),
)
"""Hydra's own options that have an effect here."""


def prepared(arguments: Sequence[str], module: str = TRAIN) -> list[str]:
    """Convert the arguments of a command to the form that Hydra expects.

    Args:
        arguments: the arguments, as the user typed them.
        module: the module of the command.

    Raises:
        UserError: if an argument is not valid. If it can be corrected, the message contains the
            corrected command.
    """
    flags, overrides = split(arguments)
    if "-sc" in flags or "--shell-completion" in flags:
        require(
            all(re.match(r"(install|uninstall|query)=", word) for word in overrides),
            "--shell-completion takes install=SHELL or uninstall=SHELL, as in install=bash",
        )
        return flags + overrides
    if "--hydra-help" in flags:
        return ["--hydra-help"]
    sweeps = any(flag in SWEEPS for flag in flags)
    require(
        not sweeps or module == TRAIN,
        f"{' '.join(flag for flag in flags if flag in SWEEPS)}: {module} makes no sweeps",
    )
    for place, word in enumerate(overrides):
        _refuse_ignored(word)
        _check(word, functools.partial(_command, module, flags, overrides, place))
        if not sweeps:
            _refuse_several(word, module, flags, overrides, place)
    overrides = [OTHER_WORDS.get(word, word) for word in overrides]
    overrides = [f"++{word}" if ARGUMENTS.match(word) else word for word in overrides]
    overrides = _last_wins(numbers_to_options(overrides))
    if sweeps:
        overrides = one_by_one(overrides)
    return flags + overrides


def numbers_to_options(arguments: Iterable[str]) -> list[str]:
    """Replace ``alpha=5`` by ``alpha.percent=5``, and likewise for ``fixed_lambda``.

    Hydra accepts only names for a group. A sweep over numbers (``alpha=0,5``,
    ``alpha=range(0,9,3)``, ``alpha=interval(0,20)``) becomes a sweep over the option; names are
    left alone. Non-ASCII values are quoted, as Hydra requires, and ~ becomes the home folder.

    Raises:
        UserError: if a sweep mixes numbers and names.
    """
    return [_number_to_option(_plain_text(argument)) for argument in arguments]


def one_by_one(arguments: Iterable[str]) -> list[str]:
    """Rewrite each override ``GROUP.OPTION=VALUE`` as a sweep over that one value.

    Hydra composes the configuration of a sweep before it chooses from groups, and would refuse an
    option that only the chosen component has.
    """
    plain = r"(?!\+{0,2}hydra[./])(\+{0,2}[\w/]+\.[\w.]+)=([^\"'()\[\]{},$]+)"
    return [re.sub(rf"^{plain}$", r"\1=choice(\2)", word) for word in arguments]


def quoted(text: str) -> str:
    """Quote `text` so that Hydra's override grammar takes it literally."""
    escaped = re.sub(r'(\\*)"', r"\1\1\\" + '"', text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def _check(word: str, command: Callable[[str], str]) -> None:
    """Raise an error for an override that Hydra would refuse or misread.

    Args:
        word: the override.
        command: returns the whole command with another override in place of this one.
    """
    try:
        word.encode()
    except UnicodeEncodeError:
        shown = word.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise UserError(f"{shown} is not valid UTF-8: choose another name") from None
    key, equals, value = word.partition("=")
    if key.startswith("~"):
        raise UserError(
            f"{word}: options cannot be deleted; give {key[1:]} another value, as in "
            f"{key[1:]}=VALUE"
        )
    require(bool(equals), f"{word!r} is not a valid option: options are written as NAME=VALUE")
    require(
        re.fullmatch(r"\+{0,2}[^\s=@]+", key) is not None,
        f"{word!r} is not a valid option: options are written as NAME=VALUE, and the name has no "
        f"spaces or @",
    )
    require(
        not (key.startswith("+") and key.lstrip("+") in GROUPS),
        f"{word}: leave out the +, as in {word.lstrip('+')}",
    )
    if key == "study" and not re.search(r"[,\[({\"'$]", value):
        require(value not in ("", "null"), f"{word}: a study needs a name, as in study=paper")
        study_name(value)
    plain = _plain_text(word)
    try:
        _refuse_odd(word, key, _elements(OverridesParser.create().parse_override(plain)))
    except HydraException:
        if function := re.match(rf"({'|'.join(FUNCTIONS)})\(", value):
            raise UserError(
                f"{word}: {function[1]}(…) is not written correctly; check its brackets and commas"
            ) from None
        require(not value.endswith(","), f"{word} ends in a comma: leave it out")
        mended = f"{key}={quoted(value)}"
        raise UserError(
            f"{word!r:.{MOST_SHOWN}} contains characters that Hydra interprets; to use them "
            f"literally, quote the value twice: {command(mended)}"
        ) from None


def _refuse_ignored(word: str) -> None:
    """Raise an error for an option of Hydra that has no effect here.

    The folders, processes and logs of runs are managed by autol2 and not by Hydra.
    """
    key = word.lstrip("+~").partition("=")[0].partition("@")[0]
    top, *rest = key.replace("/", ".").split(".")
    require(
        top != "hydra" or not rest or rest[0] in HEEDED,
        f"{word}: {key} is not used here: outputs=FOLDER and study=NAME set where runs are stored, "
        f"and hydra.launcher.… how a sweep runs them",
    )


def _refuse_odd(word: str, key: str, values: Sequence[object]) -> None:
    """Raise an error if a group is given a list or mapping instead of one name or number."""
    numeric = key in NUMERIC_GROUPS
    require(
        not (numeric and any(isinstance(value, list | dict) for value in values)),
        f"{word}: {key} is a number or a name, as in {key}=five",
    )
    require(
        not (key in GROUPS and any(isinstance(value, list) for value in values)),
        f"{word}: {key} takes one name; to use several in turn, write -m and {key}=NAME,NAME",
    )


def _refuse_several(
    word: str, module: str, flags: Sequence[str], overrides: Sequence[str], place: int
) -> None:
    """Raise an error for an override with several values in a command that is not a sweep."""
    plain = _plain_text(word)
    if (
        word.startswith("hydra.")
        or not OverridesParser.create().parse_override(plain).is_sweep_override()
    ):
        return
    if any(flag.partition("=")[0] in (*CHOICES, *LONG, *ONE_RUN) for flag in flags):
        raise UserError(f"{word} gives several values, but this command handles a single run")
    if module == TRAIN:
        mended = _command(module, ["-m", *flags], overrides, place, word)
        raise UserError(f"{word} gives several values, which makes this a sweep: {mended}")
    key, _, value = word.partition("=")
    mended = _command(module, flags, overrides, place, f"{key}={quoted(value)}")
    raise UserError(
        f"{word} gives several values; if you mean a single value, quote it twice: {mended}"
    )


def _command(
    module: str, flags: Sequence[str], overrides: Sequence[str], place: int, new: str
) -> str:
    words = [*flags, *overrides[:place], new, *overrides[place + 1 :]]
    return shlex.join(["python", "-m", module, *words])


def _plain_text(word: str) -> str:
    """Quote non-ASCII values of an override, and replace a leading ~ by the home folder."""
    key, equals, value = word.partition("=")
    if not equals or re.search(r"[\"'(\[{]", value):
        return word
    if value.isascii() and "~" not in value:
        return word
    return f"{key}={','.join(_element(part) for part in value.split(','))}"


def _element(text: str) -> str:
    if text.startswith("~"):
        return quoted(os.path.expanduser(text))
    return text if text.isascii() else quoted(text)


def _number_to_option(argument: str) -> str:
    group, equals, value = argument.partition("=")
    if group in ALIASES:
        return f"{ALIASES[group]}{equals}{value}"
    option = NUMERIC_GROUPS.get(group)
    if not (option and equals and value):
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return argument  # Hydra will report what is wrong with it.
    numeric = [_is_number(element) for element in _elements(override)]
    if numeric and all(numeric):
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


def _last_wins(overrides: Sequence[str]) -> list[str]:
    """Remove overrides of `NUMERIC_GROUPS` that a later override replaces."""
    return list(_kept(overrides))


def _kept(overrides: Sequence[str]) -> Iterator[str]:
    for place, word in enumerate(overrides):
        key = word.partition("=")[0]
        group = key.partition(".")[0]
        later = {override.partition("=")[0] for override in overrides[place + 1 :]}
        if not (group in NUMERIC_GROUPS and later & {group, NUMERIC_GROUPS[group]} - _weaker(key)):
            yield word


def _weaker(key: str) -> set[str]:
    """Return the options that may be set after `key` without replacing it.

    A choice of a group, such as ``alpha=five``, may be followed by an option of that group.
    """
    return set(NUMERIC_GROUPS.values()) if key in NUMERIC_GROUPS else set()
