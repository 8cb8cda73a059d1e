from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stream.settings import Settings
from tests.support.command_line import run

if TYPE_CHECKING:
    from pathlib import Path

RULES = """
version: 2
holdouts: {global: 0.5, rotate: year}
rules:
  - {name: win-back, when: {to: [Lost]}, then: {action: Voucher, channel: email}, holdout: 0.075}
  - {name: receipt, when: {to: "*"}, then: {action: Receipt, channel: email}, transactional: true}
"""


def test_the_control_groups_of_a_customer(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    settings = Settings(rules_file=rules)
    answers = {}
    for number in range(12):
        asked = ("campaigns", "holdout", f"c{number}", "--at", "2026-05-03")
        found = json.loads(run(settings, *asked, "--json").stdout)
        everything, own = found["groups"]
        answers[everything["held_out"]] = run(settings, *asked)
        assert [one["held_out"] for one in found["campaigns"]] == [everything["held_out"] or own["held_out"], False]
        assert found["until"] == "2027-01-01T00:00:00.000Z"
    assert "in the control group  global, 50 %" in answers[True].stdout
    assert "held out of           win-back (global)" in answers[True].stdout
    assert "win-back, 7.5 %" in answers[False].stdout
    assert "may get               win-back, receipt" in answers[False].stdout
    assert "until 2027-01-01T00:00:00.000Z (2026)" in answers[False].stdout


def test_the_built_in_rules_stand_in_where_there_are_none() -> None:
    done = run(Settings(), "campaigns", "holdout", "ada")
    assert "may get" in done.stdout
