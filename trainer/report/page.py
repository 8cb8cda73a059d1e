"""The report as one HTML page without scripts or network: for light and dark screens, for paper and for a phone."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Final

from trainer.report import sentences, tables, worth_charts, worth_tables
from trainer.report.cluster_charts import curves, plane, silhouettes
from trainer.report.customer_charts import Chart, box_plots, distributions, shares
from trainer.report.markup import Markup, count, joined, percent, tag
from trainer.report.svg import colour

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trainer.outcome import Comparison, SegmentFacts, TrainingOutcome
    from trainer.report.tables import ReportTable

# The page requests nothing, and the browser would refuse it: a segment's name can't fetch or run anything either.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_MANY_COLUMNS: Final = 8  # from so many on, a table is set smaller on paper
_DENSE_COLUMNS: Final = 12  # from so many on, its words may break anywhere there
_MARGIN: Final = (
    "These are the segments that the workers would assign: a customer near a border stays where they are. The totals "
    "therefore differ slightly from those of the segments above, which place every customer afresh."
)
# A long word may break after twelve letters, if at least four follow.
_LONG: Final = re.compile(r"[^\s-]{12}(?=[^\s-]{4})")
_TONES: Final = {"active": "good", "candidate": "plain", "dry-run": "plain", "refused": "bad"}


def page(outcome: TrainingOutcome) -> str:
    """Return the whole page."""
    title = f"Customer segments as of {sentences.moment(outcome.as_of)}"
    style = resources.files("trainer.report").joinpath("report.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Markup(style)),
    )
    parts = [_summary(outcome, title), *_forecast(outcome), *_borders(outcome)]
    parts += [*_later(outcome), *_movement(outcome), *_trend(outcome), *_customers(outcome)]
    parts += [*_choice(outcome), *_clusters(outcome), *_gates(outcome), *_facts(outcome)]
    return "<!doctype html>\n" + tag("html", head, tag("body", tag("main", *parts)), lang="en") + "\n"


def _summary(outcome: TrainingOutcome, title: str) -> Markup:
    top = [
        tag("h1", title),
        tag("p", tag("span", sentences.badge(outcome), class_=f"badge {_TONES[outcome.decision.verdict]}")),
        tag("p", sentences.headline(outcome), class_="lead"),
    ]
    changes = [tag("h3", "Changes from the active model"), *(tag("p", s) for s in sentences.changes(outcome))]
    reasons = [tag("h3", "Decision"), *(tag("p", s) for s in sentences.verdict(outcome))]
    if not outcome.segments:
        return tag("header", *top, *reasons, *changes)
    portraits = [
        tag(
            "li",
            tag("strong", segment.name),
            *(tag("span", said) for said in _portrait(segment, outcome)),
            tag("span", f"Action: {segment.action}", class_="action"),
            class_=colour(index),
        )
        for index, segment in enumerate(outcome.segments)
    ]
    listed = tag("section", tag("h3", "Segments"), tag("ul", *portraits, class_="portraits"))
    beside = tag("section", _chart(shares(outcome)), *changes, *reasons)
    table = _table(tables.segments(outcome), "stack")
    return tag("header", *top, tag("div", listed, beside, class_="summary"), table)


def _portrait(segment: SegmentFacts, outcome: TrainingOutcome) -> list[str]:
    return [
        said
        for said in (
            segment.definition,
            sentences.portrait(segment, outcome),
            sentences.expectation(segment, outcome.currency),
        )
        if said is not None
    ]


def _forecast(outcome: TrainingOutcome) -> list[Markup]:
    table = worth_tables.forecast(outcome)
    if table is None:
        return []
    chart = worth_charts.ordering(outcome)
    drawn = [] if chart is None else [_charts([chart], wide=True)]
    return [tag("h2", "The next 90 days of each segment"), *drawn, _table(table, "stack")]


def _borders(outcome: TrainingOutcome) -> list[Markup]:
    table = worth_tables.borders(outcome)
    return [] if table is None else [tag("h2", "Customers near a border"), _table(table, "stack")]


def _later(outcome: TrainingOutcome) -> list[Markup]:
    if outcome.later is None:
        return []
    parts = [tag("h2", "How far segments and forecast can be trusted")]
    parts += [tag("p", said) for said in sentences.later(outcome.later)]
    chart, table = worth_charts.calibration(outcome.later), worth_tables.rankings(outcome.later)
    return [*parts, *([] if chart is None else [_charts([chart])]), *([] if table is None else [_table(table)])]


def _trend(outcome: TrainingOutcome) -> list[Markup]:
    chart, table = worth_charts.trend(outcome), worth_tables.runs(outcome)
    if chart is None or table is None:
        return []
    return [tag("h2", "Trend over the last runs"), _charts([chart], wide=True), _table(table)]


def _customers(outcome: TrainingOutcome) -> list[Markup]:
    parts = [tag("h2", "Customers in this training")]
    parts += [tag("p", sentence) for sentence in sentences.input_notes(outcome)]
    if outcome.quality.features:
        parts.append(_table(tables.quality(outcome)))
    for table in (worth_tables.history(outcome), worth_tables.correlations(outcome)):
        parts += [] if table is None else [_table(table)]
    if outcome.sample is None:
        return parts
    drawn = len(outcome.sample.segment)
    if drawn < outcome.quality.customers:
        sampled = f"The charts show a random sample of {count(drawn)} of them."
        parts.append(tag("p", sampled, class_="quiet"))
    return [
        *parts,
        tag("h2", "The figures that decide, overall and by segment"),
        *([] if outcome.whole_lives else [tag("p", f"Orders and money are those of {sentences.window(outcome)}.")]),
        _charts(box_plots(outcome, outcome.sample)),
        tag("h2", "Distributions before and after the transform"),
        tag(
            "p",
            "Distances between customers are meaningful only without long tails, which the transform shortens.",
        ),
        _charts(distributions(outcome, outcome.sample)),
    ]


def _choice(outcome: TrainingOutcome) -> list[Markup]:
    said = [tag("h2", "The choice of k"), *(tag("p", reason) for reason in sentences.choice(outcome))]
    return [*said, _charts(curves(outcome)), _table(tables.fits(outcome))] if outcome.fits else said


def _clusters(outcome: TrainingOutcome) -> list[Markup]:
    if outcome.sample is None or not outcome.segments:
        return []
    wide = [silhouettes(outcome, outcome.sample)]
    if outcome.projection is not None:
        wide.append(plane(outcome, outcome.sample, outcome.projection))
    return [
        tag("h2", "Where the segments lie"),
        _charts([chart for chart in wide if chart is not None], wide=True),
    ]


def _movement(outcome: TrainingOutcome) -> list[Markup]:
    if outcome.comparison is None:
        return []
    return [
        tag("h2", "Movement from the active model"),
        tag("p", _MARGIN),
        _matrix(outcome, outcome.comparison),
        _table(tables.money(outcome, outcome.comparison), "stack"),
    ]


def _gates(outcome: TrainingOutcome) -> list[Markup]:
    heading = tag("h2", "Gates")
    if not outcome.decision.gates:
        reason = "No gate applied." if outcome.segments else "No fit was chosen, so there is nothing to judge."
        return [heading, tag("p", reason)]
    return [heading, _table(tables.gates(outcome), "stack")]


def _facts(outcome: TrainingOutcome) -> list[Markup]:
    parts = [tag("h2", "Details of the run"), *(tag("p", f"Warning: {warning}") for warning in outcome.warnings)]
    listed = [tables.facts(outcome)] + ([tables.timings(outcome)] if outcome.timings else [])
    return [*parts, tag("div", *map(_table, listed), class_="summary")]


def _charts(charts: Sequence[Chart], *, wide: bool = False) -> Markup:
    return tag("div", *map(_chart, charts), class_="charts wide" if wide else "charts")


def _chart(chart: Chart) -> Markup:
    return tag("figure", tag("h3", chart.title), chart.svg, tag("figcaption", chart.caption))


def _table(table: ReportTable, kind: str = "") -> Markup:
    rows = [
        tag(
            "tr",
            *(_cell(table, column, text) for column, text in enumerate(row)),
            role="row",
            class_="marked" if index == table.marked else None,
        )
        for index, row in enumerate(table.rows)
    ]
    return _framed(table, rows, kind)


def _cell(table: ReportTable, column: int, text: str) -> Markup:
    kind = "text" if column in table.text_columns else None
    if column == 0:
        return tag("th", _breakable(text), scope="row", role="rowheader", class_=kind)
    return tag("td", _breakable(text), role="cell", class_=kind, data_head=table.heads[column])


def _breakable(text: str) -> Markup:
    """Let long words break in a narrow column, by an element that is neither copied nor read aloud."""
    first, *rest = _LONG.sub("\\g<0>\0", text).split("\0")
    return joined([first, *(part for piece in rest for part in (tag("wbr"), piece))])


def _matrix(outcome: TrainingOutcome, compared: Comparison) -> Markup:
    """Return the movement table, each cell coloured by its share of the row; customers who stay are outlined."""
    table = tables.movement(outcome, compared)
    rows: list[Markup] = []
    for row, before, numbers in zip(table.rows, compared.before, compared.moves, strict=False):
        whole = sum(numbers)
        cells = [tag("th", _breakable(row[0]), scope="row", role="rowheader", class_="text")]
        for text, after, number in zip(row[1:], outcome.segments, numbers, strict=False):
            part = number / whole if whole else 0.0
            title = f"{before.name} to {after.name}: {count(number)} customers, {percent(part)} of {before.name}"
            kind = "heat stays" if before.id == after.id else "heat"
            cells.append(tag("td", text, role="cell", class_=kind, style=f"--part:{part:.3f}", title=title))
        rows.append(tag("tr", *cells, tag("td", row[-1], role="cell"), role="row"))
    last = [_cell(table, column, text) for column, text in enumerate(table.rows[-1])]
    return _framed(table, [*rows, tag("tr", *last, role="row", class_="marked")], "")


def _framed(table: ReportTable, rows: Iterable[Markup], kind: str) -> Markup:
    heads = [
        tag(
            "th",
            _breakable(text),
            scope="col",
            role="columnheader",
            class_="text" if column in table.text_columns else None,
        )
        for column, text in enumerate(table.heads)
    ]
    # With explicit roles: on a phone the style sheet shows rows as cards, and browsers then drop the implicit ones.
    made = tag(
        "table",
        tag("caption", table.caption),
        tag("thead", tag("tr", *heads, role="row"), role="rowgroup"),
        tag("tbody", joined(rows), role="rowgroup"),
        role="table",
    )
    density = " many" * (len(table.heads) >= _MANY_COLUMNS) + " dense" * (len(table.heads) >= _DENSE_COLUMNS)
    # A table wider than the screen scrolls inside its own frame, also by keyboard.
    return tag(
        "div", made, class_=f"table {kind}{density}".rstrip(), role="region", aria_label=table.caption, tabindex="0"
    )
