"""Import and call the user's functions and classes, named as ``package.module:factory``."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError, require

FOREIGN = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<frozen ")
"""Prefixes of file names that are not the user's own code; installed packages are excluded, too."""


def require_target(option: str, target: str) -> None:
    """Raise a `UserError` unless `target` has the form ``package.module:factory``."""
    module, colon, name = target.partition(":")
    words = [*module.split("."), *name.split(".")]
    require(
        colon == ":" and all(word.isidentifier() for word in words),
        f"{option}={target} does not name a function: write {option}=package.module:factory",
    )


def resolve(option: str, target: str) -> Callable[..., Any]:
    """Import the module of `target` and return the function that it names.

    Raises:
        UserError: there is no such module, it cannot be imported, or it has no callable of that
            name.
    """
    module, _, name = target.partition(":")
    called: Callable[..., Any] = imported(f"{option}={target}", module, name)
    require(callable(called), f"{option}={target}: {module} has no function {name}")
    return called


def imported(said: str, module: str, name: str) -> Any:
    """Import `module` and return its attribute `name`, which may be dotted; None if it has none.

    Args:
        said: what the user typed for it, for messages.
        module: the module's full name.
        name: the attribute to look up.

    Raises:
        UserError: there is no such module, or it cannot be imported.
    """
    try:
        found: Any = importlib.import_module(module)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is None or not f"{module}.".startswith(f"{absent}."):
            raise UserError(f"{said}: importing {module} {_raised(error)}") from error
        raise UserError(
            f"{said}: there is no module {absent}; start the command in the folder that contains "
            f"it, or add that folder to PYTHONPATH"
        ) from None
    for word in name.split("."):
        found = getattr(found, word, None)
    return found


def call(option: str, target: str, *arguments: Any, **options: Any) -> Any:
    """Call the function that `target` names and return its result.

    Raises:
        UserError: there is no such function, or it raises an exception.
    """
    function = resolve(option, target)
    try:
        return function(*arguments, **options)
    except (UserError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{option}={target} {_raised(error)}") from error


def _raised(error: BaseException) -> str:
    """Return the user's error as one line, with the last position in their code that led to it."""
    words = str(error).strip().splitlines()
    text = ": ".join([f"raised {type(error).__name__}", *words[:1]])
    if isinstance(error, SyntaxError):  # it contains the position itself
        return text
    places = [
        f" ({frame.filename}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(FOREIGN) and "-packages" not in frame.filename
    ]
    return text + "".join(places[-1:])
