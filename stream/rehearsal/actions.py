"""The campaign actions of a replay, and whether the customers ordered in the time after them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.campaigns import CampaignStep
from segmentation.entries import DAY_MS, PLACED, Entry
from segmentation.event_text import instant, iso
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.life import Life
from segmentation.life_figures import LifeAt, life_figures
from segmentation.money import format_units
from segmentation.moves import rfm_at
from segmentation.outlook_figures import outlook_figures
from segmentation.output_events import CampaignAction, Cause, OutlookFigures, Rfm, SegmentChanged
from stream.orders.rows import parse_at
from stream.rehearsal.campaign_replay import CampaignReplay, TimedRecord
from stream.rehearsal.moves import MoveColumns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from segmentation.campaign_rules import RuleTable
    from segmentation.model import SegmentModel
    from stream.rehearsal.replay import GroupReplay

ANYWAY_DAYS: Final = 30


@dataclass(slots=True)
class CampaignTally:
    """Counts of one campaign's actions. `followed`: those that orders can be looked for in the 30 days after.

    `anyway`: those of them after which the customer ordered in that time; `their_units`: what these first orders were
    worth, ten-thousandths.
    """

    action: str
    actions: int = 0
    followed: int = 0
    anyway: int = 0
    their_units: int = 0

    def add(self, other: CampaignTally) -> None:
        """Add the counts of other customers."""
        self.actions += other.actions
        self.followed += other.followed
        self.anyway += other.anyway
        self.their_units += other.their_units


@dataclass(slots=True)
class RehearsedCampaigns:
    """Runs the campaign step on the moves of groups. `known_until`: orders are known up to this instant (ms)."""

    table: RuleTable
    model: SegmentModel
    known_until: int
    found: dict[str, CampaignTally] = field(default_factory=dict)
    _may_act: dict[tuple[int, int, Cause], bool] = field(default_factory=dict)
    _names: dict[int, str] = field(init=False)
    _waits: bool = field(init=False)  # some rule does, so that later moves and orders count

    def __post_init__(self) -> None:
        hours = any(self.table.quiet_hours_of(rule) for rule in self.table.rules)
        self._waits = hours or any(rule.delay for rule in self.table.rules)
        self._names = {segment.id: segment.name for segment in self.model.segments}

    def add(self, group: GroupReplay) -> None:
        """Count the actions on a group's moves. Where the model started, nobody is written to."""
        records = sorted(self._records(group), key=_instant)
        place = {customer: i for i, customer in enumerate(group.customers)}
        # A run of its own for each group, whose customers come once.
        run = CampaignReplay(CampaignStep(self.table, "rehearsal", adopted=True))
        for decisions in (run.feed(records), run.advance(self.known_until)):
            for event in decisions:
                if isinstance(event, CampaignAction):
                    self._count(event, group.entries[place[event.customer_id.encode()]])

    def _records(self, group: GroupReplay) -> Iterator[TimedRecord]:
        """Yield a group's moves, and its orders where rules look at orders, unordered."""
        rows = self._rows(group.moves)
        if rows.size:
            yield from self._moves(group, rows)
        if rows.size and any(rule.unless or rule.goal for rule in self.table.rules):
            for customer, entries in zip(group.customers, group.entries, strict=True):
                yield from (_order(customer, one) for one in entries if one.kind == PLACED)

    def _rows(self, moves: MoveColumns) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the moves that some rule may act on, going by segments and cause; all, where rules wait."""
        if self._waits:
            return np.flatnonzero([self._name(target) is not None for target in moves.target.tolist()])
        kinds = zip(moves.source.tolist(), moves.target.tolist(), moves.cause, strict=True)
        return np.array([row for row, kind in enumerate(kinds) if self._may(kind)], dtype=np.int64)

    def _may(self, kind: tuple[int, int, Cause]) -> bool:
        may = self._may_act.get(kind)
        if may is None:
            source, target, cause = self._name(kind[0]), self._name(kind[1]), kind[2]
            free = {"life": None, "outlook": None, "rfm": None}
            bare = [rule.when.model_copy(update=free) for rule in self.table.rules]
            may = cause is not Cause.MODEL and target is not None
            may = may and any(when.matches(source, target or "", cause) for when in bare)
            self._may_act[kind] = may
        return may

    def _name(self, segment: int) -> str | None:
        return self._names.get(segment)

    def _moves(self, group: GroupReplay, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Iterator[TimedRecord]:
        moves = group.moves
        head, at = moves.head[rows], moves.at[rows]
        outlooks = outlook_figures(self.model.outlook, head, at)
        window, lives = (
            zip(*(head[name].tolist() for name in names), strict=True)
            for names in (
                ("frequency", "monetary", "last"),
                ("life_orders", "life_days", "life_money", "life_first", "last"),
            )
        )
        sequences: dict[int, int] = {}
        for row, when, (orders, money, last), life, outlook in zip(
            rows.tolist(), at.tolist(), window, lives, outlooks, strict=True
        ):
            customer = int(moves.customer[row])
            sequences[customer] = sequences.get(customer, 0) + 1
            name = group.customers[customer].decode()
            event = self._event(moves, row, name, sequences[customer], rfm_at(orders, money, last, when), life, outlook)
            yield TimedRecord(when, "moves", row, group.customers[customer], encode(event))

    def _event(
        self,
        moves: MoveColumns,
        row: int,
        customer: str,
        sequence: int,
        rfm: Rfm,
        life: tuple[int, int, int, int, int],
        outlook: OutlookFigures | None,
    ) -> SegmentChanged:
        """Return the event of a move, as far as rules look at it."""
        *figures, last = life
        at = iso(int(moves.at[row]))
        return SegmentChanged(
            id=f"{customer}:{sequence}",
            customer_id=customer,
            sequence=sequence,
            from_=self._name(int(moves.source[row])),
            to=self._name(int(moves.target[row])),
            cause=moves.cause[row],
            occurred_at=at,
            scored_at=at,
            model_version=None,
            rfm=rfm,
            before=None,
            distances={},
            next=None,
            causation_id=None,
            life=life_figures(LifeAt(Life(*figures), last, [], partial=False)),
            outlook=outlook,
        )

    def _count(self, event: CampaignAction, own: Sequence[Entry]) -> None:
        tally = self.found.setdefault(event.campaign, CampaignTally(event.action))
        tally.actions += 1
        at = parse_at(event.decided_at or event.occurred_at)
        if at + ANYWAY_DAYS * DAY_MS > self.known_until:
            return
        tally.followed += 1
        place = bisect_right(own, at, key=_time)
        order = next((e for e in own[place:] if e.kind == PLACED), None)
        if order is not None and order.time <= at + ANYWAY_DAYS * DAY_MS:
            tally.anyway += 1
            tally.their_units += order.amount


def _instant(record: TimedRecord) -> int:
    return record.at


def _order(customer: bytes, entry: Entry) -> TimedRecord:
    """Return the record of an order, as far as rules look at it: the currency of its amount makes no difference."""
    at, name = _time(entry), str(entry.event)
    event = OrderPlaced(
        id=name, order_id=name, customer_id=customer.decode(), occurred_at=instant(at),
        amount=Amount(format_units(entry.amount), "XXX"),
    )  # fmt: skip
    return TimedRecord(at, "orders", 0, customer, encode(event))


def _time(entry: Entry) -> int:
    return entry.key >> 3


def added(parts: Sequence[Mapping[str, CampaignTally]]) -> dict[str, CampaignTally]:
    """Return the counts of all parts together, by campaign."""
    found: dict[str, CampaignTally] = {}
    for part in parts:
        for name, tally in part.items():
            found.setdefault(name, CampaignTally(tally.action)).add(tally)
    return found
