"""Imports point downward only: a room knows nothing of the rooms above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import PROJECT

PACKAGE = PROJECT / "autol2"
FLOORS = (
    ("errors", "component"),
    ("rules", "models", "data", "recipe", "trackers"),
    ("config",),
    ("cli", "runs"),
    ("training",),
    ("sweeps",),
    ("report", "bench", "integrations", "replay", "status", "train"),
)
"""From the ground up. Rooms on one floor know nothing of each other, but for `BESIDE`."""
BESIDE: set[tuple[str, str]] = set()
"""Which room knows which other one of its own floor."""


def floor_of(room: str) -> int:
    (found,) = (i for i, rooms in enumerate(FLOORS) if room in rooms)
    return found


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms that a module imports from, anywhere in it."""
    package = path.relative_to(PROJECT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names = [(*base, one.name) for one in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(one.name.split(".")) for one in node.names]
        yield from (name[1] for name in names if name[0] == "autol2")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
MODULES += sorted(path for path in PACKAGE.rglob("*/__init__.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in set(imported_rooms(path)) - {room}:
        below = floor_of(other) < floor_of(room)
        assert below or (room, other) in BESIDE, f"{room} imports {other}"


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert rooms - {"__init__"} == {room for rooms in FLOORS for room in rooms}
