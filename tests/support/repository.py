"""The repository's own files, for tests of its conventions."""

from __future__ import annotations

import ast
from functools import cache
from typing import Final

from tests.support.paths import ROOT

PRODUCT: Final = ("segmentation", "stream", "trainer", "bench")
FOLDERS: Final = (*PRODUCT, "tests", "docs", "examples")
_TEXTS: Final = {".md", ".py", ".yml", ".yaml", ".toml", ".sh", ""}


@cache
def sources(*folders: str) -> dict[str, ast.Module]:
    """Return the syntax tree of every Python file in these folders, by its path from the repository's root."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}


@cache
def texts() -> dict[str, list[str]]:
    """Return the lines of every text file by its path: code, docs, and the files at the root."""
    paths = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in (*FOLDERS, "deploy", ".ci", ".github"):
        paths += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8", errors="replace").splitlines()
        for path in sorted(paths)
        if path.suffix in _TEXTS
    }


def listed(places: list[str]) -> str:
    """Return places as a failure's message, one a line."""
    return f"{len(places)} places:\n" + "\n".join(places)
