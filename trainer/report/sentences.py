"""The outcome of a training run in sentences, for the page and the Markdown alike. Pure: an outcome in, text out."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from trainer.report.markup import NARROW, count, decimal, money, percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trainer.outcome import (
        Comparison,
        Fit,
        Gate,
        LaterWorth,
        SegmentFacts,
        SegmentForecast,
        TrainingOutcome,
        Verdict,
    )

# A reason in the words of a fit, which the summary leaves to the section on the choice.
_ABOUT_A_FIT: Final = re.compile(r"k = \d+ ")
# Of gates on figures that are no shares.
_DIGITS: Final = {"stability": 3, "moves a year": 1, "lift over recency": 3, "outlook over recency": 3}
_MOVES: Final = 5  # largest movements listed in a sentence
_VERDICTS: Final[dict[Verdict, tuple[str, str]]] = {
    "active": ("Published: active", "The model was published, and every worker scores with it."),
    "candidate": (
        "Published: candidate",
        "The model was published as a candidate. It scores no customer until it is promoted.",
    ),
    # The reasons of a dry run say whether it would have been activated.
    "dry-run": ("Dry run: nothing published", ""),
    "refused": ("Refused", "Nothing was published; the active model, if there is one, stays active."),
}


class SegmentMovement(NamedTuple):
    """Customers whom the model alone would move from one segment to another, and their money."""

    source: str
    target: str
    customers: int
    money: float


def moment(iso: str) -> str:
    """Format an instant of ISO 8601 as a date in UTC, with the time unless it is midnight.

    >>> moment("2011-12-10T00:00:00Z"), moment("2026-01-05T11:30:00+01:00")
    ('10 December 2011', '5 January 2026, 10:30 UTC')
    """
    at = datetime.fromisoformat(iso).astimezone(UTC)
    day = f"{at.day} {at:%B} {at.year}"
    return day if not (at.hour or at.minute) else f"{day}, {at:%H:%M} UTC"


def badge(outcome: TrainingOutcome) -> str:
    """Return the verdict in two or three words."""
    return _VERDICTS[outcome.decision.verdict][0]


def headline(outcome: TrainingOutcome) -> str:
    """Return a sentence or two on the numbers of customers and segments, and the money spent."""
    customers = count(outcome.quality.customers)
    if not outcome.segments:
        return f"No model was made of the {customers} customers."
    spent = money(sum(segment.money for segment in outcome.segments), outcome.currency)
    said = f"{customers} customers fall into {len(outcome.segments)} segments."
    said = f"{said} They have spent {spent} net {span(outcome)}."
    known = [s.forecast for s in outcome.segments if s.forecast]
    if not known:
        return said
    return f"{said} In the next 90 days they are expected to place {_worth(known, outcome.currency)}."


def span(outcome: TrainingOutcome) -> str:
    """Return the time that orders and money are counted in, to stand behind them."""
    return "in total" if outcome.whole_lives else f"in {window(outcome)}"


def window(outcome: TrainingOutcome) -> str:
    """Return the window in words: "the last 365 days"."""
    return "the last day" if outcome.window_days == 1.0 else f"the last {outcome.window_days:g} days"


def verdict(outcome: TrainingOutcome) -> list[str]:
    """Return whether the model was published, and why: the decisive sentence first, without figures of the fits."""
    found = [sentence] if (sentence := _VERDICTS[outcome.decision.verdict][1]) else []
    if outcome.decision.forced:
        return [*found, "A gate failed, and was overruled (--force)."]
    # The first reason tells the choice of the fit, and of a refusal the others say what each fit fails.
    why = outcome.decision.why[1:] if outcome.segments else outcome.decision.why[:1]
    return [*found, *(reason for reason in why if not _ABOUT_A_FIT.match(reason))]


def choice(outcome: TrainingOutcome) -> list[str]:
    """Return why this fit was chosen, or why none was, in the words of the fits."""
    why = outcome.decision.why
    if outcome.decision.forced or not outcome.segments:
        return list(why)
    return [reason for place, reason in enumerate(why) if not place or _ABOUT_A_FIT.match(reason)]


def expectation(segment: SegmentFacts, currency: str | None = None) -> str | None:
    """Return what a segment's customers are expected to do in the next 90 days, and did last time; None if unknown."""
    said = []
    if segment.forecast is not None and segment.customers:
        share = percent(segment.forecast.ordering / segment.customers, 0)
        said.append(f"In the next 90 days {share} are expected to order: {_worth([segment.forecast], currency)}.")
    if segment.past is not None and segment.past.customers:
        share = percent(segment.past.ordered / segment.past.customers, 0)
        said.append(f"Of those who were here 90 days ago, {share} ordered since.")
    return " ".join(said) or None


def later(worth: LaterWorth) -> list[str]:
    """Return how far segments and outlook are to be trusted, measured on later orders."""
    found = [
        (
            f"Measured on {_customers(worth.customers)} and what they ordered from {moment(worth.since)} to "
            f"{moment(worth.until)}, after the orders that segments and outlook were made from."
        )
    ]
    if worth.moves_per_year is not None:
        moves = f"A customer would have changed segment {decimal(worth.moves_per_year, 1)} times a year"
        back = [
            f"{percent(share)} of these moves went back within {days} days"
            for days, share in ((14, worth.back_14), (30, worth.back_30))
            if share is not None
        ]
        found.append("; ".join([moves, *back]) + ".")
    return found


def portrait(segment: SegmentFacts, outcome: TrainingOutcome) -> str:
    """Return a segment's customers, their money, and what its median customer is like."""
    spent = f"{money(segment.money, outcome.currency)} {span(outcome)}"
    portrait = f"{_customers(segment.customers)} ({percent(segment.share)}) with {spent}"
    if segment.money_share is not None:
        portrait += f" ({percent(segment.money_share)} of the money)"
    portrait += "."
    if segment.recency_days and segment.frequency and segment.monetary:
        ago, orders = _days(segment.recency_days.median), segment.frequency.median
        number = decimal(orders, 0 if orders.is_integer() else 1)
        spent = money(segment.monetary.median, outcome.currency)
        if outcome.whole_lives:
            days = f"{number} {'day' if orders == 1 else 'days'}"
            portrait += (
                f" The median customer last ordered {ago} ago, has ordered on {days} and spent {spent} in total."
            )
        else:
            placed = f"{number} {'order' if orders == 1 else 'orders'}"
            portrait += (
                f" The median customer last ordered {ago} ago, and {span(outcome)} placed {placed} and spent {spent}."
            )
    return portrait


def changes(outcome: TrainingOutcome) -> list[str]:
    """Return what the new model alone changes from the active one."""
    compared = outcome.comparison
    if compared is None:
        if not outcome.segments:
            return ["Nothing changes."]
        return ["No model was active before, so every customer gets a first segment."]
    everyone = sum(map(sum, compared.moves))
    movers = sum(move.customers for move in moves(outcome))
    found = [
        (
            f"Compared with the segments that are active now, the new ones alone, without any new order, would move "
            f"{count(movers)} of {_customers(everyone)} ({percent(compared.moved)}). Without the rule that keeps "
            f"customers near a border where they are, it would be {percent(compared.moved_without_margin)}."
        )
    ]
    found += _new_and_removed(outcome, compared)
    largest = moves(outcome)[:_MOVES]
    if largest:
        steps = "; ".join(
            f"{m.source} → {m.target} {count(m.customers)} (with {money(m.money, outcome.currency)})" for m in largest
        )
        which = "The largest moves" if len(moves(outcome)) > len(largest) else "The moves"
        found.append(f"{which}, with the money that these customers spent {span(outcome)}: {steps}.")
    return found


def moves(outcome: TrainingOutcome) -> list[SegmentMovement]:
    """Return the moves that the new model alone would cause, the largest first; none without an active model."""
    compared = outcome.comparison
    if compared is None:
        return []
    found = [
        SegmentMovement(before.name, after.name, customers, compared.money[a][b])
        for a, before in enumerate(compared.before)
        for b, after in enumerate(outcome.segments)
        if before.id != after.id and (customers := compared.moves[a][b])
    ]
    return sorted(found, key=lambda move: (-move.customers, move.source, move.target))


def input_notes(outcome: TrainingOutcome) -> list[str]:
    """Return how many customers the training read and left out, and what is unusual about them."""
    quality = outcome.quality
    found = [f"The training read {_customers(quality.customers)} from {outcome.source}, as of {moment(outcome.as_of)}."]
    for group, number in (
        ("Not counted, because all their orders were cancelled or erased", quality.left_out),
        (f"Without an order in {window(outcome)}", quality.without_orders),
        (f"With nothing spent, net, {span(outcome)}", quality.without_money),
        (f"With more refunded than spent {span(outcome)}", quality.negative_money),
        (f"Scored, but not used for the fit{_not_fitted(outcome)}", quality.not_fitted),
    ):
        if number:
            found.append(f"{group}: {_customers(number)}.")
    return found


def _not_fitted(outcome: TrainingOutcome) -> str:
    reasons = {"in window": f" (no order in {window(outcome)})", "ordinary": " (|z| of 3 or more)"}
    return reasons.get(outcome.recipe.fitted, "")


def gate_verdict(fit: Fit) -> str:
    """Return the verdict on one fit: chosen, passes, the gates that it fails, or why it couldn't be made."""
    if fit.failure is not None:
        return f"not fitted: {fit.failure}"
    failed = [f"{gate.name} {gate_value(gate)}" for gate in fit.gates if not gate.passed]
    if failed:
        return ("chosen, though it fails: " if fit.chosen else "fails: ") + ", ".join(failed)
    return "chosen" if fit.chosen else "passes"


def gate_value(gate: Gate) -> str:
    """Format the measured value: a share as a percentage, figures that are none as they are."""
    return "not measured" if gate.value is None else _measure(gate.name, gate.value)


def gate_limit(gate: Gate) -> str:
    """Format the limit and its direction."""
    return f"at {gate.bound} {_measure(gate.name, gate.limit)}"


def seconds(value: float) -> str:
    """Format the duration of a step.

    >>> seconds(0.0312).replace(NARROW, " "), seconds(12.345).replace(NARROW, " ")
    ('0.03 s', '12.3 s')
    """
    return f"{decimal(value, 1 if value >= 10 else 2)}{NARROW}s"


def _measure(name: str, value: float) -> str:
    digits = _DIGITS.get(name)
    return percent(value) if digits is None else decimal(value, digits)


def _worth(forecasts: Sequence[SegmentForecast], currency: str | None) -> str:
    orders = sum(f.orders for f in forecasts)
    said = f"about {decimal(orders, 0 if orders >= 10 else 1)} orders"
    spends = [f.spend for f in forecasts if f.spend is not None]
    return f"{said} worth {money(sum(spends), currency)}" if len(spends) == len(forecasts) else said


def _customers(number: int) -> str:
    return f"{count(number)} {'customer' if number == 1 else 'customers'}"


def _days(number: float) -> str:
    shown = decimal(number, 0 if number >= 3 else 1)
    return f"{shown} {'day' if shown == '1.0' else 'days'}"


def _new_and_removed(outcome: TrainingOutcome, compared: Comparison) -> list[str]:
    before, after = {s.id: s.name for s in compared.before}, {s.id: s.name for s in outcome.segments}
    found = []
    if new := [name for id_, name in after.items() if id_ not in before]:
        found.append(f"New: {_list(new)}.")
    if removed := [name for id_, name in before.items() if id_ not in after]:
        found.append(f"Not in the new model any more: {_list(removed)}.")
    return found or ["All segments keep their names."]


def _list(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
