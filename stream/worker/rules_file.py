"""The file of campaign rules: read at the start, and whenever it has changed. A broken one changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from segmentation.campaign_rules import RulesError, RuleTable, default_rules, parse_rules
from segmentation.campaigns import CampaignStep
from segmentation.rules_sense import over, thin_budgets
from stream.clock import now_ms
from stream.errors import SegstreamError
from stream.metrics import Metrics

log = logging.getLogger(__name__)

MOST_BYTES: Final = 1_000_000  # of a file: reading it takes seconds already
LOOK_S: Final = 0.5  # between two looks at the file; a change counts once two of them have seen the same


class RulesUnusable(SegstreamError):
    """The campaign rules can't be read, or aren't rules."""


def text_of(file: Path) -> str:
    """Return the text of a file of rules. Raises RulesUnusable."""
    try:
        with file.open("rb") as content:
            found = content.read(MOST_BYTES + 1)
        if len(found) > MOST_BYTES:
            hint = "A table has at most 1,000 rules. Is it the right file?"
            raise RulesUnusable(f"{file}: longer than {MOST_BYTES:,} bytes.", hint=hint)
        return found.decode("utf-8")
    except OSError as error:
        hint = "Give a file of campaign rules (--rules, SEGSTREAM_RULES_FILE)."
        raise RulesUnusable(f"{file}: {error.strerror}.", hint=hint) from None
    except UnicodeDecodeError as error:
        raise RulesUnusable(f"{file}: not UTF-8 at byte {error.start}.", hint="Save it as UTF-8.") from None


def rules_of(file: Path | None) -> RuleTable:
    """Return the rules of a file; None: the built-in ones. Raises RulesUnusable."""
    return parse_rules(default_rules()) if file is None else _parsed(file, text_of(file))


def cautions_of(table: RuleTable, partitions: int, at_ms: int) -> list[str]:
    """Return a sentence on each thing that is probably not meant so, in a deployment with so many partitions, now."""
    found = [*thin_budgets(table, partitions), *over(table, datetime.fromtimestamp(at_ms / 1000, UTC).date())]
    return table.warnings() + [table.placed(path, text) for path, text in found]


class _JudgedRules(NamedTuple):
    table: RuleTable
    cautions: list[str]


class RulesFile:
    """A file of rules that may change while a dispatcher runs.

    `warn` gets a sentence while the file can't be used, and "" once it can be again.
    """

    def __init__(
        self, file: Path, step: CampaignStep, metrics: Metrics, warn: Callable[[str], None], partitions: int
    ) -> None:
        """`step` has been built from the file, and gets each new table."""
        self._file = file
        self._step = step
        self._metrics = metrics
        self._warn = warn
        self._partitions = partitions
        self._seen: str | RulesUnusable | None = None
        self._judged: str | RulesUnusable | None = None
        metrics.rules_loaded.inc()

    async def watch(self) -> None:
        """Look at the file again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Read the file, and take its rules if they are new. A file that is still being written is left for later."""
        before = self._seen
        self._seen = await asyncio.to_thread(_content, self._file)
        if not _same(self._seen, before) or _same(self._seen, self._judged):
            return
        self._judged = text = self._seen
        # In a thread: reading a long table takes longer than a turn may wait.
        found = await asyncio.to_thread(self._judge, text)
        if isinstance(found, _JudgedRules):
            self._take(found)
        else:
            self._metrics.rules_failed.inc()
            self._metrics.rules_broken.set(1)
            self._warn(f"the rules in force aren't those of the file, which can't be used: {found}")
            log.error("the changed rules can't be used, and the last good ones stay in force: %s", found)

    def _judge(self, text: str | RulesUnusable) -> _JudgedRules | RulesUnusable:
        if isinstance(text, RulesUnusable):
            return text
        try:
            table = _parsed(self._file, text)
        except RulesUnusable as error:
            return error
        return _JudgedRules(table, cautions_of(table, self._partitions, now_ms()))

    def _take(self, found: _JudgedRules) -> None:
        table = found.table
        self._metrics.rules_broken.set(0)
        self._warn("")
        if table.digest == self._step.table.digest:
            return
        self._step.table = table
        self._metrics.rules_loaded.inc()
        log.info("%s: %d new rules are in force, with the digest %s", self._file, len(table.rules), table.digest)
        for caution in found.cautions:
            log.warning("%s: %s", self._file, caution)


def _parsed(file: Path, text: str) -> RuleTable:
    try:
        return parse_rules(text)
    except RulesError as error:
        hint = "docs/how-to/write-rules.md has examples; `segstream campaigns check` says the same."
        raise RulesUnusable(f"{file}: {error}.", hint=hint) from None


def _content(file: Path) -> str | RulesUnusable:
    try:
        return text_of(file)
    except RulesUnusable as error:
        return error


def _same(one: str | RulesUnusable | None, other: str | RulesUnusable | None) -> bool:
    return type(one) is type(other) and str(one) == str(other)
