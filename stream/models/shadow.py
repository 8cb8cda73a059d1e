"""`segstream models shadow`: a preview of the moves that a model's activation would make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec

from segmentation.decisions import CompiledModel, ScoringContext
from segmentation.event_text import iso
from segmentation.money import format_units
from segmentation.shadow import Verdict, verdicts
from stream.storage.states import look_at_all

if TYPE_CHECKING:
    from segmentation.model import SegmentModel
    from stream.models.topic import PublishedModels
    from stream.settings import Settings

EXAMPLES: Final = 3  # of customers, of each flow


class SegmentFlow(msgspec.Struct, frozen=True):
    """Customers who would go from one segment to another; `money`: their monetary value."""

    from_segment: str | None
    to_segment: str | None
    customers: int
    money: str
    examples: list[str]


class SegmentTotals(msgspec.Struct, frozen=True):
    """A segment's customers now, and after the model's activation. `money`: their monetary value."""

    segment: str | None
    customers: int
    money: str
    customers_after: int
    money_after: str


class ShadowReport(msgspec.Struct, frozen=True):
    """The effect that activating a model would have now. `moving`: the share of all customers that would move."""

    version: str
    active: str | None
    as_of: str | None
    customers: int
    moving: float
    flows: list[SegmentFlow]
    segments: list[SegmentTotals]


def shadow(
    settings: Settings, published: PublishedModels, model: SegmentModel, progress: Callable[[int], None] | None = None
) -> ShadowReport:
    """Score every customer by this model, and publish nothing.

    `progress(how many were read)`. Raises StoreUnreadable, RedisUnreachable.
    """
    compiled = CompiledModel.of(model, settings.group, published.names)
    scoring = ScoringContext.of(compiled, settings.dwell_ms, settings.rules)
    tally, latest_ms = _ShadowTally(), 0

    def look(at_ms: int, page: list[tuple[bytes, bytes]]) -> list[Verdict]:
        return verdicts(page, at_ms, scoring)

    for at_ms, found in look_at_all(settings, look, progress):
        latest_ms = max(latest_ms, at_ms)
        for verdict in found:
            tally.add(verdict)
    named = replace(published, names=published.names | {segment.id: segment.name for segment in model.segments})
    customers = tally.all.customers
    moving = sum(flow.customers for flow in tally.flows.values())
    return ShadowReport(
        version=model.version,
        active=None if published.active is None else published.active.version,
        as_of=iso(latest_ms) if customers else None,
        customers=customers,
        moving=moving / customers if customers else 0.0,
        flows=tally.segment_flows(named),
        segments=tally.segment_totals(named),
    )


@dataclass(slots=True)
class _Total:
    customers: int = 0
    money: int = 0  # ten-thousandths

    def add(self, verdict: Verdict) -> None:
        self.customers += 1
        self.money += verdict.monetary


@dataclass(slots=True)
class _ShadowTally:
    """Totals of all customers, by segment id: those in it now, those in it afterwards, and those who would move."""

    all: _Total = field(default_factory=_Total)
    now: defaultdict[int, _Total] = field(default_factory=lambda: defaultdict(_Total))
    after: defaultdict[int, _Total] = field(default_factory=lambda: defaultdict(_Total))
    flows: defaultdict[tuple[int, int], _Total] = field(default_factory=lambda: defaultdict(_Total))
    examples: defaultdict[tuple[int, int], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, verdict: Verdict) -> None:
        """Count a customer."""
        self.all.add(verdict)
        self.now[verdict.announced].add(verdict)
        self.after[verdict.segment].add(verdict)
        if verdict.announced != verdict.segment:
            move = (verdict.announced, verdict.segment)
            self.flows[move].add(verdict)
            if len(self.examples[move]) < EXAMPLES:
                self.examples[move].append(verdict.key.decode())

    def segment_flows(self, named: PublishedModels) -> list[SegmentFlow]:
        """Return who would move, the largest flow first."""
        return [
            SegmentFlow(
                named.name(source),
                named.name(target),
                flow.customers,
                format_units(flow.money),
                self.examples[source, target],
            )
            for (source, target), flow in sorted(self.flows.items(), key=lambda item: -item[1].customers)
        ]

    def segment_totals(self, named: PublishedModels) -> list[SegmentTotals]:
        """Return each segment's totals now and afterwards, by segment id."""
        none = _Total()
        rows = [
            (segment, self.now.get(segment, none), self.after.get(segment, none))
            for segment in sorted({*self.now, *self.after})
        ]
        return [
            SegmentTotals(
                named.name(segment), now.customers, format_units(now.money), after.customers, format_units(after.money)
            )
            for segment, now, after in rows
        ]
