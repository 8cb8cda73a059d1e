"""Pages can be read in a terminal, and the site asks no other host for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.paths import ROOT

PAGES: Final = [
    # The samples are written by the trainer.
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "samples"),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
LONGEST: Final = 120
# A row of a table can't be wrapped; a command's output and a link's address are as they are.
CANT_BE_WRAPPED: Final = re.compile(r"\s*\||\s*\S*\]\(\S+\)\S*$|\s*<!--|\s*\S+$")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short(page: Path) -> None:
    text = re.sub(r"(?ms)^( *)```.*?^\1```$", "", page.read_text("utf-8"))
    long = [line for line in text.splitlines() if len(line) > LONGEST and not CANT_BE_WRAPPED.match(line)]
    assert long == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 90


def test_the_site_asks_no_other_host(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    zensical = Path(sys.executable).parent / "zensical"
    built = subprocess.run([zensical, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES) - 5
    for page in pages:
        text = page.read_text("utf-8")
        loaded = re.findall(r'<(?:script|link|img|iframe|source)[^>]*(?:src|href)="?(?:https?:)?//[^>]*>', text)
        assert loaded == [], page
        assert 'class="mermaid"' not in text, page  # its script would come from another host
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", sheet.read_text("utf-8")), sheet
