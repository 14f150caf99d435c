"""The exception for errors that the user can fix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path


class UserError(Exception):
    """An error that the user can fix. Its text is one message, shown without a traceback."""

    status = 2
    """Exit status of a command that ends with this error."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def require(ok: bool, message: str) -> None:
    """Raise a `UserError` with `message` unless `ok`."""
    if not ok:
        raise UserError(message)


def unwritable(folder: Path, error: OSError) -> UserError:
    """Return the error to raise if a study's `folder` cannot be written."""
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
