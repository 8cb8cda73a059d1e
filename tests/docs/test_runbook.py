"""docs/runbook.md has an entry for each reason of a quarantine and for each alert."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")


def quarantine_reasons() -> list[str]:
    """Return the reasons that docs/explanation/exactly-once.md lists; another test compares those with the code."""
    page = (ROOT / "docs" / "explanation" / "exactly-once.md").read_text("utf-8")
    section = page.partition("## 8 Quarantine")[2].partition("\n## ")[0]
    return re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)))


def test_every_reason_of_a_quarantine_has_an_entry() -> None:
    entries = re.findall(r"^### `(\w+)`$", RUNBOOK, re.MULTILINE)
    assert sorted(entries) == sorted(quarantine_reasons())


def test_every_alert_has_an_entry() -> None:
    metrics = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    alerts = set(re.findall(r"segstream_\w+", metrics.partition("## Alerts")[2]))
    assert alerts
    assert alerts <= set(re.findall(r"segstream_\w+", RUNBOOK))
