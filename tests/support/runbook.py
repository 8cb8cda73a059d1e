"""docs/runbook.md: its entries for the reasons of a quarantine, and the commands in them."""

from __future__ import annotations

import re
from typing import Final

from tests.support.paths import ROOT

RUNBOOK: Final = (ROOT / "docs" / "runbook.md").read_text("utf-8")
_ENTRY: Final = re.compile(r"^### `(\w+)`\n(.*?)(?=^###? )", re.MULTILINE | re.DOTALL)
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> dict[str, list[list[str]]]:
    """Return the blocks of commands of each reason, in their order, each a list of lines."""
    return {
        reason: [block.strip().splitlines() for block in _BLOCK.findall(text)] for reason, text in entries().items()
    }


def entries() -> dict[str, str]:
    """Return the text of each reason's entry."""
    return dict(_ENTRY.findall(RUNBOOK))


def blocks_under(title: str) -> list[list[str]]:
    """Return the blocks of commands below a heading of the third level."""
    text = RUNBOOK.partition(f"\n### {title}\n")[2].partition("\n##")[0]
    return [block.strip().splitlines() for block in _BLOCK.findall(text)]
