"""Imports point downward only: a room knows nothing of the rooms above it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from autol2.report.words import components

from .conftest import PROJECT

PACKAGE = PROJECT / "autol2"
FLOORS = (
    ("errors",),
    ("storage",),
    ("factory",),
    ("component",),
    ("rules", "models", "data", "recipe", "trackers"),
    ("config",),
    ("cli", "runs"),
    ("training",),
    ("sweeps",),
    ("report", "bench", "integrations"),
    ("forecast", "replay", "status", "train"),
)
"""From the ground up. Rooms on one floor know nothing of each other."""
ROOMS = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms that a module imports from, anywhere in it."""
    package = path.relative_to(PROJECT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names = [(*base, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        yield from (name[1] for name in names if name[0] == "autol2")


def own_room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


MODULES = sorted(PACKAGE.rglob("*.py"), key=str)
MODULES.remove(PACKAGE / "__init__.py")  # what `from autol2 import …` gives, from anywhere


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    room = own_room(path)
    for other in set(imported_rooms(path)) - {room}:
        assert ROOMS[other] < ROOMS[room], f"{room} imports {other}"


def test_every_room_has_a_floor() -> None:
    assert {own_room(path) for path in MODULES} == set(ROOMS)


GROUPS = ("model", "data", "optimizer", "lr_schedule", "augmentation", "loss", "logger", "method")
ELSEWHERE = {
    "constant": "of t* = constant/λ",
    "none": "no tracker, no augmentation, nothing kept",
    "step": "a column of the records",
    "fixed": "a word of one's own runs.csv; t* = c/λ is of a constant λ",
    "adamw": "what two methods say that they need",
    "auto_l2": "the rule that the callbacks take",
    "torchvision": "a package whose version is noted",
}
"""Names that are words of their own as well."""
KNOWING = ("rules", "figures.py")
"""Where a method's name may stand: the rules that it is one of, the paper's own figures."""


@functools.cache
def constants(path: Path) -> set[object]:
    """The constants in a module's code."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


@pytest.mark.parametrize("group", GROUPS)
def test_no_other_module_knows_a_components_name(group: str) -> None:
    """Only its own does; so that adding one is a module and a YAML file."""
    for name, kind in components(group).items():
        if name in ELSEWHERE:
            continue
        home = PROJECT.joinpath(*kind.__module__.split(".")).with_suffix(".py")
        for path in MODULES:
            if path == home or (group == "method" and set(KNOWING) & set(path.parts)):
                continue
            assert name not in constants(path), path
