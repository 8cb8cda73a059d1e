"""The report as one HTML page: no script, nothing from the network, readable in light, in dark, on paper and on a phone."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Final

from trainer.report import sentences as words
from trainer.report import tables
from trainer.report.cluster_charts import curves, plane, silhouettes
from trainer.report.customer_charts import Chart, box_plots, distributions, profiles, shares
from trainer.report.markup import Markup, count, joined, percent, tag
from trainer.report.svg import colour

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trainer.outcome import Comparison, TrainingOutcome
    from trainer.report.tables import ReportTable

# The page asks for nothing, and would be refused if it did: what came in as a name can't fetch or run anything either.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_MANY: Final = 8  # columns from which on a table is set small on paper
_CROWD: Final = 12  # and from which on its words break anywhere there
_MARGIN: Final = (
    "As the workers would have it: they leave customers where they are who lie within the margin of a border. So the "
    "sums differ a little from those of the segments above, which count everyone by the nearest centre."
)
# So many letters of a word stay together, and no fewer than four go over.
_LONG: Final = re.compile(r"[^\s-]{12}(?=[^\s-]{4})")
_TONES: Final = {"active": "good", "candidate": "plain", "dry-run": "plain", "refused": "bad"}


def page(outcome: TrainingOutcome) -> str:
    """Build the whole page."""
    title = f"Customer segments as of {words.moment(outcome.as_of)}"
    style = resources.files("trainer.report").joinpath("report.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Markup(style)),
    )
    parts = [_summary(outcome, title), *_customers(outcome), *_choice(outcome), *_clusters(outcome)]
    parts += [*_movement(outcome), *_gates(outcome), *_facts(outcome)]
    return "<!doctype html>\n" + tag("html", head, tag("body", tag("main", *parts)), lang="en") + "\n"


def _summary(outcome: TrainingOutcome, title: str) -> Markup:
    top = [
        tag("h1", title),
        tag("p", tag("span", words.badge(outcome), class_=f"badge {_TONES[outcome.decision.verdict]}")),
        tag("p", words.headline(outcome), class_="lead"),
    ]
    changes = [tag("h3", "What changes against the active model"), *(tag("p", s) for s in words.changes(outcome))]
    reasons = [tag("h3", "Whether it was published, and why"), *(tag("p", s) for s in words.verdict(outcome))]
    if not outcome.segments:
        return tag("header", *top, *reasons, *changes)
    portraits = [
        tag(
            "li",
            tag("strong", segment.name),
            tag("span", words.portrait(segment, outcome.currency)),
            tag("span", f"Action: {segment.action}", class_="action"),
            class_=colour(index),
        )
        for index, segment in enumerate(outcome.segments)
    ]
    who = tag("section", tag("h3", "The segments"), tag("ul", *portraits, class_="portraits"))
    beside = tag("section", _figure(shares(outcome)), *changes, *reasons)
    listed = _table(tables.segments(outcome), "stack")
    return tag("header", *top, tag("div", who, beside, class_="summary"), listed)


def _customers(outcome: TrainingOutcome) -> list[Markup]:
    parts = [tag("h2", "The customers that went in")]
    parts += [tag("p", sentence) for sentence in words.input_notes(outcome)]
    if outcome.quality.features:
        parts.append(_table(tables.quality(outcome)))
    if outcome.sample is None:
        return parts
    drawn = len(outcome.sample.segment)
    if drawn < outcome.quality.customers:
        told = f"The figures show {count(drawn)} of them, drawn at random by the seed."
        parts.append(tag("p", told, class_="quiet"))
    return [
        *parts,
        tag("h2", "Recency, frequency, money: all customers, and by segment"),
        _figures(box_plots(outcome, outcome.sample)),
        tag("h2", "Before and after the transform"),
        tag("p", "Distances between customers only mean something where no single feature has a long tail."),
        _figures(distributions(outcome, outcome.sample)),
    ]


def _choice(outcome: TrainingOutcome) -> list[Markup]:
    return [
        tag("h2", "How many segments: the choice of k"),
        _figures(curves(outcome)),
        _table(tables.fits(outcome)),
    ]


def _clusters(outcome: TrainingOutcome) -> list[Markup]:
    if outcome.sample is None or not outcome.segments:
        return []
    wide = [silhouettes(outcome, outcome.sample)]
    if outcome.projection is not None:
        wide.append(plane(outcome, outcome.sample, outcome.projection))
    return [
        tag("h2", "How well the segments hold together"),
        _figures([picture for picture in wide if picture is not None], wide=True),
        tag("h2", "What sets the segments apart"),
        _figures(profiles(outcome)),
    ]


def _movement(outcome: TrainingOutcome) -> list[Markup]:
    if outcome.comparison is None:
        return []
    return [
        tag("h2", "Movement against the active model"),
        tag("p", _MARGIN),
        _matrix(outcome, outcome.comparison),
        _table(tables.money(outcome, outcome.comparison), "stack"),
    ]


def _gates(outcome: TrainingOutcome) -> list[Markup]:
    heading = tag("h2", "The gates")
    if not outcome.decision.gates:
        told = "No fit was chosen that they could judge." if not outcome.segments else "This recipe has none."
        return [heading, tag("p", told)]
    return [heading, _table(tables.gates(outcome), "stack")]


def _facts(outcome: TrainingOutcome) -> list[Markup]:
    parts = [tag("h2", "Facts of the run"), *(tag("p", f"Warning: {told}") for told in outcome.warnings)]
    listed = [tables.facts(outcome)] + ([tables.timings(outcome)] if outcome.timings else [])
    return [*parts, tag("div", *map(_table, listed), class_="summary")]


def _figures(pictures: Sequence[Chart], *, wide: bool = False) -> Markup:
    return tag("div", *map(_figure, pictures), class_="figures wide" if wide else "figures")


def _figure(picture: Chart) -> Markup:
    return tag("figure", tag("h3", picture.title), picture.svg, tag("figcaption", picture.caption))


def _table(table: ReportTable, kind: str = "") -> Markup:
    rows = [
        tag(
            "tr",
            *(_cell(table, place, told) for place, told in enumerate(row)),
            role="row",
            class_="marked" if index == table.marked else None,
        )
        for index, row in enumerate(table.rows)
    ]
    return _framed(table, rows, kind)


def _cell(table: ReportTable, place: int, told: str) -> Markup:
    kind = "words" if place in table.words else None
    if place == 0:
        return tag("th", _breakable(told), scope="row", role="rowheader", class_=kind)
    return tag("td", _breakable(told), role="cell", class_=kind, data_head=table.heads[place])


def _breakable(told: str) -> Markup:
    """Let words that are too long for a narrow column break. The break is no character: it isn't copied or read out."""
    first, *rest = _LONG.sub("\\g<0>\0", told).split("\0")
    return joined([first, *(part for piece in rest for part in (tag("wbr"), piece))])


def _matrix(outcome: TrainingOutcome, compared: Comparison) -> Markup:
    """Build the movement table, each cell coloured by its part of its row, and those who stay outlined."""
    table = tables.movement(outcome, compared)
    rows: list[Markup] = []
    for row, before, numbers in zip(table.rows, compared.before, compared.moves, strict=False):
        whole = sum(numbers)
        cells = [tag("th", _breakable(row[0]), scope="row", role="rowheader", class_="words")]
        for told, after, number in zip(row[1:], outcome.segments, numbers, strict=False):
            part = number / whole if whole else 0.0
            title = f"{before.name} to {after.name}: {count(number)} customers, {percent(part)} of {before.name}"
            kind = "heat stays" if before.id == after.id else "heat"
            cells.append(tag("td", told, role="cell", class_=kind, style=f"--part:{part:.3f}", title=title))
        rows.append(tag("tr", *cells, tag("td", row[-1], role="cell"), role="row"))
    last = [_cell(table, place, told) for place, told in enumerate(table.rows[-1])]
    return _framed(table, [*rows, tag("tr", *last, role="row", class_="marked")], "")


def _framed(table: ReportTable, rows: Iterable[Markup], kind: str) -> Markup:
    heads = [
        tag("th", _breakable(told), scope="col", role="columnheader", class_="words" if place in table.words else None)
        for place, told in enumerate(table.heads)
    ]
    # The roles are told, because on a phone the style sheet makes cards of the rows, and browsers then forget them.
    made = tag(
        "table",
        tag("caption", table.caption),
        tag("thead", tag("tr", *heads, role="row"), role="rowgroup"),
        tag("tbody", joined(rows), role="rowgroup"),
        role="table",
    )
    many = " many" * (len(table.heads) >= _MANY) + " crowd" * (len(table.heads) >= _CROWD)
    # One that is wider than the screen scrolls inside its own frame, by the keyboard too.
    return tag(
        "div", made, class_=f"table {kind}{many}".rstrip(), role="region", aria_label=table.caption, tabindex="0"
    )
