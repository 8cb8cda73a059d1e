"""The report's tables of what comes and came: expected orders, borders, the last runs, later orders. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainer.report.markup import NARROW, amount, count, decimal, percent
from trainer.report.measures import measure_of
from trainer.report.sentences import moment
from trainer.report.tables import NONE, ReportTable, in_currency, verdict

if TYPE_CHECKING:
    from trainer.outcome import LaterWorth, SegmentFacts, TrainingOutcome

# How a ranking of customers is called.
_RANKINGS: Final = {
    "segments": "These segments",
    "outlook": "The outlook of each customer",
    "recency": "Days since the last order alone",
    "recency bands": "Days since the last order, in as many groups",
    "spend": "Money spent alone",
    "RFM quintiles": "Sum of RFM scores 1 to 5",
}


def forecast(outcome: TrainingOutcome) -> ReportTable | None:
    """Return what each segment is expected to do in the next 90 days; None without an outlook."""
    if not any(s.forecast for s in outcome.segments):
        return None
    rows = [_forecast_row(s) for s in outcome.segments]
    known = [s.forecast for s in outcome.segments if s.forecast]
    spends = [f.spend for f in known]
    customers = sum(s.customers for s in outcome.segments)
    ordering = sum(f.ordering for f in known)
    was, ordered = _past(outcome.segments)
    rows.append(
        (
            "All",
            count(customers),
            decimal(ordering, 0),
            percent(ordering / customers) if customers else NONE,
            decimal(sum(f.orders for f in known), 0),
            NONE if None in spends else amount(sum(s for s in spends if s is not None)),
            NONE,
            NONE,
            percent(ordered / was) if was else NONE,
        )
    )
    heads = (
        "Segment",
        "Customers",
        "Expected to order",
        "Share",
        "Orders",
        in_currency("Money", outcome),
        "Usual gap in days, median",
        "Silent for so many usual gaps, median",
        "Ordered in the last 90 days",
    )
    if was:
        return ReportTable(
            "Expected orders and money, and the share that ordered in the last 90 days", heads, tuple(rows)
        )
    return ReportTable("Expected orders and money", heads[:-1], tuple(row[:-1] for row in rows))


def _forecast_row(s: SegmentFacts) -> tuple[str, ...]:
    past = percent(s.past.ordered / s.past.customers) if s.past and s.past.customers else NONE
    if s.forecast is None:
        return (s.name, count(s.customers), *(NONE,) * 6, past)
    return (
        s.name,
        count(s.customers),
        decimal(s.forecast.ordering, 0),
        percent(s.forecast.ordering / s.customers) if s.customers else NONE,
        decimal(s.forecast.orders, 0),
        NONE if s.forecast.spend is None else amount(s.forecast.spend),
        decimal(s.forecast.usual_gap_days, 0 if s.forecast.usual_gap_days >= 10 else 1),
        decimal(s.forecast.silence_in_gaps, 1),
        past,
    )


def _past(segments: tuple[SegmentFacts, ...]) -> tuple[int, int]:
    known = [s.past for s in segments if s.past]
    return sum(p.customers for p in known), sum(p.ordered for p in known)


def borders(outcome: TrainingOutcome) -> ReportTable | None:
    """Return how many customers of each segment could soon be in another; None where it wasn't measured."""
    if not any(s.border for s in outcome.segments):
        return None

    def named(index: int | None) -> str:
        return NONE if index is None else outcome.segments[index].name

    rows = [
        (
            s.name,
            count(s.customers),
            NONE if s.border.near is None else _part(s.border.near, s.customers),
            named(s.border.near_to),
            _part(s.border.leaving, s.customers),
            named(s.border.leaving_to),
        )
        for s in outcome.segments
        if s.border
    ]
    return ReportTable(
        "As well in another segment today; or in another one within 30 days, if they order nothing",
        ("Segment", "Customers", "Near a border today", "Mostly to", "Leaving within 30 days", "Mostly to"),
        tuple(rows),
        frozenset({0, 3, 5}),
    )


def _part(some: int, of: int) -> str:
    return f"{count(some)} ({percent(some / of)})" if some and of else count(some)


def runs(outcome: TrainingOutcome) -> ReportTable | None:
    """Return the segments' shares of the customers at the last trainings; None without an earlier one."""
    if not outcome.past or not outcome.segments:
        return None
    ids = [s.id for s in outcome.segments]
    rows = []
    for past in outcome.past:
        shares = {s.id: s.share for s in past.segments}
        ended = sum(share for id_, share in shares.items() if id_ not in ids)
        cells = [percent(shares[id_]) if id_ in shares else NONE for id_ in ids]
        rows.append((moment(past.as_of), count(past.customers), *cells, percent(ended) if ended else NONE))
    now = [percent(s.share) for s in outcome.segments]
    rows.append((moment(outcome.as_of), count(outcome.quality.customers), *now, NONE))
    return ReportTable(
        "Share of the customers in each segment, by training",
        ("Trained as of", "Customers", *(s.name for s in outcome.segments), "In segments that ended"),
        tuple(rows),
        marked=len(rows) - 1,
    )


def rankings(later: LaterWorth) -> ReportTable | None:
    """Return how well each way to rank customers told what they did later; None where it wasn't measured."""
    if not later.rankings:
        return None
    rows = [
        (
            _RANKINGS.get(r.by, r.by),
            NONE if r.auc is None else percent(r.auc),
            NONE if r.top_tenth is None else percent(r.top_tenth),
        )
        for r in later.rankings
    ]
    marked = next((i for i, r in enumerate(later.rankings) if r.by == "segments"), None)
    return ReportTable(
        f"How well a ranking of customers told what they did later (chance alone: 50{NARROW}% and 10{NARROW}%)",
        ("Ranked by", "Puts one who ordered above one who didn't", "Later money that the highest tenth spent"),
        tuple(rows),
        marked=marked,
    )


def history(outcome: TrainingOutcome) -> ReportTable | None:
    """Return what there is of history, and what a fit of the outlook needs; None where nobody looked."""
    if not outcome.history:
        return None
    rows = [
        (check.name, decimal(check.value, 0), f"at {check.bound} {decimal(check.limit, 0)}", verdict(check.passed))
        for check in outcome.history
    ]
    return ReportTable(
        "The history, and what it takes to fit the outlook",
        ("Count", "Value", "Needed", "Verdict"),
        tuple(rows),
        frozenset({0, 3}),
    )


def correlations(outcome: TrainingOutcome) -> ReportTable | None:
    """Return how the figures of customers rise and fall together; None where it wasn't measured."""
    if not outcome.correlations:
        return None
    names = list(dict.fromkeys(name for c in outcome.correlations for name in (c.one, c.other)))
    known = {frozenset((c.one, c.other)): c.rank for c in outcome.correlations}

    def cell(one: str, other: str) -> str:
        rank = 1.0 if one == other else known.get(frozenset((one, other)))
        return NONE if rank is None else decimal(rank)

    titles = [measure_of(name).title for name in names]
    rows = [(title, *(cell(one, other) for other in names)) for title, one in zip(titles, names, strict=True)]
    return ReportTable("Correlation of ranks (1: they rise together; 0: unrelated)", ("Figure", *titles), tuple(rows))
