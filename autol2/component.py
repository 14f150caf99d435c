"""The base class of components: the classes that the option files of a config group name.

``conf/<group>/<name>.yaml`` names a class in ``_target_`` and sets its options. The class is a
dataclass derived from the group's base class (`autol2.rules.method.Method`,
`autol2.models.model.Model`, `autol2.data.source.DataSource`, …), which is derived from `Component`.
Its fields are the options, the docstring after each field is its help text, and ``__post_init__``
rejects invalid values with a `UserError`. Nothing else in the package mentions the class: adding a
component takes one module and one YAML file, inside or outside of the package.
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
    """Declare a dataclass field and how it enters a run's identity.

    Args:
        default: the field's default, or a callable that returns it (for lists and other mutable
            values).
        neutral: the value at which the option has no effect. At this value, the option is left out
            of the identity, so that adding an option later does not rename older runs.
        no_effect: why the option can never change a result, so that it is not part of the identity;
            empty if it can.
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
    """A dataclass of options that knows which of them identify a run."""

    def identity(self) -> dict[str, Any]:
        """Return the options that can change a result and are not neutral (see `option`)."""
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
    """Yield the full names of the options and groups of options that can never change a result."""
    for item in fields(options):
        value = getattr(options, item.name)
        if NO_EFFECT in item.metadata:
            yield f"{prefix}{item.name}"
        elif isinstance(value, Options):
            yield from without_effect(value, f"{prefix}{item.name}.")


@dataclass
class Component(Options):
    """Base class of the classes that a config group chooses from by ``_target_``."""

    name: ClassVar[str] = ""
    """Name in run directories, tables and messages. By default, it is the class's name in lower
    case with underscores. A class outside of the package is identified by its full path."""
    label: ClassVar[str] = ""
    """Name shown to readers; by default, `name`."""
    usual: ClassVar[bool] = False
    """Whether this is the paper's choice, which the name of a run's directory leaves out."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__  # a class does not inherit the name of its base class
        if "name" not in own:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        cls.label = own.get("label", cls.name)
        cls.usual = own.get("usual", False)

    def identity(self) -> dict[str, Any]:
        """Return the component's name and the options that `Options.identity` returns."""
        own = type(self).__module__.partition(".")[0] == __package__
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"name": self.name if own else path, **super().identity()}

    def require_installed(self) -> None:
        """Check that the packages that the component needs are installed.

        This is called where a run is executed, which may not be the machine that it was submitted
        from.

        Raises:
            UserError: a required package is not installed on this machine.
        """


def as_plain(options: Options) -> dict[str, Any]:
    """Return `options` as plain values, components with their ``_target_``, as in a config file."""
    plain: dict[str, Any] = {}
    if isinstance(options, Component):
        plain["_target_"] = f"{type(options).__module__}.{type(options).__qualname__}"
    for item in fields(options):
        value = getattr(options, item.name)
        plain[item.name] = as_plain(value) if isinstance(value, Options) else value
    return plain


def locate(path: str, group: str, base: type[Component]) -> type[Component]:
    """Import the component class at ``package.module.Class``.

    Raises:
        UserError: there is no such class, or it is not a component of `group`.
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
