"""The shards of a campaign step in memory: states, due times, logs of decisions, and records handed on between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from segmentation.campaigns import CampaignStep
from segmentation.event_text import iso
from segmentation.events import CONTROL_KEY
from segmentation.step import DueEntry, Output, SideRecord, Turn, TurnContext
from tests.support.oracles.campaigns import PlainDecision, PlainMove, PlainOrder, PlainProfile
from tests.support.oracles.local_time import ms_at

FINAL = {"campaign.action", "campaign.withheld"}


class MoveRecord(NamedTuple):
    """A record of the counted input."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class FleetInput(NamedTuple):
    """All records of a shard's turn, as the engine hands them in: profiles before orders, each by offset."""

    now: int
    moves: tuple[MoveRecord, ...] = ()
    side: tuple[SideRecord, ...] = ()
    behind: bool = False


@dataclass
class StoredPast:
    """A content of Redis: with each turn all of it changes at once."""

    states: dict[bytes, bytes]
    index: dict[bytes, int]
    clock: int
    turns: int


@dataclass
class CampaignMemory:
    """One shard. `slice_`: the most due customers of a turn."""

    step: CampaignStep
    partition: int
    slice_: int = 10**6
    states: dict[bytes, bytes] = field(default_factory=dict)
    index: dict[bytes, int] = field(default_factory=dict)
    clock: int = -1
    log: list[Output] = field(default_factory=list)
    taken: list[tuple[FleetInput, int]] = field(
        default_factory=list
    )  # all turns, and the decisions up to each one's end
    packages: list[tuple[int, bytes]] = field(default_factory=list)  # partition, value: not yet delivered
    dead: Counter[str] = field(default_factory=Counter)
    pasts: list[StoredPast] = field(default_factory=list)  # before the first turn, and after each

    def __post_init__(self) -> None:
        self.pasts.append(self.past())

    def turn(self, given: FleetInput) -> list[Output]:
        """Run one turn. Return its outputs."""
        turn = self._decide(given)
        assert turn.taken == len(given.moves)
        assert turn.clock >= self.clock
        self._store(turn)
        self.log += turn.outputs
        self.packages += [(package.partition, package.value) for package in turn.side_packages]
        self.dead.update(dead.reason for dead in (*turn.dead, *turn.side_dead))
        self.taken.append((given, len(self.log)))
        self.pasts.append(self.past())
        return turn.outputs

    def _decide(self, given: FleetInput) -> Turn:
        context = TurnContext(self.clock, given.now, side=given.side, behind=given.behind)
        plan = self.step.plan(given.moves, self.partition, context)
        assert len(set(plan.keys)) == len(plan.keys)
        due = sorted((at, key) for key, at in self.index.items() if plan.horizon is not None and at < plan.horizon)
        fired = [DueEntry(at, key, self.states.get(key)) for at, key in due[: self.slice_ + 1]]
        values = [self.states.get(key) for key in plan.keys]
        return self.step.decide(plan, values, fired, len(fired) > self.slice_, context)

    def _store(self, turn: Turn) -> None:
        self.states |= turn.states
        for key, at in turn.earlier.items():
            self.index[key] = min(at, self.index.get(key, at))
        self.index |= turn.due
        for key in turn.idle:
            self.index.pop(key, None)
        self.clock = turn.clock

    def decisions(self) -> list[PlainDecision]:
        """Return the decisions on customers so far."""
        return plain_decisions(self.log)

    def waiting(self) -> set[bytes]:
        """Return the customers for whom something is held back."""
        return {key for key, value in self.states.items() if self.step.due(value) is not None}

    def past(self) -> StoredPast:
        """Return what a backup of Redis holds now."""
        return StoredPast(dict(self.states), dict(self.index), self.clock, len(self.taken))

    def take_over(self, past: StoredPast, size: int) -> list[SideRecord]:
        """Set Redis back and take the shard over, `size` moves at a time. Return the side records to be read again."""
        self.states, self.index = dict(past.states), dict(past.index)
        known = self.taken[past.turns - 1][1] if past.turns else 0
        for key, note in {output.key: output.note for output in self.log[known:]}.items():
            self._write(key, self.step.patch(self.states.get(key), note))
        moves = [move for given, _ in self.taken[past.turns :] for move in given.moves]
        merge_clock = past.clock
        for begin in range(0, len(moves), size):
            context = TurnContext(merge_clock, self.clock)
            plan = self.step.absorb(moves[begin : begin + size], self.partition, context)
            merged = self.step.merge(plan, [self.states.get(key) for key in plan.keys])
            for key, value in merged.states.items():
                self._write(key, value)
            merge_clock = plan.clock
        return [record for given, _ in self.taken[past.turns :] for record in given.side]

    def _write(self, key: bytes, value: bytes) -> None:
        self.states[key] = value
        if (at := self.step.due(value)) is not None:
            self.index[key] = min(at, self.index.get(key, at))


def move_record(move: PlainMove, offset: int, timestamp: int) -> MoveRecord:
    """Return a move as the scoring step publishes it."""
    body: dict[str, Any] = {
        "type": "segment.changed", "id": move.id, "customer_id": move.customer, "sequence": move.sequence,
        "from": move.from_, "to": move.to, "cause": move.cause, "occurred_at": iso(move.at), "scored_at": iso(move.at),
    }  # fmt: skip
    if move.into is not None:
        body["merged_into"] = move.into
    return MoveRecord(offset, timestamp, move.customer.encode(), msgspec.json.encode(body))


def profile_record(profile: PlainProfile, offset: int, timestamp: int) -> SideRecord:
    """Return an event of a profile as a shop sends it."""
    fields = dict(profile.fields)
    consent = {name.removeprefix("consent."): said for name, said in fields.items() if name.startswith("consent.")}
    body = {
        "type": "customer.profile",
        "id": f"p{offset}",
        "customer_id": profile.customer,
        "occurred_at": iso(profile.at),
    }
    body |= {name: text for name, text in fields.items() if not name.startswith("consent.")}
    value = msgspec.json.encode(body | ({"consent": consent} if consent else {}))
    return SideRecord("profiles", offset, timestamp, profile.customer.encode(), value)


def order_record(order: PlainOrder, offset: int, timestamp: int) -> SideRecord:
    """Return an event of the topic of orders as a shop sends it, or as the scoring step hands it on."""
    sender = order.by or order.customer
    body: dict[str, Any] = {"id": f"o{offset}", "occurred_at": iso(order.at), "customer_id": sender}
    if order.kind == "placed":
        amount = {"value": "10.00", "currency": "EUR"}
        body |= {"type": "order.placed", "order_id": order.id, "amount": amount}
    elif order.kind == "erased":
        body |= {"type": "customer.erased"}
    else:
        del body["customer_id"]
        body |= {"type": "customer.merged", "from": order.customer, "into": order.into}
    key = sender.encode()
    if order.by:
        key = CONTROL_KEY
        body = {
            "type": "event.forwarded", "id": body["id"], "customer_id": order.customer, "event": body,
            "arrived": timestamp,
        }  # fmt: skip
    return SideRecord("orders", offset, timestamp, key, msgspec.json.encode(body))


def handed_record(value: bytes, offset: int, timestamp: int) -> SideRecord:
    """Return a record that a shard has handed on."""
    return SideRecord("profiles", offset, timestamp, CONTROL_KEY, value)


def events_of(outputs: Iterable[Output]) -> list[dict[str, Any]]:
    """Return the outputs' events."""
    return [msgspec.json.decode(output.value) for output in outputs]


def plain_decisions(outputs: Iterable[Output]) -> list[PlainDecision]:
    """Return decisions on customers as the oracle writes them."""
    found = []
    for body in events_of(outputs):
        kind = body["type"].removeprefix("campaign.")
        if kind == "budget":
            continue
        why, until = body.get("why", body.get("reason", "")), body.get("order_id")
        if kind == "action":
            why = ""
        elif kind == "converted":
            why = "held_out" if body["held_out"] else "sent"
        elif kind == "scheduled":
            until = ms_at(body["until"])
        found.append(
            PlainDecision(
                kind,
                body["customer_id"],
                body["campaign"],
                body["change_id"],
                ms_at(body["decided_at"]),
                why,
                until,
                body.get("language"),
                body.get("time_zone"),
            )
        )
    return found


def check_finals(outputs: Sequence[Output]) -> None:
    """Check that no move and rule has two ends, no id comes twice, and nothing is decided before it is scheduled."""
    ids = Counter(body["id"] for body in events_of(outputs))
    assert max(ids.values(), default=1) == 1, [each for each, count in ids.items() if count > 1]
    ends = Counter((body["change_id"], body["campaign"]) for body in events_of(outputs) if body["type"] in FINAL)
    assert max(ends.values(), default=1) == 1, [each for each, count in ends.items() if count > 1]
