"""Each room's `__init__` says who imports it: what import-linter allows is more, what is true is this."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("stream", "trainer", "bench")
ROOMS = sorted(
    path.parent.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).glob("*/__init__.py")
)


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def importers(room: str) -> set[str]:
    """Return who imports a room: rooms and modules beside it by their names, another package by its own."""
    package, _, name = room.partition("/")
    found = set()
    for other in (*PACKAGES, "segmentation"):
        for path in (ROOT / other).rglob("*.py"):
            where = path.relative_to(ROOT / other).parts
            if (other, where[0]) == (package, name):
                continue
            if any(
                module == f"{package}.{name}" or module.startswith(f"{package}.{name}.") for module in imported(path)
            ):
                found.add(where[0].removesuffix(".py") if other == package else other)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_names_its_importers(room: str) -> None:
    line = " ".join((ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text("utf-8"))) or "").split())
    stated = re.search(r"Imported by ([\w, ]+)\.$", line)
    assert stated, f"{room}/__init__.py doesn't end with 'Imported by ….'"
    names = set(re.split(r", | and ", stated[1])) - {"nothing"}
    assert names == importers(room)
