"""docs/how-to/dead-letters.md and docs/reference/dead-letter-reasons.md keep up with the code."""

from __future__ import annotations

import re

from segmentation.events import Reason
from stream.dead_letters.reasons import FIXABLE
from stream.dead_letters.records import KEPT_OF_HUGE
from stream.dead_letters.routing import LEFT_REASONS, MAX_REDRIVES
from stream.settings import Settings
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "how-to" / "dead-letters.md").read_text() + (DOCS / "reference" / "dead-letter-reasons.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table that begins with this heading."""
    found = re.search(rf"(?ms)^\| {heading} \|.*?\n\n", PAGE)
    assert found, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines()[2:] if line]


def test_every_reason_is_listed_with_what_to_do_and_whether_it_goes_back() -> None:
    listed = {row[0].strip("`"): row for row in rows("reason")}
    assert sorted(listed) == sorted(Reason)
    assert all(row[1] and row[2] for row in listed.values())
    assert sorted(name for name, row in listed.items() if row[3]) == sorted(FIXABLE)


def test_every_reason_to_leave_a_dead_letter_is_listed() -> None:
    assert [row[0].strip("`") for row in rows("left")] == list(LEFT_REASONS)


def test_numbers() -> None:
    assert f"{Settings().earliest_date}" in PAGE
    assert KEPT_OF_HUGE == 64 * 1024
    assert MAX_REDRIVES == 8
    assert PAGE.count("eight times") == 2
