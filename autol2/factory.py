"""A function or class of the user's, named as ``package.module:factory``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError, require

LIBRARY = str(Path(__file__).parent)


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
        UserError: there is no such module, or nothing in it that could be called by that name.
    """
    module, _, name = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the user's module imports
        raise UserError(
            f"{option}={target}: there is no module {error.name}; start the command where it is, "
            f"or add its folder to PYTHONPATH"
        ) from None
    for word in name.split("."):
        found = getattr(found, word, None)
    require(callable(found), f"{option}={target}: {module} has no function {name}")
    called: Callable[..., Any] = found
    return called


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
    except Exception as error:
        raise UserError(f"{option}={target} {_raised(error)}") from error


def _raised(error: Exception) -> str:
    """The user's error in one line, with the place in their code that raised it."""
    at, place = error.__traceback__, ""
    while at is not None:
        file = at.tb_frame.f_code.co_filename
        place = f" ({file}, line {at.tb_lineno})" if not file.startswith(LIBRARY) else place
        at = at.tb_next
    words = str(error).strip().splitlines()
    return f"raised {type(error).__name__}: {words[0] if words else ''}{place}"
