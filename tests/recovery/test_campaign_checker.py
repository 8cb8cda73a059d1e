"""The checker of the campaign step: a good run passes, and each kind of violation is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final

import pytest

from segmentation.campaign_state import CampaignState
from segmentation.campaigns import CampaignStep, parse_rules
from segmentation.event_text import iso
from segmentation.step import DueEntry, SideRecord, TurnContext
from tests.recovery.rig.campaign_checker import DecidedRun, violations
from tests.recovery.rig.campaign_table import ReadTable, millis
from tests.recovery.rig.checker import ReadRow, ShardContent

NOON: Final = millis("2001-09-10T12:00:00Z")
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
TABLE: Final = """
version: 2
quiet_hours: {from: "22:00", until: "06:00"}
caps:
  - {at_most: 1, within: 7d, tag: marketing}
rules:
  - name: welcome
    when: {from: [null], to: "*", first_time: true}
    then: {action: Welcome, channel: email}
    quiet_hours: none
    goal: {order_within: 30d}
  - name: reminder
    when: {to: [Lost], cause: [silence]}
    then: {action: Come back, channel: email}
    tags: [marketing]
    delay: 1d
    unless: order
  - name: offer
    when: {to: [Loyal]}
    then: {action: Points, channel: email}
    tags: [marketing]
    cooldown: 5d
    budget: {per_day: 4}
    holdout: 0.3
  - name: call
    when: {to: [Big*]}
    then: {action: Call, channel: phone}
    consent: required
"""
HELD_OUT: Final = "c0"  # by the share of the offer; the other names aren't


class PlayedShard:
    """The real step's turns on one shard, in wall time, as a worker stores and publishes them."""

    def __init__(self) -> None:
        self.step = CampaignStep(parse_rules(TABLE), "g")
        self.run = DecidedRun([], [], [], [ReadRow(0, 0, b"takeover", b"{}", {}, NOON - DAY)], [], [], [], [])
        self.states: dict[bytes, bytes] = {}
        self.gone: dict[bytes, bytes] = {}
        self.due: dict[bytes, float] = {}
        self.numbers: dict[str, int] = {}
        self.now = NOON
        self.serial = 0

    def turn(self, moves: Sequence[ReadRow] = (), side: Sequence[SideRecord] = ()) -> None:
        """Take a turn, and whatever is due."""
        context = TurnContext(self.now - 1, self.now, side=side)
        plan = self.step.plan(moves, 0, context)
        known = self.states | self.gone
        fired = [DueEntry(int(at), key, self.states[key]) for key, at in self.due.items() if at < (plan.horizon or 0)]
        turn = self.step.decide(plan, [known.get(key) for key in plan.keys], fired, False, context)
        for key in turn.idle:
            self.due.pop(key, None)
        self.due |= {key: min(at, self.due.get(key, at)) for key, at in turn.earlier.items()} | turn.due
        for key, value in turn.states.items():
            gone = self.step.is_gone(value)
            (self.states, self.gone)[not gone].pop(key, None)
            (self.gone if gone else self.states)[key] = value
        for key in self.gone:
            self.due.pop(key, None)
        for output in turn.outputs:
            offset = len(self.run.decisions)
            mark = f"{offset + 1}:{len(self.run.moves)}:{turn.clock}:0:".encode()
            row = ReadRow(0, offset, output.key, output.value, {"segstream_mark": mark}, self.now)
            self.run.decisions.append(row)
        head = {"offset": len(self.run.moves), "count": len(self.run.decisions), "clock": turn.clock, "activation": 0}
        self.run.heads.append(ReadRow(0, len(self.run.heads), b"head", json.dumps(head).encode(), {}, self.now))
        shard = ShardContent(head, dict(self.states), dict(self.due), sorted(self.states), dict(self.gone))
        self.run.shards[:] = [shard]

    def moves(self, *moves: tuple[str, str | None, str]) -> None:
        """Take moves: of a customer, to a segment, by a cause."""
        taken = []
        for customer, target, cause in moves:
            number = self.numbers[customer] = self.numbers.get(customer, 0) + 1
            event = {
                "type": "segment.changed", "id": f"{customer}:{number}", "customer_id": customer, "sequence": number,
                "from": None if number == 1 else "Before", "to": target, "cause": cause, "occurred_at": iso(self.now),
            }  # fmt: skip
            value = json.dumps(event).encode()
            taken.append(ReadRow(0, len(self.run.moves), customer.encode(), value, {}, self.now))
            self.run.moves.append(taken[-1])
        self.turn(taken)

    def profile(self, customer: str, **fields: Any) -> None:
        """Take a profile."""
        self._beside("profiles", {"type": "customer.profile", "customer_id": customer, **fields}, customer)

    def event(self, customer: str, kind: str, **fields: Any) -> None:
        """Take an event of the topic of orders."""
        self._beside("orders", {"type": kind, **fields}, customer)

    def _beside(self, source: str, event: dict[str, Any], customer: str) -> None:
        self.serial += 1
        rows = self.run.profiles if source == "profiles" else self.run.orders
        value = json.dumps({"id": f"e{self.serial}", "occurred_at": iso(self.now), **event}).encode()
        rows.append(ReadRow(0, len(rows), customer.encode(), value, {}, self.now))
        self.turn(side=[SideRecord(source, len(rows) - 1, self.now, customer.encode(), value)])
        self.run.rests.append(self.now + 1)

    def order(self, customer: str) -> None:
        """Take an order."""
        amount = {"value": "5.00", "currency": "USD"}
        self.event(customer, "order.placed", customer_id=customer, order_id=f"o{self.serial}", amount=amount)


@cache
def good() -> DecidedRun:
    """Return a run with decisions of each kind."""
    shard = PlayedShard()
    shard.profile("ann", consent={"email": "granted", "phone": "granted"}, language="de", time_zone="Europe/Berlin")
    shard.profile("bob", consent={"email": "denied"})
    shard.now += MINUTE
    shard.moves(("ann", "New", "order"), ("bob", "New", "order"), ("cat", "New", "order"), (HELD_OUT, "New", "order"))
    shard.now += MINUTE
    shard.order("ann")  # a conversion
    shard.now += MINUTE
    shard.moves(("ann", "Loyal", "order"), (HELD_OUT, "Loyal", "order"), ("cat", "Big Spenders", "order"))
    shard.now += MINUTE
    shard.moves(("ann", "Lost", "silence"), ("cat", "Lost", "silence"), ("dan", "Lost", "silence"))
    shard.now += MINUTE
    shard.moves(("dan", "Lost", "silence"), ("eve", "New", "order"))
    shard.now += MINUTE
    shard.order("cat")  # no reminder
    shard.now += 25 * HOUR  # ann's reminder is one too many, dan's isn't
    shard.turn()
    shard.now += 11 * HOUR  # midnight
    shard.moves(("eve", "Loyal", "order"), ("fay", "New", "order"))
    shard.now += HOUR
    shard.moves(("fay", "Loyal", "order"), ("gus", "New", "order"))
    shard.now += MINUTE
    shard.event("fay", "customer.merged", **{"from": "fay", "into": "gus"})
    shard.now += MINUTE
    shard.moves(("fay", None, "merged"), ("cat", None, "erasure"))
    shard.now += 9 * HOUR  # eve's offer
    shard.turn()
    shard.now += HOUR
    shard.moves(("gus", "Lost", "silence"))
    shard.event("hal", "customer.erased", customer_id="hal")
    return shard.run


def events(run: DecidedRun) -> list[dict[str, Any]]:
    return [json.loads(row.value or b"") for row in run.decisions]


def found_in(run: DecidedRun, *, adopts: bool = False) -> list[str]:
    return violations(run, ReadTable(TABLE), adopts=adopts, event_time=False)


def test_nothing_is_wrong_with_a_good_run() -> None:
    assert found_in(good()) == []
    kinds = {(e["type"].removeprefix("campaign."), e.get("reason") if "detail" in e else None) for e in events(good())}
    withheld = {reason for _, reason in kinds if reason}
    assert {kind for kind, _ in kinds} == {"action", "withheld", "scheduled", "converted", "budget"}
    assert withheld >= {"held_out", "no_consent", "cap", "ordered", "merged"}


def index(run: DecidedRun, kind: str, customer: str = "", reason: str = "") -> int:
    """Return the place of a decision."""
    return next(
        at
        for at, (row, e) in enumerate(zip(run.decisions, events(run), strict=True))
        if e["type"] == f"campaign.{kind}"
        and (not customer or row.key == customer.encode())
        and (not reason or e.get("reason") == reason)
    )


def changed(run: DecidedRun, at: int, **fields: Any) -> DecidedRun:
    """Change fields of a decision."""
    rows = list(run.decisions)
    event = json.loads(rows[at].value or b"") | fields
    rows[at] = replace(rows[at], value=json.dumps(event).encode())
    return replace(run, decisions=rows)


def without(run: DecidedRun, at: int) -> DecidedRun:
    return replace(run, decisions=run.decisions[:at] + run.decisions[at + 1 :])


def action_instead(run: DecidedRun, reason: str, customer: str = "") -> DecidedRun:
    """Turn what was withheld for a reason into an action."""
    at = index(run, "withheld", customer, reason)
    other = json.loads(run.decisions[index(run, "action")].value or b"")
    added = {name: other[name] for name in ("variables",)} | {"tags": []}
    event = json.loads(run.decisions[at].value or b"")
    tags = {"reminder": ["marketing"], "offer": ["marketing"]}.get(event["campaign"], [])
    more = {**added, "tags": tags, "language": None, "time_zone": None}
    return changed(run, at, type="campaign.action", reason="?", **more)


def with_shard(run: DecidedRun, **fields: Any) -> DecidedRun:
    return replace(run, shards=[replace(run.shards[0], **fields)])


def with_state(run: DecidedRun, customer: bytes, change: Callable[[CampaignState], CampaignState]) -> DecidedRun:
    states = run.shards[0].states
    return with_shard(run, states=states | {customer: change(CampaignState.unpack(states[customer])).pack()})


def with_profile(run: DecidedRun, value: bytes) -> DecidedRun:
    row = ReadRow(0, len(run.profiles), b"ann", value, {}, NOON)
    return replace(run, profiles=[*run.profiles, row])


def denied_before(run: DecidedRun) -> DecidedRun:
    event = {"type": "customer.profile", "customer_id": "ann", "occurred_at": iso(NOON + 1), "consent": {
        "email": "denied"}}  # fmt: skip
    return with_profile(run, json.dumps({"id": "late", **event}).encode())


def sent_in_spite_of_an_order(run: DecidedRun) -> DecidedRun:
    at = index(run, "withheld", "cat", "ordered")
    later = changed(action_instead(run, "ordered"), at, decided_at=iso(NOON + 2 * DAY))
    later.decisions[at] = replace(later.decisions[at], timestamp=NOON + 2 * DAY)
    return later


WRONG: Final[dict[str, tuple[str, Callable[[DecidedRun], DecidedRun]]]] = {
    "an id twice": ("published twice", lambda r: replace(r, decisions=[*r.decisions, r.decisions[0]])),
    "an action is lost": ("without their decision", lambda r: without(r, index(r, "action"))),
    "a withheld one is lost": ("without their decision", lambda r: without(r, index(r, "withheld", "bob"))),
    "the end of what was held back is lost": (
        "states of shard 0", lambda r: without(r, index(r, "withheld", reason="cap"))
    ),
    "decided again": ("decided once more", lambda r: replace(r, decisions=[*r.decisions, replace(
        r.decisions[index(r, "action")], value=(r.decisions[index(r, "action")].value or b"").replace(
            b'"id":"', b'"id":"x'))])),
    "another customer's order": ("don't follow", lambda r: changed(r, index(r, "converted"), order_id="o99")),
    "an order too late": (
        "in time", lambda r: changed(r, index(r, "converted"), ordered_at=iso(NOON + 99 * DAY))
    ),
    "a conversion is lost": ("is no conversion", lambda r: without(r, index(r, "converted"))),
    "an action for the control group": ("should have been held_out", lambda r: action_instead(r, "held_out")),
    "an action without consent": ("should have been no_consent", lambda r: action_instead(r, "no_consent", "bob")),
    "an action beyond the cap": ("should have been cap", lambda r: action_instead(r, "cap")),
    "an action after a denial": ("should have been no_consent", denied_before),
    "an action after an order": ("should have been ordered", sent_in_spite_of_an_order),
    "held out without a hold-out": (
        "held_out doesn't hold", lambda r: changed(r, index(r, "action", "ann"), type="campaign.withheld",
                                                   reason="held_out", detail="")
    ),
    "withheld without a reason": (
        "cap doesn't hold", lambda r: changed(r, index(r, "action", "ann"), type="campaign.withheld", reason="cap",
                                              detail="")
    ),
    "an action in quiet hours": (
        "should have been scheduled:quiet_hours",
        lambda r: changed(r, index(r, "scheduled", "fay"), type="campaign.action", reason="", tags=["marketing"],
                          variables={}, language=None, time_zone=None)
    ),
    "quiet hours end too early": (
        "quiet hours end at another time", lambda r: changed(r, index(r, "scheduled", "eve"), until=iso(NOON + 2 * DAY))
    ),
    "a delay is cut short": (
        "another delay", lambda r: changed(r, index(r, "scheduled", "ann"), until=iso(NOON + 5 * MINUTE))
    ),
    "merged without a merge": (
        "wasn't merged", lambda r: changed(r, index(r, "withheld", reason="cap"), reason="merged")
    ),
    "another customer": ("fields and what", lambda r: changed(r, index(r, "action"), customer_id="bob")),
    "another channel": ("fields and what", lambda r: changed(r, index(r, "action"), channel="fax")),
    "another time zone": ("time zone or language", lambda r: changed(r, index(r, "action", "ann"), time_zone="UTC")),
    "an unknown campaign": ("no such campaign", lambda r: changed(r, index(r, "action"), campaign="x")),
    "no such move": ("no such move", lambda r: changed(r, index(r, "action"), change_id="x")),
    "at another instant": ("another instant", lambda r: changed(r, index(r, "action"), decided_at=iso(NOON))),
    "other rules": ("versions of the rules", lambda r: changed(r, index(r, "action"), rules="00000000")),
    "no budget": ("no budget", lambda r: replace(r, decisions=[
        row for row in r.decisions if b"campaign.budget" not in (row.value or b"")])),
    "another budget": ("were sent", lambda r: changed(r, index(r, "budget"), used={
        "offer": {"day": "2001-09-10", "actions": 7}})),
    "an action on an adopted move": ("decisions too many", lambda r: replace(r, moves=[
        replace(row, value=(row.value or b"").replace(b'"order"', b'"model"')) for row in r.moves])),
    "gaps in the numbers": ("number S", lambda r: replace(r, decisions=r.decisions[1:])),
    "Kafka's head": ("count other outputs", lambda r: replace(r, heads=r.heads[:-3])),
    "dead letters": ("dead letters of moves", lambda r: replace(r, dead=[
        ReadRow(0, 0, b"a", b"", {"__connect.errors.topic": b"segment-changes"})])),
    "a bad profile is lost": ("unusable profiles", lambda r: with_profile(r, b"{}")),
    "a good profile is dead": ("of usable profiles", lambda r: replace(r, dead=[ReadRow(0, 0, b"a", b"", {
        "__connect.errors.topic": b"customer-profiles", "__connect.errors.partition": b"0",
        "__connect.errors.offset": b"0"})])),
    "Redis is behind": ("isn't at the end", lambda r: with_shard(r, head=r.shards[0].head | {"offset": 1})),
    "a state is lost": ("no state", lambda r: with_shard(r, states={
        k: v for k, v in r.shards[0].states.items() if k != b"ann"})),
    "a state is behind": ("states of shard 0", lambda r: with_state(r, b"ann", lambda s: s._replace(sequence=2))),
    "an act is forgotten": ("states of shard 0", lambda r: with_state(r, b"ann", lambda s: s._replace(
        decided=s.decided._replace(acts=s.decided.acts[1:])))),
    "a counter is behind": ("states of shard 0", lambda r: with_state(r, b"ann", lambda s: s._replace(
        decided=s.decided._replace(counter=1)))),
    "a profile is forgotten": ("consent:email", lambda r: with_state(r, b"bob", lambda s: s._replace(
        facts=s.facts._replace(profile=type(s.facts.profile)())))),
    "a merge is forgotten": ("merged", lambda r: replace(r, orders=[*r.orders, replace(
        r.orders[-1], key=b"gus", timestamp=NOON + 20 * DAY,
        value=b'{"type":"customer.merged","from":"gus","into":"ann","occurred_at":"2001-09-10T13:00:00Z"}')])),
    "remains are lost": ("remains of 0", lambda r: with_shard(r, tombstones={})),
    "a due entry is lost": ("not decided in time", lambda r: with_shard(r, due={})),
    "a due entry is late": ("not decided in time", lambda r: with_shard(r, due=dict.fromkeys(r.shards[0].due, 9e15))),
    "the list of customers": ("0 customers", lambda r: with_shard(r, customers=[])),
    "a merged profile isn't handed on": ("not handed on", lambda r: replace(r, orders=[*r.orders, replace(
        r.orders[-1], key=b"bob", timestamp=NOON + 20 * DAY,
        value=b'{"type":"customer.merged","from":"bob","into":"ann","occurred_at":"2001-09-10T13:00:00Z"}')])),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_each_violation_is_seen(name: str) -> None:
    kind, change = WRONG[name]
    found = found_in(change(good()), adopts=name == "an action on an adopted move")
    assert any(kind in line for line in found), found
