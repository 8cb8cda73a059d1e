"""What a training run found, in sentences: for the page and the Markdown alike. Pure: an outcome in, text out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from trainer.report.markup import NARROW, count, decimal, money, percent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trainer.outcome import Comparison, Fit, Gate, SegmentFacts, TrainingOutcome, Verdict

_MOVES: Final = 5  # largest movements told in words
_LEFT_OUT: Final = {"in window": ", without an order in the window", "ordinary": " for |z| of 3 or more"}
_VERDICTS: Final[dict[Verdict, tuple[str, str]]] = {
    "active": ("Published: active", "The model was published, and every worker scores by it."),
    "candidate": (
        "Published: candidate",
        "The model was published as a candidate. It decides nothing until it is promoted.",
    ),
    # The run's own reasons say what it would have become.
    "dry-run": ("Dry run: nothing published", ""),
    "refused": ("Refused", "Nothing was published: what was active before stays active."),
}


class SegmentMovement(NamedTuple):
    """Customers who would go from one segment to another by the model alone, and their money."""

    source: str
    target: str
    customers: int
    money: float


def moment(iso: str) -> str:
    """Write an instant of ISO 8601 as a date, with the time where it isn't midnight; in UTC.

    >>> moment("2011-12-10T00:00:00Z"), moment("2026-01-05T11:30:00+01:00")
    ('10 December 2011', '5 January 2026, 10:30 UTC')
    """
    at = datetime.fromisoformat(iso).astimezone(UTC)
    day = f"{at.day} {at:%B} {at.year}"
    return day if not (at.hour or at.minute) else f"{day}, {at:%H:%M} UTC"


def badge(outcome: TrainingOutcome) -> str:
    """Say in two words what became of the model."""
    return _VERDICTS[outcome.decision.verdict][0]


def headline(outcome: TrainingOutcome) -> str:
    """Say in a sentence or two how many customers there are, in how many segments, and what they spent."""
    customers = count(outcome.quality.customers)
    if not outcome.segments:
        return f"{customers} customers were looked at, and no model was made of them."
    spent = money(sum(segment.money for segment in outcome.segments), outcome.currency)
    return f"{customers} customers fall into {len(outcome.segments)} segments. They have spent {spent} in all, net."


def verdict(outcome: TrainingOutcome) -> list[str]:
    """Say whether it was published, and why: the decisive sentence first."""
    told = [sentence] if (sentence := _VERDICTS[outcome.decision.verdict][1]) else []
    if outcome.decision.forced:
        told.append("A gate failed, and someone published it all the same (--force).")
    return [*told, *outcome.decision.why]


def portrait(segment: SegmentFacts, currency: str | None = None) -> str:
    """Say how many a segment has, how much money, and what its median customer is like."""
    told = f"{_customers(segment.customers)} ({percent(segment.share)}) with {money(segment.money, currency)}"
    if segment.money_share is not None:
        told += f" ({percent(segment.money_share)} of the money)"
    told += "."
    if segment.recency_days and segment.frequency and segment.monetary:
        orders = segment.frequency.median
        told += (
            f" The median customer last ordered {_days(segment.recency_days.median)} ago, has "
            f"{decimal(orders, 0 if orders.is_integer() else 1)} {'order' if orders == 1 else 'orders'} and spent "
            f"{money(segment.monetary.median, currency)}."
        )
    return told


def changes(outcome: TrainingOutcome) -> list[str]:
    """Say what changes against the active model, by the model alone."""
    compared = outcome.comparison
    if compared is None:
        if not outcome.segments:
            return ["Nothing changes."]
        return ["No model was active before: this one gives every customer a first segment."]
    everyone = sum(map(sum, compared.moves))
    movers = sum(move.customers for move in moves(outcome))
    told = [
        (
            f"Against the active model {compared.version}, {count(movers)} of {_customers(everyone)} "
            f"({percent(compared.moved)}) would change segment by the new model alone, with no new order. Without the "
            f"margin that keeps customers where they are, {percent(compared.moved_without_margin)} would."
        )
    ]
    told += _come_and_gone(outcome, compared)
    largest = moves(outcome)[:_MOVES]
    if largest:
        steps = "; ".join(
            f"{m.source} → {m.target} {count(m.customers)} (with {money(m.money, outcome.currency)})" for m in largest
        )
        told.append(f"{'The largest moves' if len(moves(outcome)) > len(largest) else 'The moves'}: {steps}.")
    return told


def moves(outcome: TrainingOutcome) -> list[SegmentMovement]:
    """Give the moves that the new model alone would cause, the largest first; none without an active model."""
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
    """Say what is odd about the customers that went in, and how many were left out."""
    quality = outcome.quality
    told = [f"{_customers(quality.customers)} went in, from {outcome.source}, as of {moment(outcome.as_of)}."]
    for what, number in (
        ("Left out beside them, without an order that stands", quality.left_out),
        ("With every order outside the window", quality.without_orders),
        ("With nothing spent, net", quality.without_money),
        ("With more money returned than spent", quality.negative_money),
        (f"Left out of the fit{_LEFT_OUT.get(outcome.recipe.fitted, '')}, but scored all the same", quality.not_fitted),
    ):
        if number:
            told.append(f"{what}: {_customers(number)}.")
    return told


def gate_verdict(fit: Fit) -> str:
    """Say what became of one fit.

    A fit that could not be made says so; one that fails its gates names them.
    """
    if fit.failure is not None:
        return f"not fitted: {fit.failure}"
    failed = [f"{gate.name} {gate_value(gate)}" for gate in fit.gates if not gate.passed]
    if failed:
        return ("chosen, though it fails: " if fit.chosen else "fails: ") + ", ".join(failed)
    return "chosen" if fit.chosen else "passes"


def gate_value(gate: Gate) -> str:
    """Write what was measured: a part of 1 as %, the stability as it is."""
    return "not measured" if gate.value is None else _measure(gate.name, gate.value)


def gate_limit(gate: Gate) -> str:
    """Write the limit, with its direction."""
    return f"at {gate.bound} {_measure(gate.name, gate.limit)}"


def seconds(value: float) -> str:
    """Write how long a step took.

    >>> seconds(0.0312).replace(NARROW, " "), seconds(12.345).replace(NARROW, " ")
    ('0.03 s', '12.3 s')
    """
    return f"{decimal(value, 1 if value >= 10 else 2)}{NARROW}s"


def _measure(name: str, value: float) -> str:
    return decimal(value, 3) if name == "stability" else percent(value)


def _customers(number: int) -> str:
    return f"{count(number)} {'customer' if number == 1 else 'customers'}"


def _days(number: float) -> str:
    shown = decimal(number, 0 if number >= 3 else 1)
    return f"{shown} {'day' if shown == '1.0' else 'days'}"


def _come_and_gone(outcome: TrainingOutcome, compared: Comparison) -> list[str]:
    before, after = {s.id: s.name for s in compared.before}, {s.id: s.name for s in outcome.segments}
    told = []
    if come := [name for id_, name in after.items() if id_ not in before]:
        told.append(f"Not in the active model: {_list(come)}.")
    if gone := [name for id_, name in before.items() if id_ not in after]:
        told.append(f"No longer in the new model: {_list(gone)}.")
    return told or ["All segments keep their names."]


def _list(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
