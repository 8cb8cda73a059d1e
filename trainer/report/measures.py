"""The features of customers as the report shows them: their titles, units and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trainer.report.markup import amount, decimal

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.report.svg import Kind


@dataclass(frozen=True, slots=True)
class Measure:
    """One feature as charts and tables show it. `more`, `less`: what a customer with a high or a low figure has."""

    title: str
    axis: str
    kind: Kind
    label: Callable[[float], str]
    more: str
    less: str


_MEASURES: Final = {
    "recency_days": Measure(
        "Recency",
        "days since the last order",
        "linear",
        lambda x: f"{decimal(x, 0)} d",
        "order longer ago",
        "more recent order",
    ),
    "frequency": Measure("Frequency", "orders", "log", lambda x: decimal(x, 1), "more orders", "fewer orders"),
    "monetary": Measure("Monetary", "money spent, net", "log", amount, "more money", "less money"),
    "silence_in_gaps": Measure(
        "Silence",
        "time since the last order, in the customer's usual gaps",
        "log",
        lambda x: decimal(x, 1),
        "longer silent for their rhythm",
        "ordered lately for their rhythm",
    ),
    "orders_per_year": Measure(
        "Rate", "expected orders a year", "log", lambda x: decimal(x, 1), "order more often", "order less often"
    ),
    "order_value": Measure("Order value", "value of an order", "log", amount, "larger orders", "smaller orders"),
}


def measure_of(feature: str) -> Measure:
    """Return how a feature is shown; one that isn't known here, under its own name.

    >>> measure_of("monetary").title, measure_of("visits").title
    ('Monetary', 'visits')
    """
    return _MEASURES.get(feature) or Measure(
        feature, feature, "log", lambda x: decimal(x, 1), f"more {feature}", f"less {feature}"
    )
