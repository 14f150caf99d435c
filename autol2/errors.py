"""The error that a user can mend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path


class UserError(Exception):
    """Something that the user can mend. Its text is one message, shown without a traceback."""

    status = 2
    """Exit status of a command that ends with it."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def require(ok: bool, message: str) -> None:
    """Raise a `UserError` with `message` unless `ok`."""
    if not ok:
        raise UserError(message)


def unwritable(folder: Path, error: OSError) -> UserError:
    """What to raise where a study's `folder` cannot be written."""
    return UserError(
        f"{folder} cannot be written ({error.strerror or error}): "
        f"choose another folder with outputs=FOLDER, or free some disk space"
    )


def require_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise a `UserError` unless `value` is one of `choices`."""
    require(value in choices, f"{option}={value} is not one of {', '.join(choices)}")


def require_finite(option: str, value: float, at_least: float = 0.0) -> None:
    """Raise a `UserError` unless `value` is a finite number of at least `at_least`."""
    require(
        math.isfinite(value) and value >= at_least,
        f"{option} must be a number of at least {at_least:g}, not {value:g}",
    )
