"""Each room's `__init__` says who imports it: what import-linter allows is more, what is true is this."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.support.repository import PRODUCT, sources

ROOMS = sorted(
    path.removesuffix("/__init__.py")
    for path in sources(*PRODUCT)
    if path.count("/") == 2 and path.endswith("/__init__.py")
)


def imported(tree: ast.Module) -> set[str]:
    """Return the modules and names that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


@cache
def importers() -> dict[str, set[str]]:
    """Return who imports each room: rooms and modules beside it by their names, another package by its own."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path, tree in sources(*PRODUCT).items():
        package, place = path.split("/")[:2]
        for room in {"/".join(module.split(".")[:2]) for module in imported(tree)} & found.keys():
            if room != f"{package}/{place}":
                found[room].add(place.removesuffix(".py") if room.startswith(f"{package}/") else package)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_names_its_importers(room: str) -> None:
    line = " ".join((ast.get_docstring(sources(*PRODUCT)[f"{room}/__init__.py"]) or "").split())
    stated = re.search(r"Imported by ([\w, ]+)\.$", line)
    assert stated, f"{room}/__init__.py doesn't end with 'Imported by ….'"
    names = set(re.split(r", | and ", stated[1])) - {"nothing"}
    assert names == importers()[room]
