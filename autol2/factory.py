"""A function or class of the user's, named as ``package.module:factory``."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError, require

FOREIGN = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<frozen ")
"""What the files begin with that are not the user's own, beside installed packages."""


def require_target(option: str, target: str) -> None:
    """Raise a `UserError` unless `target` reads as ``package.module:factory``."""
    module, colon, name = target.partition(":")
    words = [*module.split("."), *name.split(".")]
    require(
        colon == ":" and all(word.isidentifier() for word in words),
        f"{option}={target} does not name a function: write {option}=package.module:factory",
    )


def resolve(option: str, target: str) -> Callable[..., Any]:
    """What `target` names; its module is imported.

    Raises:
        UserError: there is no such module, it cannot be imported, or there is nothing in it that
            could be called by that name.
    """
    module, _, name = target.partition(":")
    called: Callable[..., Any] = imported(f"{option}={target}", module, name)
    require(callable(called), f"{option}={target}: {module} has no function {name}")
    return called


def imported(said: str, module: str, name: str) -> Any:
    """What `module` has by the dotted `name`; None where it has nothing.

    Args:
        said: what the user typed for it, for messages.
        module: the module's full name.
        name: what to look up in it.

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
    """What `target`'s function returns.

    Raises:
        UserError: there is no such function, or it fails.
    """
    function = resolve(option, target)
    try:
        return function(*arguments, **options)
    except (UserError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{option}={target} {_raised(error)}") from error


def _raised(error: BaseException) -> str:
    """The user's error in one line, with the last place in their code that led to it."""
    words = str(error).strip().splitlines()
    text = ": ".join([f"raised {type(error).__name__}", *words[:1]])
    if isinstance(error, SyntaxError):  # which says itself where
        return text
    places = [
        f" ({frame.filename}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(FOREIGN) and "-packages" not in frame.filename
    ]
    return text + "".join(places[-1:])
