"""Names and sizes of the code: one meaning for each class name, packages and modules that one can survey."""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from tests.support.paths import ROOT
from tests.support.repository import FOLDERS, PRODUCT, listed, sources

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES: Final = ("stream", "trainer", "bench")
MOST_MODULES: Final = 15  # of a package, without __init__ and __main__
MOST_LINES: Final = 400  # of a module
MOST_FUNCTION_LINES: Final = 60
# Modules and functions (FILE:NAME) that may be longer, each with its reason.
LONG_MODULES: Final[dict[str, str]] = {}
LONG_FUNCTIONS: Final[dict[str, str]] = {}


def packages() -> list[Path]:
    """Return the folders with Python files of stream, trainer and bench."""
    return sorted({path.parent for top in PACKAGES for path in (ROOT / top).rglob("*.py")})


def test_no_class_name_is_defined_in_two_modules() -> None:
    places: dict[str, dict[str, int]] = defaultdict(dict)
    for file, tree in sources(*FOLDERS).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].setdefault(file, node.lineno)
    twice = {name: where for name, where in sorted(places.items()) if len(where) > 1}
    wrong = [f"{name}: {', '.join(f'{file}:{line}' for file, line in where.items())}" for name, where in twice.items()]
    assert not wrong, listed(wrong)


def test_no_package_has_more_than_fifteen_modules() -> None:
    counts = {folder: len([m for m in folder.glob("*.py") if not m.stem.startswith("__")]) for folder in packages()}
    wrong = [f"{folder.relative_to(ROOT)}: {count} modules" for folder, count in counts.items() if count > MOST_MODULES]
    assert not wrong, listed(wrong)


def test_every_package_opens_with_one_line_on_its_purpose() -> None:
    wrong = []
    for init in (folder / "__init__.py" for folder in packages()):
        text = ast.get_docstring(ast.parse(init.read_text("utf-8"))) if init.exists() else None
        if text is None or not text.splitlines()[0].endswith("."):
            wrong.append(f"{init.relative_to(ROOT)}:1: {text!r}")
    assert not wrong, listed(wrong)


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {file: len((ROOT / file).read_text("utf-8").splitlines()) for file in sources(*PRODUCT)}
    long = {file: count for file, count in lengths.items() if count > MOST_LINES}
    wrong = [f"{file}:1: {count} lines" for file, count in long.items() if file not in LONG_MODULES]
    assert not wrong, listed(wrong)
    assert not LONG_MODULES.keys() - long, "these are no longer too long: take them out of LONG_MODULES"


def test_no_function_is_longer_than_60_lines() -> None:
    long = {}
    for file, tree in sources(*PRODUCT).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > MOST_FUNCTION_LINES:
                    long[f"{file}:{node.name}"] = f"{file}:{node.lineno}: {node.name}, {count} lines"
    wrong = [place for name, place in long.items() if name not in LONG_FUNCTIONS]
    assert not wrong, listed(wrong)
    assert not LONG_FUNCTIONS.keys() - long, "these are no longer too long: take them out of LONG_FUNCTIONS"
