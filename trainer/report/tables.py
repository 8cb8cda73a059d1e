"""The tables of the report as text in cells, the same for the page and the Markdown. Pure: an outcome in, text out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trainer.report.markup import MINUS, NARROW, amount, count, decimal, percent
from trainer.report.measures import measure_of
from trainer.report.sentences import gate_limit, gate_value, gate_verdict, moment, seconds, span

if TYPE_CHECKING:
    from trainer.outcome import Comparison, FeatureSpread, TrainingOutcome

NONE: Final = "–"  # noqa: RUF001 — an en dash stands for a missing figure


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of the report. The first column names the row; `text_columns` are those that don't hold numbers.

    `marked`: the row to highlight, if any.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int] = frozenset({0})
    marked: int | None = None


def segments(outcome: TrainingOutcome) -> ReportTable:
    """Return each segment's customers, money, median customer and action."""
    total = outcome.quality.customers
    rows = [
        (
            s.name + ("" if s.lasting or outcome.comparison is None else " (new)"),
            count(s.customers),
            percent(s.share),
            amount(s.money),
            _share(s.money_share),
            _median(s.recency_days, 1),
            _median(s.frequency, 1),
            NONE if s.monetary is None else amount(s.monetary.median),
            s.action,
        )
        for s in outcome.segments
    ]
    money = amount(sum(s.money for s in outcome.segments))
    whole = NONE if any(s.money_share is None for s in outcome.segments) else percent(1.0)
    rows.append(("All", count(total), percent(1.0), money, whole, NONE, NONE, NONE, NONE))
    return ReportTable(
        "Customers and money of each segment, and its median customer",
        (
            "Segment",
            "Customers",
            "Share",
            in_currency(f"Money {span(outcome)}", outcome),
            "Share of money",
            "Days since last order, median",
            f"{orders_named(outcome)}, median",
            in_currency(f"Spent {span(outcome)}, median", outcome),
            "Action",
        ),
        tuple(rows),
        frozenset({0, 8}),
    )


def fits(outcome: TrainingOutcome) -> ReportTable:
    """Return all measures of each transform and k."""
    rows = [
        (
            f"{f.transform}, k{NARROW}={NARROW}{f.k}",
            _number(f.inertia, 1),
            _number(f.silhouette, 3),
            _number(f.davies_bouldin, 3),
            _number(f.calinski_harabasz, 0),
            _number(f.stability, 3),
            _share(f.smallest_share),
            _share(f.largest_share),
            gate_verdict(f),
        )
        for f in outcome.fits
    ]
    return ReportTable(
        "Measures and gates of all fits",
        (
            "Fit",
            "Inertia",
            "Silhouette",
            "Davies-Bouldin",
            "Calinski-Harabasz",
            "Stability",
            "Smallest",
            "Largest",
            "Verdict",
        ),
        tuple(rows),
        frozenset({0, 8}),
        outcome.chosen,
    )


def gates(outcome: TrainingOutcome) -> ReportTable:
    """Return the gates of the chosen fit and of the model, with values, limits and verdicts."""
    rows = [(g.name, gate_value(g), gate_limit(g), verdict(g.passed)) for g in outcome.decision.gates]
    return ReportTable(
        "Measured values and limits of the gates",
        ("Gate", "Value", "Limit", "Verdict"),
        tuple(rows),
        frozenset({0, 3}),
    )


def movement(outcome: TrainingOutcome, compared: Comparison) -> ReportTable:
    """Return how many customers the workers would have moved from each active segment to each new one."""
    rows = [
        (before.name, *(count(n) if n else NONE for n in row), count(sum(row)))
        for before, row in zip(compared.before, compared.moves, strict=True)
    ]
    columns = [sum(column) for column in zip(*compared.moves, strict=True)]
    rows.append(("In the new model", *map(count, columns), count(sum(columns))))
    return ReportTable(
        "Customers by segment of the active model (rows) and of the new one (columns)",
        ("From \\ to", *(s.name for s in outcome.segments), "All"),
        tuple(rows),
    )


def money(outcome: TrainingOutcome, compared: Comparison) -> ReportTable:
    """Return each segment's customers and money before and after; zero for the model that doesn't have the segment."""
    before = {s.id: s for s in compared.before}
    rows = []
    for index, s in enumerate(outcome.segments):
        after, sum_after = sum(row[index] for row in compared.moves), sum(row[index] for row in compared.money)
        was = before.pop(s.id, None)
        had, had_money = (was.customers, was.money) if was else (0, 0.0)
        rows.append((s.name, count(had), count(after), _change(after - had), *_sums(had_money, sum_after)))
    rows += [
        (f"{s.name} (removed)", count(s.customers), "0", _change(-s.customers), *_sums(s.money, 0.0))
        for s in before.values()
    ]
    return ReportTable(
        f"Customers and money by segment, before and after; money spent {span(outcome)}",
        ("Segment", "Customers before", "after", "change", in_currency("Money before", outcome), "after", "change"),
        tuple(rows),
    )


def quality(outcome: TrainingOutcome) -> ReportTable:
    """Return the distribution of the three features over all customers, before any transform."""
    named = orders_named(outcome)
    rows = [
        (
            measure_of(f.name).title,
            *(decimal(v) for v in (f.least, f.median, f.mean, f.greatest, f.deviation)),
            count(f.beyond_3),
        )
        for f in outcome.quality.features
    ]
    return ReportTable(
        f"Features of all customers, before any transform. Frequency: {named[0].lower()}{named[1:]}; "
        f"monetary: money spent {span(outcome)}",
        ("Feature", "Minimum", "Median", "Mean", "Maximum", "Std deviation", "|z| ≥ 3"),
        tuple(rows),
    )


def facts(outcome: TrainingOutcome) -> ReportTable:
    """Return the settings and the identifiers of the run."""
    recipe, decision = outcome.recipe, outcome.decision
    chosen = next((f for f in outcome.fits if f.chosen), None)
    rows: list[tuple[str, str]] = [
        ("Version", outcome.version or "none: no model was made"),
        ("Parent (active model at the training)", outcome.parent or "none"),
        ("Activation", NONE if decision.activation is None else count(decision.activation)),
        ("Customers as of", moment(outcome.as_of)),
        ("Trained at", moment(outcome.trained_at)),
        ("Source", outcome.source),
        (
            "Recipe",
            f"{recipe.name}; chosen by {recipe.choice}" if recipe.choice != "asked" else f"{recipe.name}; as requested",
        ),
        ("k tried", ", ".join(map(str, recipe.k))),
        ("Transforms tried", ", ".join(recipe.transforms)),
        ("Chosen", f"{chosen.transform}, k = {chosen.k}" if chosen else "none"),
        ("K-Means starts", _starts(recipe.starts, warm=chosen is not None and chosen.warm)),
        ("Resamples for the stability", count(recipe.rounds)),
        ("Margin on squared distance", f"{recipe.margin:g}"),
        ("Seed", str(recipe.seed)),
    ]
    return ReportTable("Settings and identifiers", ("Item", "Value"), tuple(rows), frozenset({0, 1}))


def timings(outcome: TrainingOutcome) -> ReportTable:
    """Return the duration of each step."""
    total = sum(t.seconds for t in outcome.timings)
    rows = [(t.step, seconds(t.seconds), percent(t.seconds / total if total else 0.0, 0)) for t in outcome.timings]
    return ReportTable("Time by step", ("Step", "Time", "Share"), (*rows, ("All", seconds(total), percent(1.0))))


def verdict(passed: bool) -> str:
    """Return a verdict, by a sign and in words."""
    return "✓ passes" if passed else "✗ fails"


def orders_named(outcome: TrainingOutcome) -> str:
    """Return what the frequency of the segments counts, and in which time."""
    return f"{'Days with an order' if outcome.whole_lives else 'Orders'} {span(outcome)}"


def in_currency(head: str, outcome: TrainingOutcome) -> str:
    """Return the head of a column of money, with its currency where that is known."""
    return head if outcome.currency is None else f"{head}, {outcome.currency}"


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else decimal(value, digits)


def _share(value: float | None) -> str:
    return NONE if value is None else percent(value)


def _median(spread: FeatureSpread | None, digits: int) -> str:
    if spread is None:
        return NONE
    return decimal(spread.median, 0 if spread.median.is_integer() else digits)


def _change(difference: int) -> str:
    return f"{difference:+,}".replace("-", MINUS) if difference else "0"


def _sums(before: float, after: float) -> tuple[str, str, str]:
    difference = after - before
    # In whole units: sums of the same amounts in another order differ in their last digits, which is no change.
    change = f"{difference:+,.0f}".replace("-", MINUS) if abs(difference) >= 0.5 else "0"
    return amount(before), amount(after), change


def _starts(starts: int, *, warm: bool) -> str:
    return f"{starts}; kept: the start at the active model's centroids" if warm else str(starts)
