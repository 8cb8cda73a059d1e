"""The checker's replay of one customer's decisions: each must follow from what was decided before it.

What depends on when a shard read a profile or an order has several right answers; a decision must be one of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from tests.recovery.rig.campaign_knowledge import NEVER, Knowledge, KnownAct
from tests.recovery.rig.campaign_table import DAY_MS, Change, ReadTable, RuleRow, local, millis, span_ms
from tests.recovery.rig.checker import ReadRow

KEPT_MS: Final = 32 * DAY_MS  # how long all acts are remembered
LATEST_ORDER_MS: Final = 7 * DAY_MS  # how late an order may come and still be a conversion

Decision = dict[str, Any]


class StoryMove(NamedTuple):
    """A move as a story needs it. `clock`: the latest instant of the shard's moves up to it."""

    offset: int
    number: int
    change: Change
    clock: int
    came: int  # by the broker


class WaitingAct(NamedTuple):
    """An action that is held back, by the last decision on it."""

    campaign: str
    change_id: str
    until: int
    why: str
    number: int


class Watch(NamedTuple):
    """An act that an order turns into a conversion."""

    action_id: str
    acted_at: int
    until: int
    held_out: bool
    number: int
    came: int  # by the broker


class TakenDecision(NamedTuple):
    """A decision's record, with what its turn's mark says. `handled`: the input before it was read in former turns."""

    row: ReadRow
    event: Decision
    handled: int
    read: int
    used: int  # of the campaign's budget, on the shard, before


def campaign_key(name: str) -> bytes:
    """Return the 8 bytes by which states know a campaign."""
    return blake2b(name.encode(), digest_size=8).digest()


def reason_of(event: Decision) -> str:
    """Return an outcome: action, scheduled (with why), or the reason for which it is withheld."""
    if event["type"] == "campaign.scheduled":
        return f"scheduled:{event['why']}"
    return "action" if event["type"] == "campaign.action" else str(event["reason"])


@dataclass(slots=True)
class CustomerStory:
    """The decisions about one customer so far."""

    table: ReadTable
    known: Knowledge
    partition: int
    partitions: int
    customer: str
    moves: list[StoryMove]
    event_time: bool
    acts: list[KnownAct] = field(default_factory=list)
    stored: list[KnownAct] = field(default_factory=list)  # those that the state remembers
    waiting: list[WaitingAct] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    counter: int = 0
    at_move: defaultdict[str, list[Decision]] = field(default_factory=lambda: defaultdict(list))
    ended: dict[tuple[str, str], str] = field(default_factory=dict)
    _last: int = 0  # the number of the last move that was decided on at once

    def take(self, decision: TakenDecision) -> Iterator[str]:
        """Take the next decision. Yield what is wrong with it."""
        self.counter += 1
        event, number = decision.event, self.number(decision.event["change_id"])
        if number is None:
            yield "no such move of the customer"
            return
        yield from self._fields(event, self.moves[self._index(number)].change)
        left = [move for move in self.moves if move.change["to"] is None and number < move.number]
        if any(move.offset < decision.handled for move in left) and event.get("reason") != "merged":
            yield "the move was void: the customer had been erased or merged"
        since = max((m.number for m in self.moves if m.change["to"] is None and m.number < number), default=0)
        self._forget(since)
        if event["type"] == "campaign.converted":
            yield from self._take_conversion(decision)
            return
        yield from self._take_outcome(decision, number)

    def finish(self) -> Iterator[str]:
        """Forget what the customer's last erasure or merge has made void. Yield which orders weren't counted."""
        self._forget(self.since)
        for watch in self.watches:
            for order in self.known.orders[self.customer]:
                late = order.came > watch.came and self.known.is_sure(self.partition, order)
                if late and watch.acted_at < order.at <= watch.until:
                    yield f"order {order.order_id} is no conversion of act {watch.action_id}"

    @property
    def since(self) -> int:
        """The number of the last move that led nowhere; 0: there is none."""
        return max((move.number for move in self.moves if move.change["to"] is None), default=0)

    def number(self, change_id: str) -> int | None:
        """Return the sequence of a move of the customer."""
        return next((move.number for move in self.moves if move.change["id"] == change_id), None)

    def _index(self, number: int) -> int:
        return next(index for index, move in enumerate(self.moves) if move.number == number)

    def _forget(self, since: int) -> None:
        self.acts = [act for act in self.acts if act.number > since]
        self.stored = [act for act in self.stored if act.number > since]
        self.waiting = [one for one in self.waiting if one.number > since]
        self.watches = [watch for watch in self.watches if watch.number > since]

    def _fields(self, event: Decision, change: Change) -> Iterator[str]:
        expected = {"customer_id": self.customer, "segment": change["to"], "occurred_at": change["occurred_at"]}
        if rule := self.table.rules.get(event["campaign"]):
            expected |= {name: rule["then"][name] for name in ("action", "channel")}
            if event["type"] == "campaign.action":
                expected["tags"] = rule.get("tags", [])
                if set(event["variables"]) != set(rule["then"].get("variables", ())):
                    yield f"variables {event['variables']}"
                if event["variables"].get("rfm") not in (None, change.get("rfm")):
                    yield "other figures than the move's"
        if other := {name: (event[name], value) for name, value in expected.items() if event[name] != value}:
            yield f"fields and what they should be: {other}"

    def _take_conversion(self, decision: TakenDecision) -> Iterator[str]:
        event, came = decision.event, decision.row.timestamp
        watch = next((one for one in self.watches if one.action_id == event["action_id"]), None)
        if watch is None:
            yield "no such act waits for an order: it was none, has no goal, or was converted before"
            return
        self.watches.remove(watch)
        ordered = millis(event["ordered_at"])
        if not watch.acted_at < ordered <= watch.until:
            yield "the order isn't in time"
        if event["held_out"] != watch.held_out or millis(event["acted_at"]) != watch.acted_at:
            yield "another act than the one with its id"
        about = (ordered, event["order_id"], event["amount"])
        if not any(one.came <= came and one[:3] == about for one in self.known.orders[self.customer]):
            yield "the customer has no such order"

    def _take_outcome(self, decision: TakenDecision, number: int) -> Iterator[str]:
        """Take the decision on a move and a rule."""
        event = decision.event
        pair, at, outcome = (event["change_id"], event["campaign"]), millis(event["decided_at"]), reason_of(event)
        if pair in self.ended:
            yield f"decided once more, after {self.ended[pair]}"
        waited = next((one for one in self.waiting if (one.change_id, one.campaign) == pair), None)
        rule = self.table.rules.get(event["campaign"])
        if rule is None:
            yield "no such campaign in the rules"
            return
        if waited is None:
            if number < self._last:
                yield "after a decision on a later move"
            self._last = number
            self.at_move[event["change_id"]].append(event)
            if self.event_time and at != self.moves[self._index(number)].clock:
                yield "not decided at the instant that the shard's moves had reached"
        else:
            self.waiting.remove(waited)
            ends_by_itself = outcome not in ("merged", "ordered") and not self._is_replaced(decision, waited, at)
            if self.event_time and ends_by_itself and at != waited.until + 1:
                yield "not decided as soon as it was held back no longer"
        yield from self._follows(decision, rule, waited, outcome)
        self._note(decision, rule, at, number)

    def _note(self, decision: TakenDecision, rule: RuleRow, at: int, number: int) -> None:
        """Add what a decision leaves behind."""
        event, came = decision.event, decision.row.timestamp
        name, change_id = event["campaign"], event["change_id"]
        if event["type"] == "campaign.scheduled":
            self.waiting.append(WaitingAct(name, change_id, millis(event["until"]), event["why"], number))
            return
        self.ended[change_id, name] = reason_of(event)
        sent = event["type"] == "campaign.action"
        if not sent and event["reason"] != "held_out":
            return
        act = KnownAct(at, campaign_key(name), sent, number=number)
        self.acts.append(act)
        self.stored = remembered([*self.stored, act], min((one.until for one in self.waiting), default=None))
        self.watches = [watch for watch in self.watches if watch.until + LATEST_ORDER_MS >= at]
        if goal := rule.get("goal"):
            self.watches.append(Watch(event["id"], at, at + span_ms(goal["order_within"]), not sent, number, came))

    def _follows(
        self, decision: TakenDecision, rule: RuleRow, waited: WaitingAct | None, outcome: str
    ) -> Iterator[str]:
        """Check an outcome: all checks before its own may have passed, and its own may have been met."""
        event, came = decision.event, decision.row.timestamp
        at = millis(event["decided_at"])
        if outcome == "merged":
            gone = [m for m in self.moves if m.change["cause"] == "merged" and m.offset < decision.read]
            if waited is None or not any(m.offset >= decision.handled for m in gone):
                yield "the customer wasn't merged then, or nothing was held back"
            return
        if outcome == "ordered":
            moved = millis(event["occurred_at"])
            orders = [one.at for one in self.known.orders[self.customer] if one.at > moved and one.came <= came]
            ordered = at in orders if self.event_time else bool(orders)
            if waited is None or rule.get("unless") != "order" or not ordered:
                yield "the customer hadn't ordered, or it doesn't matter"
            return
        if waited is not None and at <= waited.until and not self._is_replaced(decision, waited, at):
            yield f"decided before its time: it was held back until after {waited.until}"
        if outcome == "action":
            zones = {named(text) for text in self._texts("time_zone", came)}
            if event["time_zone"] not in zones or event["language"] not in self._texts("language", came):
                yield "a time zone or language that the customer's profile didn't have"
        for name, possible in self._checks(decision, rule, waited, at):
            if name == outcome:
                if True not in possible:
                    yield f"{outcome} doesn't hold at that time"
                elif outcome.startswith("scheduled"):
                    yield from self._until(decision, rule, at)
                return
            if False not in possible:
                yield f"it should have been {name}"
                return
        yield f"{outcome} isn't an outcome here"

    def _is_replaced(self, decision: TakenDecision, waited: WaitingAct, at: int) -> bool:
        """Return whether a later move may have taken the place of what was held back for a segment that was left."""
        later = [m for m in self.moves if m.number > waited.number and decision.handled <= m.offset < decision.read]
        return decision.event["type"] == "campaign.withheld" and any(
            not self.event_time or move.clock == at for move in later
        )

    def _checks(
        self, decision: TakenDecision, rule: RuleRow, waited: WaitingAct | None, at: int
    ) -> Iterator[tuple[str, set[bool]]]:
        """Yield the checks in their order, each with whether it was met; both where that depends on what was read."""
        event, came, key = decision.event, decision.row.timestamp, campaign_key(rule["name"])
        if waited is not None:
            yield "not_valid", {not self.table.is_valid(rule, at)}
            stays = rule.get("if_still", True)
            yield "moved_on", {stays and segment != event["segment"] for segment in self._segments(decision)}
            if rule.get("unless") == "order":
                yield "ordered", {self._has_ordered(decision)}
        elif not self.table.is_valid(rule, at):
            yield "passing it over: its days are others", {True}
        holds_back = any(one.campaign == rule["name"] for one in self.waiting)
        lately = [self._last_act(key, came, most=most) for most in (False, True)]
        if rule["when"].get("first_time"):
            yield "first_time", {holds_back or last > NEVER for last in lately}
        cools = span_ms(rule["cooldown"]) if "cooldown" in rule else None
        yield "cooldown", {holds_back or (cools is not None and NEVER < last > at - cools) for last in lately}
        needed, said = self.table.consent(rule) == "required", self._texts(f"consent:{event['channel']}", came)
        yield "no_consent", {text == "denied" or (needed and text is None) for text in said}
        if waited is None and "delay" in rule:
            yield "scheduled:delay", {millis(event["occurred_at"]) + span_ms(rule["delay"]) > at}
        zones = self._zones(rule, came)
        yield "scheduled:quiet_hours", {self.table.is_quiet(rule, at, zone) for zone in zones}
        yield "cap", {self._is_capped(rule, at, came, zone, most=most) for zone in zones for most in (False, True)}
        part = self.table.budget(rule, self.partition, self.partitions)
        yield "budget", {part is not None and decision.used >= part}
        yield "held_out", {self.table.held_out_by(rule, self.customer.encode(), at) is not None}
        yield "action", {True}

    def _until(self, decision: TakenDecision, rule: RuleRow, at: int) -> Iterator[str]:
        event = decision.event
        until = millis(event["until"])
        if event["why"] == "delay":
            if until != millis(event["occurred_at"]) + span_ms(rule["delay"]):
                yield "another delay than the rule's"
        elif not any(
            self.table.is_quiet(rule, at, zone) and self.table.is_end_of_quiet(rule, at, until, zone)
            for zone in self._zones(rule, decision.row.timestamp)
        ):
            yield "quiet hours end at another time"

    def _segments(self, decision: TakenDecision) -> set[str | None]:
        """Return where the customer may have been when a decision was made."""
        own = self.number(decision.event["change_id"])
        reached = [m for m in self.moves if own is not None and m.number >= own and m.offset < decision.read]
        before = [index for index, move in enumerate(reached) if move.offset < decision.handled]
        return {move.change["to"] for move in reached[before[-1] if before else 0 :]}

    def _has_ordered(self, decision: TakenDecision) -> bool:
        """Return whether an order should have ended it that came clearly before a decision, and after the move."""
        event = decision.event
        certain = self.known.certain_before(self.partition, decision.row.timestamp)
        came = next(move.came for move in self.moves if move.change["id"] == event["change_id"])
        return any(
            millis(event["occurred_at"]) < one.at < millis(event["decided_at"]) and came < one.came < certain
            for one in self.known.orders[self.customer]
            if self.known.is_sure(self.partition, one)
        )

    def _texts(self, name: str, came: int) -> set[str | None]:
        return self.known.texts(self.customer, name, self.partition, came)

    def _zones(self, rule: RuleRow, came: int) -> set[str]:
        return {named(text) or self.table.zone(rule) for text in self._texts("time_zone", came)}

    def _last_act(self, key: bytes, came: int, *, most: bool) -> int:
        given = self.known.acts(self.customer, self.partition, came, most=most)
        return max((act.at for act in (*self.acts, *given) if act.campaign == key), default=NEVER)

    def _is_capped(self, rule: RuleRow, at: int, came: int, zone: str, *, most: bool) -> bool:
        """Return whether a cap keeps a rule from acting."""
        if rule.get("transactional"):
            return False
        given = self.known.acts(self.customer, self.partition, came, most=most)
        sent = [(act.at, act.campaign) for act in (*self.acts, *given) if act.sent]
        rules = {campaign_key(name): other for name, other in self.table.rules.items()}
        for cap in self.table.caps:
            if "tag" in cap and cap["tag"] not in rule.get("tags", ()):
                continue
            counted = 0
            for acted, key in sent:
                other = rules.get(key, {})
                if other.get("transactional") or ("tag" in cap and cap["tag"] not in other.get("tags", ())):
                    continue
                if "within" in cap:
                    counted += acted > at - span_ms(cap["within"])
                else:
                    counted += local(acted, zone).date() == local(at, zone).date()
            if counted >= cap["at_most"]:
                return True
        return False


def named(zone: str | None) -> str | None:
    """Return a zone's name; None where there is no such zone."""
    try:
        return ZoneInfo(zone).key if zone else None
    except (ValueError, KeyError, OSError):
        return None


def remembered(acts: list[KnownAct], upto: int | None = None) -> list[KnownAct]:
    """Return the acts of the 32 days up to an instant (or the last act), all later ones, and each campaign's last."""
    found = sorted(acts)
    if not found:
        return []
    last = {act.campaign: index for index, act in enumerate(found)}
    begin = (found[-1].at if upto is None else min(upto, found[-1].at)) - KEPT_MS
    return [act for index, act in enumerate(found) if act.at >= begin or last[act.campaign] == index]
