"""The segment for figures alone, as a model would give it to a new customer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from segmentation.clock_scorer import ClockScorer
from segmentation.definitions import clock_facts, definition, outlook_line, why
from segmentation.entries import DAY_MS, HORIZON_MS
from segmentation.life import Life
from segmentation.life_figures import LifeAt
from segmentation.money import UNITS
from segmentation.outlook_figures import outlook_of_lives, purchases_of_lives
from segmentation.output_events import OutlookFigures
from segmentation.scorer import UNKNOWN, Scorer
from stream.errors import SegstreamError

if TYPE_CHECKING:
    from segmentation.model import SegmentModel


class ScoreRefused(SegstreamError):
    """The figures aren't enough for the active model."""


class ScoreReport(msgspec.Struct, frozen=True):
    """The segment for figures alone. `distances`: by segment, in standardised features; none by own clock."""

    segment: str
    action: str
    distances: dict[str, float]
    model_version: str
    definition: str | None = None
    why: str | None = None
    outlook: OutlookFigures | None = None


class GivenFigures(NamedTuple):
    """The figures to score. By own clock `frequency` counts days with an order, of the whole life, as `monetary_units`.

    `first_order_days`: days since the first order; None: the only order is the last one. Monetary in ten-thousandths.
    """

    recency_days: float
    frequency: int
    monetary_units: int
    first_order_days: float | None = None


def score(model: SegmentModel, given: GivenFigures, currency: str) -> ScoreReport:
    """Return the segment for figures, as for a new customer. Raises ScoreRefused where a figure is missing."""
    return _by_centres(model, given) if model.format == 1 else _by_own_clock(model, given, currency)


def score_lines(found: ScoreReport, currency: str) -> list[str]:
    """Return the reasons of a score as text for people."""
    lines = []
    if found.definition is not None:
        lines.append(f"  who this is: {found.definition}")
    if found.why is not None:
        lines.append(f"  these figures: {found.why}")
    if found.outlook is not None:
        lines.append(f"  {outlook_line(found.outlook, currency)}")
    return lines


def _by_centres(model: SegmentModel, given: GivenFigures) -> ScoreReport:
    scorer = Scorer(model)
    at = np.array([HORIZON_MS], dtype=np.int64)
    # Decisions take recency in whole milliseconds, for every customer.
    last = at - _ms_of(given.recency_days)
    rest = scorer.rest(np.array([float(given.frequency)]), np.array([given.monetary_units / float(UNITS)]))
    nearest = model.segments[int(scorer.decide(np.array([UNKNOWN]), at, last, rest)[0])]
    distances = scorer.distances(at, last, rest)[0].tolist()
    named = {segment.name: round(distance, 6) for segment, distance in zip(model.segments, distances, strict=True)}
    return ScoreReport(nearest.name, nearest.action, named, model.version)


def _by_own_clock(model: SegmentModel, given: GivenFigures, currency: str) -> ScoreReport:
    days = max(given.frequency, 1)
    if given.first_order_days is None and days > 1:
        raise ScoreRefused(
            f"model {model.version} judges customers by their own clock: {days} days with an order need the first one.",
            hint="Add --first-order-days: with --recency-days it says how often the customer orders.",
        )
    scorer, at = ClockScorer(model), HORIZON_MS
    last = at - _ms_of(given.recency_days)
    first = min(at - _ms_of(given.first_order_days or 0.0), last) if days > 1 else last
    life = LifeAt(Life(days, days, given.monetary_units, first), last, [], partial=False)
    purchases = purchases_of_lives([life], at)
    instants = np.array([at], dtype=np.int64), np.array([last], dtype=np.int64)
    segment = model.segments[int(scorer.place(purchases, *instants)[0])]
    return ScoreReport(
        segment.name,
        segment.action,
        {},
        model.version,
        definition(model, segment, currency),
        why(model, segment, clock_facts(scorer, purchases, at, last), currency),
        outlook_of_lives(model.outlook, [life], at)[0],
    )


def _ms_of(days_ago: float) -> int:
    return round(min(max(days_ago, 0.0), HORIZON_MS / DAY_MS) * DAY_MS)
