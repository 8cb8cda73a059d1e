"""A file of rules that changes while a dispatcher runs: what comes into force, and what only warns."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from segmentation.campaign_rules import default_rules
from segmentation.campaigns import CampaignStep
from stream.errors import SegstreamError
from stream.metrics import Metrics
from stream.worker.rules_file import RulesFile, RulesUnusable, cautions_of, rules_of, text_of
from tests.support.rules import ANY, rule_table, rules_text

FIRST, SECOND = rules_text(ANY), rules_text("to: [Lost]")


class Watched:
    """A file, and the dispatcher that has started by it."""

    def __init__(self, file: Path, partitions: int = 4) -> None:
        file.write_text(FIRST, "utf-8")
        self.file, self.metrics, self.warnings = file, Metrics(), list[str]()
        self.step = CampaignStep(rules_of(file), "shop")
        self.rules = RulesFile(file, self.step, self.metrics, self.warnings.append, partitions)

    async def settle(self) -> None:
        for _ in range(3):
            await self.rules.look()

    def counts(self) -> tuple[float, float, float]:
        found = (self.metrics.registry.get_sample_value(f"segstream_rules_{name}") for name in NAMES)
        loaded, failed, broken = (value or 0.0 for value in found)
        return loaded, failed, broken


NAMES = ("loaded_total", "failed_total", "broken")


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "rules.yaml")


async def test_a_changed_file_comes_into_force(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = watched.step.table
    await watched.settle()
    assert watched.step.table is before
    assert watched.counts() == (1, 0, 0)
    watched.file.write_text(SECOND, "utf-8")
    await watched.settle()
    assert watched.step.table.digest == rule_table("to: [Lost]").digest
    assert watched.counts() == (2, 0, 0)
    assert f"1 new rules are in force, with the digest {watched.step.table.digest}" in caplog.text


async def test_a_file_changed_before_the_first_look_comes_into_force(watched: Watched) -> None:
    watched.file.write_text(SECOND, "utf-8")
    await watched.settle()
    assert watched.step.table.digest == rule_table("to: [Lost]").digest


@pytest.mark.parametrize("broken", [b"version: 2\nrules: 5", b"\xff", None], ids=["no rules", "no text", "no file"])
async def test_a_broken_file_keeps_the_last_good_one(
    watched: Watched, broken: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    watched.file.write_text(SECOND, "utf-8")
    await watched.settle()
    good = watched.step.table
    if broken is None:
        watched.file.unlink()
    else:
        watched.file.write_bytes(broken)
    await watched.settle()
    await watched.settle()
    assert watched.step.table is good
    assert watched.counts() == (2, 1, 1)
    assert watched.warnings[-1].startswith(
        f"the rules in force aren't those of the file, which can't be used: {watched.file}"
    )
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    watched.file.write_text(SECOND, "utf-8")  # as it was: no other table
    await watched.settle()
    assert (watched.step.table, watched.counts(), watched.warnings[-1]) == (good, (2, 1, 0), "")


async def test_a_file_that_is_being_written_is_left_alone(watched: Watched) -> None:
    for end in range(0, len(SECOND), 20):
        watched.file.write_text(SECOND[:end], "utf-8")
        await watched.rules.look()
    assert watched.counts() == (1, 0, 0)
    watched.file.write_text(SECOND, "utf-8")
    await watched.settle()
    assert watched.counts() == (2, 0, 0)


async def test_another_comment_is_no_other_table(watched: Watched) -> None:
    before = watched.step.table
    watched.file.write_text(f"# a comment\n{FIRST}", "utf-8")
    await watched.settle()
    assert watched.step.table is before
    assert watched.counts() == (1, 0, 0)


async def test_what_is_probably_not_meant_so_is_logged(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.file.write_text(rules_text(f"{ANY} | budget: {{per_day: 3}}, valid: {{until: 2020-01-01}}"), "utf-8")
    await watched.settle()
    assert "budget.per_day: 3 a day, shared by 4 partitions" in caplog.text
    assert "valid.until: over since 2020-01-01" in caplog.text


def test_rules_that_can_t_be_read_say_so(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    with pytest.raises(RulesUnusable, match="No such file or directory"):
        text_of(file)
    file.write_bytes(b"a\xff")
    with pytest.raises(RulesUnusable, match="not UTF-8 at byte 1"):
        text_of(file)
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(RulesUnusable, match="longer than 1,000,000 bytes"):
        text_of(file)
    file.write_text("version: 2\nrules: []", "utf-8")
    with pytest.raises(RulesUnusable, match=r"line 2, rules: .*, expected at least one"):
        rules_of(file)
    assert issubclass(RulesUnusable, SegstreamError)  # the command ends with one line on stderr


def test_the_built_in_rules_are_those_of_no_file() -> None:
    assert rules_of(None).digest == rules_of(None).digest
    assert default_rules().startswith("#")
    assert cautions_of(rules_of(None), 12, 0) == []
