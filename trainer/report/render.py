"""The report of a training run: a page for people, Markdown and JSON for machines. All three say the same.

The JSON is the outcome itself, and the other two are made from it alone, so they can be made again from report.json.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.report import sentences, tables, worth_tables
from trainer.report.page import page

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.outcome import SegmentFacts, TrainingOutcome
    from trainer.report.tables import ReportTable


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """The files of a report."""

    html: Path
    markdown: Path
    json: Path


def write_report(outcome: TrainingOutcome, folder: Path) -> WrittenReport:
    """Write report.html, report.md and report.json into a folder, which is created if needed. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = WrittenReport(folder / "report.html", folder / "report.md", folder / "report.json")
    # The JSON first: the others can be made from it.
    written.json.write_bytes(outcome.to_json() + b"\n")
    written.markdown.write_text(markdown(outcome), encoding="utf-8")
    written.html.write_text(html(outcome), encoding="utf-8")
    return written


def html(outcome: TrainingOutcome) -> str:
    """Return the page; it needs no other file and fetches nothing."""
    return page(outcome)


def markdown(outcome: TrainingOutcome) -> str:
    """Return the sentences and tables of the page, without its charts."""
    parts = [f"# Customer segments as of {sentences.moment(outcome.as_of)}", f"**{sentences.badge(outcome)}**"]
    parts.append(plain(sentences.headline(outcome)))
    if outcome.segments:
        parts.append("## Segments")
        parts.append("\n".join(f"- **{plain(s.name)}**: {plain(_portrait(s, outcome))}" for s in outcome.segments))
        parts.append(_table(tables.segments(outcome)))
    parts += ["## Changes from the active model", *map(plain, sentences.changes(outcome))]
    parts += ["## Decision", *map(plain, sentences.verdict(outcome))]
    parts += _worth(outcome)
    if outcome.comparison is not None:
        parts.append("## Movement from the active model")
        parts += [
            _table(tables.movement(outcome, outcome.comparison)),
            _table(tables.money(outcome, outcome.comparison)),
        ]
    parts += _section("Trend over the last runs", worth_tables.runs(outcome))
    parts += ["## Customers in this training", *map(plain, sentences.input_notes(outcome))]
    if outcome.quality.features:
        parts.append(_table(tables.quality(outcome)))
    for table in (worth_tables.history(outcome), worth_tables.correlations(outcome)):
        parts += [] if table is None else [_table(table)]
    parts += ["## The choice of k", *map(plain, sentences.choice(outcome))]
    if outcome.fits:
        parts.append(_table(tables.fits(outcome)))
    if outcome.decision.gates:
        parts += ["## Gates", _table(tables.gates(outcome))]
    parts += ["## Details of the run", *(f"Warning: {plain(warning)}" for warning in outcome.warnings)]
    parts.append(_table(tables.facts(outcome)))
    if outcome.timings:
        parts.append(_table(tables.timings(outcome)))
    return "\n\n".join(parts) + "\n"


def _portrait(segment: SegmentFacts, outcome: TrainingOutcome) -> str:
    portrait, expectation = sentences.portrait(segment, outcome), sentences.expectation(segment, outcome.currency)
    said = (segment.definition, portrait, expectation)
    return " ".join(one for one in said if one is not None)


def _worth(outcome: TrainingOutcome) -> list[str]:
    """Return the sections on what comes and came."""
    parts = _section("The next 90 days of each segment", worth_tables.forecast(outcome))
    parts += _section("Customers near a border", worth_tables.borders(outcome))
    if outcome.later is not None:
        parts += ["## How far segments and forecast can be trusted", *map(plain, sentences.later(outcome.later))]
        if (table := worth_tables.rankings(outcome.later)) is not None:
            parts.append(_table(table))
    return parts


def _section(title: str, table: ReportTable | None) -> list[str]:
    return [] if table is None else [f"## {title}", _table(table)]


def plain(text: str) -> str:
    r"""Escape a text for Markdown, on one line.

    >>> print(plain("A|B *and* <b>"))
    A\|B \*and\* \<b\>
    """
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", " ".join(text.split(None)) if "\n" in text else text)


def _table(table: ReportTable) -> str:
    def row(cells: tuple[str, ...]) -> str:
        return f"| {' | '.join(map(plain, cells))} |"

    rule = tuple("---" if place in table.text_columns else "---:" for place in range(len(table.heads)))
    return "\n".join(
        [f"{plain(table.caption)}:", "", row(table.heads), f"| {' | '.join(rule)} |", *map(row, table.rows)]
    )
