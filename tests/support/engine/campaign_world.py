"""A shop's campaigns on several shards, with the oracle beside them: what both are given, instant by instant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import TypeVar

from segmentation.campaign_rules import parse_rules
from segmentation.campaigns import CampaignStep
from segmentation.partitioners import murmur2
from segmentation.routing import Routing
from segmentation.step import SideRecord
from tests.support.data.campaign_scripts import Tick, rules_text
from tests.support.engine.campaign_fleet import (
    CampaignMemory,
    FleetInput,
    check_finals,
    handed_record,
    move_record,
    order_record,
    profile_record,
)
from tests.support.oracles.campaigns import Campaigns, PlainDecision, PlainTable

SHARDS = 2
_Row = TypeVar("_Row")


def home(customer: str) -> int:
    """Return the shard of a customer."""
    return murmur2(customer.encode(), SHARDS)


class ShopWorld:
    """Both, on one story.

    `sizes`: an instant is cut into turns of so many records, in rotation; None: it is one turn. `slice_`: the most due
    customers of a turn. `repeats`: side records come again where a tick says so.
    """

    def __init__(
        self,
        rules: list[PlainTable],
        start: int,
        *,
        event_time: bool = False,
        adopted: bool = False,
        sizes: list[int] | None = None,
        slice_: int = 10**6,
        repeats: bool = False,
    ) -> None:
        self.rules, self.tables = rules, [parse_rules(rules_text(table)) for table in rules]
        self.now, self.event_time, self.offset, self.repeats = start, event_time, 0, repeats
        self.sizes = None if sizes is None else cycle(sizes)
        routing = Routing(murmur2, SHARDS)
        self.shards = [
            CampaignMemory(
                CampaignStep(self.tables[0], "shop", event_time=event_time, adopted=adopted, routing=routing), n, slice_
            )
            for n in range(SHARDS)
        ]
        self.book = Campaigns(rules[0], home, SHARDS, event_time=event_time, adopted=adopted)
        self.expected: list[list[PlainDecision]] = [[] for _ in self.shards]
        self.read: list[list[SideRecord]] = [[] for _ in self.shards]  # all side records so far

    def tick(self, tick: Tick) -> None:
        """Go on to an instant, and give both its inputs."""
        due = self.book.next_due()
        self.now = due + tick.wait % 2 if tick.due and due is not None else self.now + tick.wait
        for shard in self.shards:
            shard.step.table = self.tables[tick.table]
        self.book.table = self.rules[tick.table]
        if self.sizes is not None and not self.event_time:
            self.wait(0)  # what is due comes first, in any cut
        for shard, given in zip(self.shards, self._inputs(tick), strict=True):
            for each in [given] if self.sizes is None else self._cut(given):
                shard.turn(each)
            if self.sizes is not None and not self.event_time:
                self._drain(shard)

    def wait(self, span_ms: int) -> None:
        """Let time pass without any input."""
        self.now += span_ms
        for n, shard in enumerate(self.shards):
            self.expected[n] += self.book.turn(n, self.now)
            self._drain(shard)

    def settle(self) -> None:
        """Let time pass until nothing is held back any more."""
        while (due := min((at for shard in self.shards for at in shard.index.values()), default=None)) is not None:
            self.wait(max(due + 1 - self.now, 1))

    def set_back(self, turns: int, size: int) -> None:
        """Set Redis back on all shards, and take them over: the side records since then come again, profiles first."""
        for shard in self.shards:
            again = shard.take_over(shard.pasts[max(len(shard.pasts) - 1 - turns, 0)], size)
            known = len(shard.log)
            for source in ("profiles", "orders"):
                records = [record for record in again if record.source == source]
                for begin in range(0, len(records), 3):
                    shard.turn(FleetInput(self.now, side=tuple(records[begin : begin + 3]), behind=True))
            assert self.repeats or len(shard.log) == known

    def _drain(self, shard: CampaignMemory) -> None:
        shard.turn(FleetInput(self.now))
        while any(at < self.now for at in shard.index.values()):
            before = dict(shard.index)
            assert shard.turn(FleetInput(self.now)) or shard.index != before, "no progress"

    def _inputs(self, tick: Tick) -> list[FleetInput]:
        """Give the oracle the inputs of all shards; return them as records."""
        now, found = self.now, []
        profiles = [profile._replace(at=now - profile.at) for profile in tick.profiles]
        moves = [move._replace(at=now - move.at) for move in tick.moves]
        orders = [order._replace(at=now - order.at) for order in tick.orders]
        handed, packages = list(self.book.handed), [package for shard in self.shards for package in shard.packages]
        if tick.deliver:
            self.book.handed = []
            for shard in self.shards:
                shard.packages = []
        else:
            handed, packages = [], []
        for n in range(SHARDS):
            self.expected[n] += self.book.turn(
                n,
                now,
                [profile for profile in profiles if home(profile.customer) == n],
                [move for move in moves if home(move.customer) == n],
                [order for order in orders if home(order.customer) == n],
                [each for each in handed if home(each.into) == n],
            )
            side = [profile_record(p, self._number(), now) for p in profiles if home(p.customer) == n]
            side += [handed_record(value, self._number(), now) for partition, value in packages if partition == n]
            side += [order_record(order, self._number(), now) for order in orders if home(order.customer) == n]
            again = self.read[n][-4:] if tick.repeat and self.repeats else []
            self.read[n] += side
            side = [record for record in (*again, *side) if record.source == "profiles"] + [
                record for record in (*again, *side) if record.source == "orders"
            ]
            records = [move_record(move, self._number(), now) for move in moves if home(move.customer) == n]
            found.append(FleetInput(now, tuple(records), tuple(side)))
        return found

    def _cut(self, given: FleetInput) -> list[FleetInput]:
        """Cut an instant: profiles, erasures and merges with the first turn, other orders after all moves."""
        early = tuple(record for record in given.side if not is_order(record))
        late = [record for record in given.side if is_order(record)]
        turns = [FleetInput(given.now, side=early)]
        turns += [FleetInput(given.now, moves=tuple(part)) for part in self._parts(given.moves)]
        return turns + [FleetInput(given.now, side=tuple(part)) for part in self._parts(late)]

    def _parts(self, rows: Sequence[_Row]) -> list[Sequence[_Row]]:
        parts, sizes = list[Sequence[_Row]](), self.sizes
        assert sizes is not None
        begin = 0
        while begin < len(rows):
            end = begin + next(sizes)
            parts.append(rows[begin:end])
            begin = end
        return parts

    def _number(self) -> int:
        self.offset += 1
        return self.offset

    def check(self) -> None:
        """Check that each customer's decisions are those by the book, in their order."""
        for shard, expected in zip(self.shards, self.expected, strict=True):
            assert by_customer(shard.decisions()) == by_customer(expected)
        self.check_ends()

    def check_ends(self) -> None:
        """Check that nothing ends twice, and no record was refused."""
        for shard in self.shards:
            assert not shard.dead
            check_finals(shard.log)

    def check_due_times(self) -> None:
        """Check that whatever is held back has a due time, which isn't later."""
        for shard in self.shards:
            for key, value in shard.states.items():
                due = shard.step.due(value)
                assert due is None or shard.index[key] <= due


def is_order(record: SideRecord) -> bool:
    return record.source == "orders" and b"order.placed" in (record.value or b"")


def by_customer(decisions: Iterable[PlainDecision]) -> dict[str, list[PlainDecision]]:
    """Return each customer's decisions, in their order."""
    found: dict[str, list[PlainDecision]] = {}
    for decision in decisions:
        found.setdefault(decision.customer, []).append(decision)
    return found


def finals(decisions: Iterable[PlainDecision]) -> dict[tuple[str, str], str]:
    """Return how each move and campaign has ended: action, or why it was withheld."""
    ended = (decision for decision in decisions if decision.kind in ("action", "withheld"))
    return {(decision.change, decision.campaign): decision.why or decision.kind for decision in ended}
