"""The report of a training run: a page for people, Markdown and JSON for machines. All three say the same.

The JSON is the outcome itself, and the other two are made from it alone: `read_outcome` and `html` or `markdown` give
an old run's report anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from trainer.errors import TrainerError
from trainer.outcome import TrainingOutcome
from trainer.report import sentences as words
from trainer.report import tables
from trainer.report.page import page

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.report.tables import ReportTable


class ReportError(TrainerError):
    """A file isn't the report of a training run."""


@dataclass(frozen=True, slots=True)
class Written:
    """Where the report lies."""

    html: Path
    markdown: Path
    json: Path


def write_report(outcome: TrainingOutcome, folder: Path) -> Written:
    """Write report.html, report.md and report.json into a folder, made where it isn't there; OSError where it can't."""
    folder.mkdir(parents=True, exist_ok=True)
    written = Written(folder / "report.html", folder / "report.md", folder / "report.json")
    # The JSON first: from it the others can be made anew.
    written.json.write_bytes(outcome.to_json() + b"\n")
    written.markdown.write_text(markdown(outcome), encoding="utf-8")
    written.html.write_text(html(outcome), encoding="utf-8")
    return written


def read_outcome(path: Path) -> TrainingOutcome:
    """Read a report.json. Raises ReportError where it is none, OSError where it can't be read."""
    try:
        return TrainingOutcome.from_json(path.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportError(
            f"{path} is not the report of a training run: {error}.", hint="Give the report.json that segtrainer wrote."
        ) from None


def html(outcome: TrainingOutcome) -> str:
    """Give the page: whole in itself, nothing is fetched."""
    return page(outcome)


def markdown(outcome: TrainingOutcome) -> str:
    """Give the words and tables of the page, without its figures."""
    parts = [f"# Customer segments as of {words.moment(outcome.as_of)}", f"**{words.badge(outcome)}**"]
    parts.append(plain(words.headline(outcome)))
    if outcome.segments:
        parts.append("## The segments")
        parts.append(
            "\n".join(f"- **{plain(s.name)}**: {plain(words.portrait(s, outcome.currency))}" for s in outcome.segments)
        )
        parts.append(_table(tables.segments(outcome)))
    parts += ["## What changes against the active model", *map(plain, words.changes(outcome))]
    parts += ["## Whether it was published, and why", *map(plain, words.verdict(outcome))]
    parts += ["## The customers that went in", *map(plain, words.input_notes(outcome))]
    if outcome.quality.features:
        parts.append(_table(tables.quality(outcome)))
    parts += ["## The choice of k", _table(tables.fits(outcome))]
    if outcome.comparison is not None:
        parts.append("## Movement against the active model")
        parts += [
            _table(tables.movement(outcome, outcome.comparison)),
            _table(tables.money(outcome, outcome.comparison)),
        ]
    if outcome.decision.gates:
        parts += ["## The gates", _table(tables.gates(outcome))]
    parts += ["## Facts of the run", *(f"Warning: {plain(told)}" for told in outcome.warnings)]
    parts.append(_table(tables.facts(outcome)))
    if outcome.timings:
        parts.append(_table(tables.timings(outcome)))
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    r"""Write a text so that Markdown reads it as it is, on one line.

    >>> print(plain("A|B *and* <b>"))
    A\|B \*and\* \<b\>
    """
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", " ".join(text.split(None)) if "\n" in text else text)


def _table(table: ReportTable) -> str:
    def row(cells: tuple[str, ...]) -> str:
        return f"| {' | '.join(map(plain, cells))} |"

    rule = tuple("---" if place in table.words else "---:" for place in range(len(table.heads)))
    return "\n".join(
        [f"{plain(table.caption)}:", "", row(table.heads), f"| {' | '.join(rule)} |", *map(row, table.rows)]
    )
