"""The report's sentences, tables and files agree with the numbers, and HTML, Markdown and JSON with each other."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.support.data import report_cases as cases
from trainer.outcome import TrainingOutcome
from trainer.report import sentences
from trainer.report.render import html, markdown, write_report
from trainer.report.tables import NONE

if TYPE_CHECKING:
    from pathlib import Path

EVIL = (
    "<script>alert(1)</script>",
    "A|B & \"C\" 'D'",
    "</svg><img src=x onerror=y>",
    "**bold** [x](http://x)",
    "$0 \\g<0>",
)
SIZES = (2, 5, 9, 16)
NAMES = (*cases.NAMES, *(f"Segment {n}" for n in range(7)))
VOID = {"meta", "br", "wbr"}


class ParsedPage(HTMLParser):
    """A parsed page: its elements, which must be well nested, the cells of its tables, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"th", "td"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in {"th", "td"}:
            self.tables[-1][-1][-1] += data


def markdown_tables(text: str) -> list[list[list[str]]]:
    tables: list[list[list[str]]] = []
    for block in text.split("\n\n"):
        if block.startswith("| "):
            rows = [line for line in block.splitlines() if not re.fullmatch(r"[| :-]+", line)]
            cells = [re.split(r"(?<!\\) \| ", row[2:-2]) for row in rows]
            tables.append([[re.sub(r"\\(.)", r"\1", cell) for cell in row] for row in cells])
    return tables


def moved(outcome: TrainingOutcome) -> int:
    compared = outcome.comparison
    assert compared is not None
    return sum(
        number
        for before, row in zip(compared.before, compared.moves, strict=True)
        for after, number in zip(outcome.segments, row, strict=True)
        if before.id != after.id
    )


def test_the_headline_counts_customers_segments_and_money() -> None:
    outcome = cases.outcome(5, 3000)
    spent = f"They have spent {sum(s.money for s in outcome.segments):,.0f} net in the last 365 days."
    assert sentences.headline(outcome) == f"3,000 customers fall into 5 segments. {spent}"


def test_a_portrait_has_customers_money_and_the_median_customer() -> None:
    segment = cases.outcome().segments[0]
    assert segment.recency_days
    assert segment.frequency
    assert segment.monetary
    segment = msgspec.structs.replace(
        segment,
        customers=1234,
        share=0.25,
        money=99_000.4,
        money_share=0.5,
        recency_days=msgspec.structs.replace(segment.recency_days, median=9.2),
        frequency=msgspec.structs.replace(segment.frequency, median=1.0),
        monetary=msgspec.structs.replace(segment.monetary, median=20.5),
    )
    assert sentences.portrait(segment, cases.outcome()).replace("\N{NO-BREAK SPACE}", " ") == (
        "1,234 customers (25.0 %) with 99,000 in the last 365 days (50.0 % of the money). The median customer last "
        "ordered 9 days ago, and in the last 365 days placed 1 order and spent 20.50."
    )
    assert sentences.portrait(segment, over_lives()).replace("\N{NO-BREAK SPACE}", " ") == (
        "1,234 customers (25.0 %) with 99,000 in total (50.0 % of the money). The median customer last ordered 9 days "
        "ago, has ordered on 1 day and spent 20.50 in total."
    )


def test_every_sum_says_the_time_that_it_is_of() -> None:
    outcome = msgspec.structs.replace(cases.outcome(foreseen=True), window_days=90.0)
    quality = msgspec.structs.replace(outcome.quality, without_orders=5, without_money=3, negative_money=2)
    outcome = msgspec.structs.replace(outcome, quality=quality)
    for text in map(without_breaks, (markdown(outcome), html(outcome))):
        assert "in total" not in text
        assert "Without an order in the last 90 days: 5 customers." in text
        assert "With nothing spent, net, in the last 90 days: 3 customers." in text
        assert "With more refunded than spent in the last 90 days: 2 customers." in text
        for head in ("Money in the last 90 days", "Orders in the last 90 days, median"):
            assert head in text
        assert "money that these customers spent in the last 90 days" in text
        assert "before and after; money spent in the last 90 days" in text
    assert "all money spent in the last 90 days (pale)" in html(outcome)
    whole = msgspec.structs.replace(outcome, whole_lives=True)
    for text in map(without_breaks, (markdown(whole), html(whole))):
        assert "With nothing spent, net, in total: 3 customers." in text
        assert "Without an order in the last 90 days: 5 customers." in text
        for head in ("Money in total", "Days with an order in total, median", "Spent in total, median"):
            assert head in text
        assert "spent in the last 90 days" not in text


def without_breaks(text: str) -> str:
    return text.replace("<wbr>", "")


def over_lives() -> TrainingOutcome:
    return msgspec.structs.replace(cases.outcome(), whole_lives=True)


def test_the_currency_stands_by_the_money_where_it_is_known() -> None:
    outcome = cases.outcome()
    assert "GBP" not in markdown(outcome)
    outcome = msgspec.structs.replace(outcome, currency="GBP")
    assert sentences.headline(outcome).endswith("\N{NO-BREAK SPACE}GBP net in the last 365 days.")
    assert all("\N{NO-BREAK SPACE}GBP" in sentences.portrait(s, outcome) for s in outcome.segments)
    assert "| Money in the last 365 days, GBP |" in markdown(outcome)


def test_a_segment_without_anybody_has_a_portrait() -> None:
    segment = msgspec.structs.replace(
        cases.outcome().segments[0],
        customers=0,
        share=0.0,
        money=0.0,
        money_share=None,
        recency_days=None,
        frequency=None,
        monetary=None,
        silhouette=None,
    )
    said = sentences.portrait(segment, over_lives()).replace("\N{NO-BREAK SPACE}", " ")
    assert said == "0 customers (0 %) with 0 in total."


@pytest.mark.parametrize("k", SIZES)
def test_the_changes_agree_with_the_matrix(k: int) -> None:
    outcome = cases.outcome(k, names=NAMES)
    assert outcome.comparison is not None
    found = sentences.changes(outcome)
    assert f" {moved(outcome):,} of 3,000 customers" in found[0]
    assert f"({100 * moved(outcome) / 3000:.1f}\N{NO-BREAK SPACE}%)" in found[0]
    assert f"New: {NAMES[k - 1]}." in found
    assert "Not in the new model any more: Old Guard." in found
    largest = sentences.moves(outcome)[0]
    assert largest.customers == max(
        number
        for before, row in zip(outcome.comparison.before, outcome.comparison.moves, strict=True)
        for after, number in zip(outcome.segments, row, strict=True)
        if before.id != after.id
    )
    assert f"{largest.source} → {largest.target} {largest.customers:,} " in found[-1]


def test_a_move_between_segments_of_one_id_is_none() -> None:
    outcome = cases.outcome()
    assert outcome.comparison is not None
    renamed = tuple(
        msgspec.structs.replace(before, id=after.id, name="Old name")
        for before, after in zip(outcome.comparison.before, outcome.segments, strict=True)
    )
    still = tuple(
        tuple(n if a == b else 0 for b, n in enumerate(row)) for a, row in enumerate(outcome.comparison.moves)
    )
    compared = msgspec.structs.replace(outcome.comparison, before=renamed, moves=still, moved=0.0)
    found = sentences.changes(msgspec.structs.replace(outcome, comparison=compared))
    assert " would move 0 of " in found[0]
    assert found[1:] == ["All segments keep their names."]


def test_without_an_active_model_nothing_is_compared() -> None:
    outcome = cases.outcome(compared=False)
    assert sentences.changes(outcome) == ["No model was active before, so every customer gets a first segment."]
    assert "Movement" not in markdown(outcome)
    assert "Movement" not in ParsedPage(html(outcome)).text


@pytest.mark.parametrize(
    ("outcome", "badge", "said"),
    [
        (cases.outcome(), "Published: active", "every worker scores with it"),
        (cases.outcome(verdict="candidate"), "Published: candidate", "until it is promoted"),
        (cases.outcome(verdict="dry-run"), "Dry run: nothing published", "has the best silhouette"),
        (cases.refused(), "Refused", "the active model, if there is one, stays active"),
    ],
)
def test_the_verdict_and_its_reasons_are_shown(outcome: TrainingOutcome, badge: str, said: str) -> None:
    for report in (ParsedPage(html(outcome)).text, markdown(outcome)):
        assert badge in report
        assert said in report
        assert outcome.decision.why[0] in report
        assert "--force" not in report


@pytest.mark.parametrize("outcome", [cases.outcome(), cases.outcome(foreseen=True), cases.outcome(forced=True)])
def test_the_summary_has_no_version_and_no_figures_of_fits(outcome: TrainingOutcome) -> None:
    assert outcome.comparison is not None
    text = markdown(outcome)
    summary, rest = text.split("\n\n## Decision\n\n")
    summary += rest.split("\n\n## ")[0]
    for jargon in (outcome.version or "", outcome.comparison.version, "k =", "silhouette", "centroid", "margin"):
        assert jargon not in summary
    assert outcome.decision.why[0] in rest


def test_the_summary_says_what_stands_in_where_something_is_missing() -> None:
    outcome = cases.outcome()
    missing = "The history is too short to fit how customers order: a usual gap of 60 days stands in."
    why = (*outcome.decision.why, "k = 9 with log1p fails by stability 0.7 (at least 0.8).", missing)
    outcome = msgspec.structs.replace(
        outcome, fits=(), chosen=None, decision=msgspec.structs.replace(outcome.decision, why=why)
    )
    assert sentences.verdict(outcome)[1:] == [missing]
    assert sentences.choice(outcome) == list(why[:2])
    for report in (ParsedPage(html(outcome)).text, markdown(outcome)):
        assert missing in report


def test_the_next_90_days_adds_up() -> None:
    outcome = cases.outcome(foreseen=True)
    table = next(t for t in markdown_tables(markdown(outcome)) if t[0][2] == "Expected to order")
    orders = [int(row[4].replace(",", "")) for row in table[1:]]
    assert orders[-1] == pytest.approx(sum(orders[:-1]), abs=3)
    assert f"expected to place about {orders[-1]:,} orders worth " in sentences.headline(outcome)
    past = outcome.segments[0].past
    assert past is not None
    share = 100 * past.ordered / past.customers
    assert table[1][8] == f"{share:.1f}\N{NO-BREAK SPACE}%"
    said = sentences.expectation(outcome.segments[0])
    assert said is not None
    assert f"Of those who were here 90 days ago, {share:.0f}\N{NO-BREAK SPACE}% ordered since." in said


def test_where_nothing_is_known_of_last_time_there_is_no_column_of_it() -> None:
    outcome = cases.outcome(foreseen=True)
    bare = tuple(msgspec.structs.replace(s, past=None) for s in outcome.segments)
    table = next(
        t
        for t in markdown_tables(markdown(msgspec.structs.replace(outcome, segments=bare)))
        if t[0][2] == "Expected to order"
    )
    assert table[0][-1] == "Silent for so many usual gaps, median"


def test_without_fitted_values_nothing_is_said_of_expected_money() -> None:
    outcome = cases.outcome(foreseen=True)
    poorer = tuple(
        msgspec.structs.replace(s, forecast=s.forecast and msgspec.structs.replace(s.forecast, spend=None))
        for s in outcome.segments
    )
    outcome = msgspec.structs.replace(outcome, segments=poorer)
    assert sentences.headline(outcome).endswith(" orders.")
    table = next(t for t in markdown_tables(markdown(outcome)) if t[0][2] == "Expected to order")
    assert {row[5] for row in table[1:]} == {NONE}


def test_the_trend_puts_ended_segments_together() -> None:
    outcome = cases.outcome(foreseen=True)
    table = next(t for t in markdown_tables(markdown(outcome)) if t[0][0] == "Trained as of")
    assert len(table) == 1 + len(outcome.past) + 1
    assert table[1][2] == NONE  # the first segment is newer than the first model
    ended = 100 * outcome.past[0].segments[0].share
    assert [row[-1] for row in table[1:]] == [f"{ended:.1f}\N{NO-BREAK SPACE}%", NONE, NONE, NONE]


def test_an_overruled_gate_is_shown() -> None:
    outcome = cases.outcome(forced=True)
    assert "--force" in ParsedPage(html(outcome)).text
    row = next(row for table in markdown_tables(markdown(outcome)) for row in table if row[0] == "moved")
    assert row[3] == "✗ fails"


def test_a_refused_run_shows_what_every_fit_failed() -> None:
    text = ParsedPage(html(cases.refused())).text
    assert "fails: smallest share <\N{NO-BREAK SPACE}0.1\N{NO-BREAK SPACE}%" in text
    assert "not fitted: only 2 customers differ." in text
    assert "No model was made of the" in text


@pytest.mark.parametrize(
    "outcome",
    [cases.outcome(k, names=NAMES, foreseen=foreseen) for k in SIZES for foreseen in (False, True)] + [cases.refused()],
)
def test_the_page_and_the_markdown_have_the_same_tables(outcome: TrainingOutcome) -> None:
    on_page, in_text = ParsedPage(html(outcome)).tables, markdown_tables(markdown(outcome))
    assert sorted(on_page) == sorted(in_text)
    assert len(on_page) >= 3


def test_the_markdown_and_the_json_hold_the_same_figures() -> None:
    outcome = cases.outcome()
    content = json.loads(outcome.to_json())
    tables = markdown_tables(markdown(outcome))
    segments = next(table for table in tables if table[0][0] == "Segment")
    for row, segment in zip(segments[1:], content["segments"], strict=False):
        share = f"{100 * segment['share']:.1f}\N{NO-BREAK SPACE}%"
        assert row[0].removesuffix(" (new)") == segment["name"]
        assert row[1:4] == [f"{segment['customers']:,}", share, f"{segment['money']:,.0f}"]
    matrix = next(table for table in tables if table[0][0] == "From \\ to")
    numbers = [[int(cell.replace(",", "")) if cell[0].isdigit() else 0 for cell in row[1:-1]] for row in matrix[1:-1]]
    assert numbers == content["comparison"]["moves"]
    assert [row[-1] for row in matrix[1:-1]] == [f"{sum(row):,}" for row in numbers]
    assert matrix[-1][1:] == [*(f"{sum(column):,}" for column in zip(*numbers, strict=True)), "3,000"]
    fits = next(table for table in tables if table[0][0] == "Fit")
    assert [row[2] for row in fits[1:]] == [f"{fit['silhouette']:.3f}" for fit in content["fits"]]
    assert [row[8].startswith("chosen") for row in fits[1:]] == [fit["chosen"] for fit in content["fits"]]


def test_money_before_and_after_adds_up() -> None:
    outcome = cases.outcome()
    table = next(t for t in markdown_tables(markdown(outcome)) if t[0][1] == "Customers before")
    before, after, change = (
        [int(row[place].replace(",", "").replace("\N{MINUS SIGN}", "-")) for row in table[1:]] for place in (1, 2, 3)
    )
    assert sum(before) == sum(after) == 3000
    assert [b + c for b, c in zip(before, change, strict=True)] == after


def test_names_are_escaped() -> None:
    outcome = msgspec.structs.replace(
        cases.outcome(names=EVIL, foreseen=True), source="<b>file</b>.csv", warnings=("<i>mind</i>",)
    )
    read = ParsedPage(html(outcome))
    assert {tag for tag, _ in read.elements} & {"script", "img", "i", "b", "a"} == set()
    assert not any(key.startswith("on") for _, attributes in read.elements for key in attributes)
    for name in (*EVIL, "<b>file</b>.csv", "<i>mind</i>"):
        assert name in read.text
    found = markdown(outcome)
    assert "<" not in re.sub(r"\\.", "", found).replace("|z|", "")
    assert "**bold**" not in found


@pytest.mark.parametrize("outcome", [cases.outcome(9), cases.outcome(16, names=NAMES, foreseen=True), cases.refused()])
def test_the_page_needs_nothing_and_describes_its_charts_for_screen_readers(outcome: TrainingOutcome) -> None:
    page = html(outcome)
    read = ParsedPage(page)
    assert not re.search(r"url\(|@import|https?://|<script|\bsrc=|\bhref=", page)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = [attributes for tag, attributes in read.elements if tag == "svg"]
    for picture in pictures:
        assert picture["role"] == "img"
        assert set((picture["aria-labelledby"] or "").split()) <= set(ids)
    assert [tag for tag, _ in read.elements].count("desc") == len(pictures) >= 2


def test_a_written_outcome_gives_the_same_report_again(tmp_path: Path) -> None:
    outcome = cases.outcome(foreseen=True)
    written = write_report(outcome, tmp_path / "new" / "folder")
    again = TrainingOutcome.from_json(written.json.read_bytes())
    assert again == outcome
    assert html(again) == written.html.read_text(encoding="utf-8")
    assert markdown(again) == written.markdown.read_text(encoding="utf-8")
    assert len(written.html.read_bytes()) < 300_000
