"""Definitions of segments in plain units, and why a customer is in one: for reports, commands and documentation.

Models of format 2 have definitions, the same at every training but for the figures in them. A model of format 1 places
customers by the nearest of its own centres, which no sentence defines.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from segmentation.clock_scorer import YEAR_DAYS
from segmentation.output_events import OutlookFigures
from segmentation.silence import recency_days

if TYPE_CHECKING:
    from segmentation.clock_scorer import ClockScorer
    from segmentation.model import Feature, Segment, SegmentModel
    from segmentation.model_parts import OwnClock, Stage
    from segmentation.outlook import Purchases


class ClockFacts(NamedTuple):
    """The facts of one customer that decide the segment, in plain units; money in currency units."""

    chance: float  # that the customer hasn't left for good
    purchase_days: int
    silence_days: float
    usual_gap_days: float
    order_value: float  # expected

    @property
    def orders_a_year(self) -> float:
        """The orders of a year with the usual gap."""
        return YEAR_DAYS / self.usual_gap_days

    @property
    def money_a_month(self) -> float:
        """The money of these orders in a month."""
        return self.orders_a_year * self.order_value / 12.0


def clock_facts(scorer: ClockScorer, purchases: Purchases, at_ms: int, last_ms: int) -> ClockFacts:
    """Return the facts of one customer, [1], whose last order was at `last_ms`, as of an instant."""
    at, last = np.array([at_ms], dtype=np.int64), np.array([last_ms], dtype=np.int64)
    pace, value = scorer.features(purchases)
    return ClockFacts(
        1.0 / (1.0 + float(scorer.odds(at, last, scorer.rest_of_purchases(purchases))[0])),
        int(purchases.repeats[0]) + 1,
        float(recency_days(at, last)[0]),
        YEAR_DAYS / float(pace[0]),
        float(value[0]),
    )


def definition(model: SegmentModel, segment: Segment, currency: str | None = None) -> str | None:
    """Return who is in a segment, as a sentence or two; None for a model of format 1."""
    clock = model.clock
    if clock is None or segment.stage is None:
        return None
    if segment.stage != "steady":
        return _of_stage(segment.stage, clock, currency)
    kind = _kind(model, segment, currency)
    alone = sum(one.stage == "steady" for one in model.segments) == 1
    return f"Ordered on {clock.few} days or more, and on rhythm: not silent for unusually long. " + (
        f"In the middle {kind}." if alone else f"Of all kinds of such customers nearest to {kind}."
    )


def _of_stage(stage: Stage, clock: OwnClock, currency: str | None) -> str:
    """Return who is in a stage that isn't told apart by kinds."""
    few = "1 day" if clock.few == 2 else "1 or 2 days" if clock.few == 3 else f"1 to {clock.few - 1} days"
    own = "of the gaps expected of them"
    if stage in ("at risk", "at risk, heavy"):
        share = f"{_money(clock.heavy, currency)} a month"
        return (
            f"Ordered on {clock.few} days or more, and silent for unusually long, measured by their own rhythm: the "
            f"chance of still being a customer is below {percent_text(clock.at_risk)}. In their rhythm they spend "
            + (f"more than {share}." if stage == "at risk, heavy" else f"at most {share}.")
        )
    return {
        "lost": "Silent for so long that the chance of still being a customer is below "
        f"{percent_text(clock.lost)}. Who ordered on {few} must be silent for more than {_figure(clock.quiet_gaps)} "
        f"{own} for that, and is lost in any case after {_figure(clock.lost_gaps)}.",
        "quiet": f"Ordered on {few} so far, and silent for more than {_figure(clock.quiet_gaps)} {own}.",
        "new": f"Ordered on one day so far, and silent for at most {_figure(clock.quiet_gaps)} {own}.",
        "young": f"Ordered on {'2 days' if clock.few == 3 else f'2 to {clock.few - 1} days'} so far, and silent for at "
        f"most {_figure(clock.quiet_gaps)} {own}.",
    }[stage]


def why(model: SegmentModel, segment: Segment, facts: ClockFacts, currency: str | None = None) -> str | None:
    """Return why a customer is in a segment, by the customer's own figures; None for a model of format 1."""
    clock = model.clock
    if clock is None or segment.stage is None:
        return None
    names = {one.stage: one.name for one in model.segments}
    gaps = facts.silence_days / facts.usual_gap_days
    said = (
        f"silent for {days_text(facts.silence_days)}, {gaps:.1f} usual gaps of {days_text(facts.usual_gap_days)}: "
        f"{percent_text(facts.chance)} chance of still being a customer"
    )
    if facts.purchase_days < clock.few:
        number = f"{facts.purchase_days} {'day' if facts.purchase_days == 1 else 'days'}"
        limits = f"{names['quiet']}: from {_figure(clock.quiet_gaps)} usual gaps of silence, {names['lost']}: from "
        limits += f"{_figure(clock.lost_gaps)} or below {percent_text(clock.lost)}"
        return f"{said}; ordered on {number} so far ({limits}; by kind from {clock.few} days)"
    if segment.stage in ("lost", "at risk", "at risk, heavy"):
        said += f" ({_limit(facts.chance, clock.lost if segment.stage == 'lost' else clock.at_risk, segment, clock)})"
        if segment.stage == "lost":
            return said
        heavy = f"{names['at risk, heavy']}: above {_money(clock.heavy, currency)}"
        return f"{said}; {_money(facts.money_a_month, currency)} a month in their rhythm ({heavy})"
    said += f" ({names['at risk']}: below {percent_text(clock.at_risk)})"
    rhythm = f"{_figure(facts.orders_a_year)} orders a year of {_money(facts.order_value, currency)}"
    return f"{said}; {rhythm} ({segment.name}: {_kind(model, segment, currency)})"


def outlook_line(outlook: OutlookFigures, currency: str) -> str:
    """Return an outlook as text for people.

    >>> outlook_line(OutlookFigures(0.8124, 1.94, "58.20", 41.5, 0.3), "EUR")
    'outlook: 81 % chance of an order in the next 90 days; 1.94 orders worth 58.20 EUR expected, usually every 42 days'
    """
    figures = f"{outlook.orders_90d:.3g} orders worth {outlook.spend_90d} {currency} expected"
    return (
        f"outlook: {percent_text(outlook.chance_90d)} chance of an order in the next 90 days; {figures}, usually every "
        f"{days_text(outlook.usual_gap_days)}"
    )


def _limit(chance: float, level: float, segment: Segment, clock: OwnClock) -> str:
    """Return the border that holds a customer in a stage; past the one of entering it is that of leaving."""
    if chance < level:
        return f"{segment.name}: below {percent_text(level)}"
    return f"{segment.name}, until it is above {percent_text(clock.chance_back(level))}"


def _kind(model: SegmentModel, segment: Segment, currency: str | None) -> str:
    """Return where a kind of steady customers lies."""
    _, of_pace, of_value = model.features
    _, pace, value = segment.centroid
    return f"about {_figure(_undone(pace, of_pace))} orders a year of {_money(_undone(value, of_value), currency)}"


def _undone(z: float, feature: Feature) -> float:
    """Return the figure, at least 0, that lies at a coordinate; to the digits of a text, not to the last bit."""
    t = z * feature.scale + feature.mean
    if feature.transform == "identity":
        return max(t, 0.0)
    if feature.lam:
        t = math.log1p(max(feature.lam * t, -1.0 + 1e-9)) / feature.lam
    return max(math.expm1(min(t, 700.0)), 0.0)


def percent_text(share: float) -> str:
    """Format a chance or a share; a small one with a digit more.

    >>> percent_text(0.2), percent_text(0.034), percent_text(0.0004), percent_text(0.0)
    ('20 %', '3.4 %', 'below 0.1 %', '0 %')
    """
    if 0.0 < share < 0.0005:
        return "below 0.1 %"
    return f"{share * 100.0:.{1 if 0.0 < share < 0.095 else 0}f} %".replace(".0 %", " %")


def days_text(number: float) -> str:
    """Format a number of days.

    >>> days_text(0.94), days_text(1.0), days_text(2.31), days_text(41.3)
    ('0.9 days', '1 day', '2.3 days', '41 days')
    """
    text = f"{number:.{0 if number >= 10 else 1}f}".removesuffix(".0")
    return f"{text} {'day' if text == '1' else 'days'}"


def _figure(number: float) -> str:
    return f"{number:.{0 if number >= 9.5 else 1}f}"


def _money(amount: float, currency: str | None) -> str:
    text = f"{amount:,.{0 if amount >= 1000.0 else 2}f}"
    return text if currency is None else f"{text} {currency}"
