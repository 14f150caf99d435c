"""The flags of a command line: which of Hydra's flags are supported, and how they are parsed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..errors import require

CONFIG_DIR = ("--config-dir", "-cd")
VALUES = ("--package", "-p", *CONFIG_DIR)
"""Hydra's flags that take any value."""
FIXED = ("--config-path", "-cp", "--config-name", "-cn")
"""Hydra's flags that choose the configuration, which is fixed for each command."""
CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
"""Hydra's flags that take one of the listed values; ``--info`` may also have no value."""
SWITCHES = (
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc"),
)
"""Hydra's flags that take no value."""
LONG = {"-c": "--cfg", "-i": "--info"}
SHOWS = (
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--cfg",
    "--info",
    "-sc",
    "--shell-completion",
)
"""Flags with which a command only prints information."""
DRY_RUN = re.compile(r"\+{0,2}hydra\.launcher\.dry_run=(?!(false|off|no|n|0)$)", re.IGNORECASE)
"""Matches the override with which a sweep only shows what it would run."""
SWEEPS = ("--multirun", "-m")
ONE_RUN = ("--run", "-r")


def config_dirs(arguments: Iterable[str]) -> list[str]:
    """Return the folders given with ``--config-dir``, as the user typed them."""
    words = iter(arguments)
    found = []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in CONFIG_DIR:
            found.append(value if equals else next(words, ""))
    return found


def only_shows(arguments: Iterable[str]) -> bool:
    """Whether a command with these arguments only prints information and does no work."""
    return any(word.partition("=")[0] in SHOWS or DRY_RUN.match(word) for word in arguments)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into flags with their values, and overrides; Hydra expects this order.

    Raises:
        UserError: if a flag does not exist, is not supported, or cannot be used like this.
    """
    flags: list[str] = []
    overrides: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flag, equals, value = word.partition("=")
        flag = LONG.get(flag, flag)
        require(
            flag != "--experimental-rerun",
            "--experimental-rerun is not supported: the same command again does what is missing, "
            "and rerun=true repeats a run",
        )
        require(
            flag in VALUES or flag in FIXED or flag in CHOICES or flag in SWITCHES,
            f"there is no flag {word}; --hydra-help lists them",
        )
        require(
            flag not in FIXED,
            f"{flag} is not supported, because each command has its own configuration: "
            f"--config-dir FOLDER adds options of your own",
        )
        require(
            flag not in SWITCHES or not equals,
            f"{flag} takes no value: write {flag} alone",
        )
        flags.append(word)
        if flag in SWITCHES:
            continue
        if flag == "--info" and not equals and (not words or re.search("^-|=", words[0])):
            flags[-1] = "--info=all"  # Otherwise, it would take the next argument as its value.
            continue
        require(bool(equals or words), f"{word} needs a value")
        given = value if equals else words[0]
        require(
            flag not in CHOICES or given in CHOICES[flag],
            f"{flag} {given} is not one of {', '.join(CHOICES.get(flag, ()))}",
        )
        if not equals:
            flags.append(words.pop(0))
    require(
        not {"--package", "-p"} & set(flags) or any(flag.startswith("--cfg") for flag in flags),
        "--package selects what --cfg shows: add --cfg, as in --cfg job",
    )
    require(
        "--resolve" not in flags or any(flag.startswith(("--cfg", "-c")) for flag in flags),
        "--resolve changes how --cfg shows the options: add --cfg, as in --cfg job",
    )
    for word in overrides:
        require(
            not word.lstrip("+~").startswith("hydra.mode="),
            f"{word} is not supported: -m makes a sweep, and a command without -m is one run",
        )
    once = (*SHOWS[2:], *SWEEPS, *LONG, *ONE_RUN)
    alone = [flag for flag in flags if flag.partition("=")[0] in once]
    require(
        len(alone) < 2,
        f"{' and '.join(alone)} cannot be combined: use one of them; --cfg and --info show the "
        f"configuration of one run",
    )
    return flags, overrides
