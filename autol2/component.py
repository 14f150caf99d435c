"""A component: what one option file of a config group stands for.

``conf/<group>/<name>.yaml`` names a class in ``_target_`` and gives its options values. The class
is a dataclass derived from the group's base class (`autol2.rules.method.Method`,
`autol2.models.model.Model`, `autol2.data.source.DataSource`, …), itself derived from `Component`;
its fields are the options, the docstring behind each field is its help, and ``__post_init__``
refuses with a `UserError` what makes no sense. Nothing else in the package knows its name: adding
a component takes one module and one YAML file, inside of the package or outside of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

from .errors import require
from .factory import imported

NEUTRAL = "neutral"
NO_EFFECT = "no_effect"


def option(default: Any = MISSING, *, neutral: Any = MISSING, no_effect: str = "") -> Any:
    """A dataclass field with what a run's identity has to know of it.

    Args:
        default: the field's default; a callable makes it, as a list.
        neutral: the value at which the option does nothing, so that it is left out of the identity
            there: an option that is added later does not rename older runs.
        no_effect: why the option can change no number of a run, so that it is never part of the
            identity; empty where it can.
    """
    metadata: dict[str, Any] = {}
    if neutral is not MISSING:
        metadata[NEUTRAL] = neutral
    if no_effect:
        metadata[NO_EFFECT] = no_effect
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Options:
    """A group of options: a dataclass that knows what of it makes two runs the same."""

    def identity(self) -> dict[str, Any]:
        """Every option that can change a number; see `option`."""
        known: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if NO_EFFECT in item.metadata:
                continue
            if NEUTRAL in item.metadata and value == item.metadata[NEUTRAL]:
                continue
            known[item.name] = value.identity() if isinstance(value, Options) else value
        return known


def without_effect(options: Options, prefix: str = "") -> Iterator[str]:
    """The full names of the options, and groups of them, that can change no number of a run."""
    for item in fields(options):
        value = getattr(options, item.name)
        if NO_EFFECT in item.metadata:
            yield f"{prefix}{item.name}"
        elif isinstance(value, Options):
            yield from without_effect(value, f"{prefix}{item.name}.")


@dataclass
class Component(Options):
    """Base class of what a config group chooses from."""

    name: ClassVar[str] = ""
    """What it is called in run directories, tables and messages; by default, the class's name in
    small letters with underscores. A class outside of the package is called by its full path."""
    label: ClassVar[str] = ""
    """What it is called for a reader; by default its name."""
    usual: ClassVar[bool] = False
    """Whether it is the paper's choice, which is not told in a run directory's name."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__  # a class is not called as the one that it is derived from
        if "name" not in own:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        cls.label = own.get("label", cls.name)
        cls.usual = own.get("usual", False)

    def identity(self) -> dict[str, Any]:
        """The component's name and every option that can change a number; see `option`."""
        own = type(self).__module__.partition(".")[0] == __package__
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"name": self.name if own else path, **super().identity()}

    def require_installed(self) -> None:
        """Called where a run is done, which may be another machine than it is submitted from.

        Raises:
            UserError: a package that it needs is not on this machine.
        """


def as_plain(options: Options) -> dict[str, Any]:
    """`options` as plain values, components with their ``_target_``, as their file gives them."""
    plain: dict[str, Any] = {}
    if isinstance(options, Component):
        plain["_target_"] = f"{type(options).__module__}.{type(options).__qualname__}"
    for item in fields(options):
        value = getattr(options, item.name)
        plain[item.name] = as_plain(value) if isinstance(value, Options) else value
    return plain


def locate(path: str, group: str, base: type[Component]) -> type[Component]:
    """The component class at ``package.module.Class``.

    Raises:
        UserError: there is no such class, or it is none of `group`'s.
    """
    said = f"{group}: _target_={path}"
    module, _, name = path.rpartition(".")
    require(
        all(word.isidentifier() for word in path.split(".")) and bool(module),
        f"{said} does not name a class: write _target_: package.module.Class",
    )
    found = imported(said, module, name)
    require(found is not None, f"{said}: {module} has no class {name}")
    require(
        isinstance(found, type) and issubclass(found, base) and is_dataclass(found),
        f"{said} is not a dataclass derived from {base.__module__}.{base.__qualname__}",
    )
    kind: type[Component] = found
    return kind
