"""docs/architecture.md leads through the code in few files, and its rooms are those of the import contracts."""

from __future__ import annotations

import re
import tomllib
from typing import Final

import pytest

from tests.support.paths import ROOT

PAGE: Final = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_an_order_is_followed_in_ten_files() -> None:
    section = PAGE.split("## One order, from Kafka to the campaign action\n")[1].split("\n## ")[0]
    opened = re.findall(r"(?m)^\d+\. \*\*`([\w/.]+)`\*\*", section)
    assert len(opened) == len(set(opened)) == 10
    assert all((ROOT / name).is_file() for name in opened)


@pytest.mark.parametrize("package", ["stream", "trainer"])
def test_the_rooms_are_in_the_order_of_the_contracts(package: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    [layers] = [c["layers"] for c in contracts if c.get("containers") == [package]]
    floors = [{name.strip() for name in layer.split("|")} for layer in layers]
    rows = re.findall(rf"(?m)^\| ((?:`{package}/[\w.]+/?`(?:, )?)+) \|", PAGE)
    listed = [name for row in rows for name in re.findall(rf"`{package}/(\w+)", row)]
    assert sorted(listed) == sorted(name for floor in floors for name in floor)
    heights = [next(i for i, floor in enumerate(floors) if name in floor) for name in listed]
    assert heights == sorted(heights)


def test_every_file_of_segmentation_is_listed() -> None:
    files = {path.name for path in (ROOT / "segmentation").glob("*.py")} - {"__init__.py"}
    assert {name for name in files if f"`segmentation/{name}`" not in PAGE} == set()
