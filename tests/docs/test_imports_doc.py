"""The imports of the Python examples in the docs."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap

import pytest

from tests.support.paths import ROOT

PACKAGES = ("segmentation", "stream", "trainer")


def imported() -> list[tuple[str, str, str]]:
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for block in re.findall(r"(?ms)^ *```python\n(.*?)^ *```", page.read_text("utf-8")):
            for node in ast.walk(ast.parse(textwrap.dedent(block))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                    found += [(str(page.relative_to(ROOT)), node.module or "", alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize(("page", "module", "name"), imported())
def test_an_example_s_import_exists(page: str, module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), page


def test_there_are_such_examples() -> None:
    assert ("docs/how-to/adapters.md", "stream.adapters.mapping", "Adapters") in imported()
