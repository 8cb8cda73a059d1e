"""The decisions of campaigns by the book, in the plainest way that there is.

Whole histories are kept, all figures are computed anew each time, and quiet hours are waited out minute by minute. No
state, no counter, no join and no matching of the code under test takes part; who is held out is asked of its hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from segmentation.holdouts import GLOBAL, Rotation, campaign_scope, is_held_out, period_of, tag_scope
from tests.support.oracles.local_time import day_there, first_loud

_KNOWN_ZONES = frozenset(available_timezones())

Hours = tuple[int, int]  # minutes of the day: from, until


@dataclass(frozen=True)
class PlainRule:
    """A rule. Times in ms. `to`, `from_`, `cause` None: any."""

    name: str
    to: tuple[str, ...] | None = None
    from_: tuple[str | None, ...] | None = None
    cause: tuple[str, ...] | None = None
    first_time: bool = False
    channel: str = "email"
    tags: tuple[str, ...] = ()
    group: str = "main"
    priority: int = 0
    cooldown: int | None = None
    delay: int | None = None
    unless_order: bool = False
    if_still: bool = True
    quiet: Hours | Literal["none"] | None = None  # None: the table's
    zone: str | None = None
    goal: int | None = None
    valid: tuple[date | None, date | None] | None = None
    budget: int | None = None
    holdout: float | None = None
    transactional: bool = False
    consent: Literal["unless_denied", "required"] | None = None

    def matches(self, move: PlainMove) -> bool:
        assert move.to is not None
        if self.cause is None and move.cause == "merge":
            return False
        return (
            (self.cause is None or move.cause in self.cause)
            and (self.to is None or any(_fits(move.to, name) for name in self.to))
            and (self.from_ is None or any(_fits(move.from_, name) for name in self.from_))
        )


def _fits(segment: str | None, name: str | None) -> bool:
    if name is not None and name.endswith("*"):
        return segment is not None and segment.startswith(name[:-1])
    return segment == name


class PlainCap(NamedTuple):
    """At most so many actions within a time (ms), or else a calendar day."""

    at_most: int
    within: int | None
    tag: str | None


@dataclass(frozen=True)
class PlainTable:
    """A rule table."""

    rules: tuple[PlainRule, ...]
    zone: str = "UTC"
    consent: Literal["unless_denied", "required"] = "unless_denied"
    quiet: Hours | None = None
    caps: tuple[PlainCap, ...] = ()
    salt: str = ""
    rotate: Rotation = "never"
    held_globally: float | None = None
    held_by_tag: tuple[tuple[str, float], ...] = ()

    def rule(self, name: str) -> PlainRule | None:
        return next((rule for rule in self.rules if rule.name == name), None)

    def quiet_of(self, rule: PlainRule) -> Hours | None:
        if rule.quiet == "none":
            return None
        return rule.quiet or (None if rule.transactional else self.quiet)

    def groups(self) -> list[list[PlainRule]]:
        names = list(dict.fromkeys(rule.group for rule in self.rules))
        return [
            [rule for _, rule in sorted(enumerate(self.rules), key=lambda row: (-row[1].priority, row[0]))
             if rule.group == name]
            for name in names
        ]  # fmt: skip


class PlainMove(NamedTuple):
    """A move of a customer, at an instant (ms)."""

    customer: str
    sequence: int
    from_: str | None
    to: str | None
    cause: str
    at: int
    into: str | None = None

    @property
    def id(self) -> str:
        return f"{self.customer}:{self.sequence}"


class PlainProfile(NamedTuple):
    """An event of a customer's profile. `fields`: time_zone, language, and channels as consent.NAME."""

    customer: str
    at: int
    fields: tuple[tuple[str, str], ...]


class PlainOrder(NamedTuple):
    """An event of the topic of orders. `by`: another id of the customer, under which it came."""

    kind: Literal["placed", "erased", "merged"]
    customer: str
    at: int
    id: str = ""
    into: str = ""
    by: str = ""


class PlainAct(NamedTuple):
    """A campaign's action; not `sent`: held out."""

    campaign: str
    at: int
    sent: bool


class Handed(NamedTuple):
    """Profile fields (date, field, text) and acts that one id hands on to another."""

    into: str
    fields: tuple[tuple[int, str, str], ...]
    acts: tuple[PlainAct, ...]


class PlainPending(NamedTuple):
    """An action that waits until after an instant."""

    move: PlainMove
    rule: PlainRule  # as it was when the move came
    until: int


class PlainWatch(NamedTuple):
    """An act with a goal, until an instant."""

    move: PlainMove
    campaign: str
    at: int
    until: int
    held: bool


class PlainDecision(NamedTuple):
    """A decision. `why`: the reason, or what it waits for; `until`: what it waits for, or the order that converted."""

    kind: Literal["action", "withheld", "scheduled", "converted"]
    customer: str
    campaign: str
    change: str
    at: int
    why: str = ""
    until: int | str | None = None
    language: str | None = None
    zone: str | None = None


@dataclass
class _History:
    """All that ever came of a customer."""

    key: str
    sequence: int = 0
    segment: str | None = None
    said: list[tuple[int, str, str]] = field(default_factory=list)  # date, field, text
    erased: list[int] = field(default_factory=list)
    merged: list[tuple[int, str]] = field(default_factory=list)
    acts: list[PlainAct] = field(default_factory=list)
    handed: list[PlainAct] = field(default_factory=list)
    pendings: list[PlainPending] = field(default_factory=list)
    watches: list[PlainWatch] = field(default_factory=list)

    def fields(self) -> list[tuple[int, str, str]]:
        return [row for row in self.said if row[0] > max(self.erased, default=-1)]

    def said_of(self, name: str) -> str | None:
        rows = [(at, text == "denied", text) for at, known, text in self.fields() if known == name]
        return max(rows)[2] if rows else None

    def all_acts(self) -> list[PlainAct]:
        return [*self.acts, *self.foreign_acts()]

    def foreign_acts(self) -> list[PlainAct]:
        return [act for act in self.handed if act.at > max(self.erased, default=-1)]


class Campaigns:
    """All shards of a deployment. Each turn of a shard returns its decisions."""

    def __init__(
        self,
        table: PlainTable,
        shard_of: Callable[[str], int],
        shards: int = 1,
        *,
        event_time: bool = False,
        adopted: bool = False,
    ) -> None:
        self.table = table
        self.people: dict[str, _History] = {}
        self.spent: Counter[tuple[int, str, date]] = Counter()  # by shard, campaign and day
        self.clocks = [-1] * shards
        self.handed: list[Handed] = []  # on the way to other customers
        self._shard_of = shard_of
        self._shards = shards
        self._event_time = event_time
        self._adopted = adopted
        self._found: list[PlainDecision] = []

    def turn(
        self,
        shard: int,
        now: int,
        profiles: Iterable[PlainProfile] = (),
        moves: Iterable[PlainMove] = (),
        orders: Iterable[PlainOrder] = (),
        handed: Iterable[Handed] = (),
        *,
        behind: bool = False,
    ) -> list[PlainDecision]:
        """Do what a turn of a shard does with inputs of its customers."""
        self._found, orders, moves = [], list(orders), list(moves)
        start = self.clocks[shard] if self._event_time else max(self.clocks[shard], now)
        end = max([start, *(move.at for move in moves)]) if self._event_time else start
        for profile in profiles:
            self._learn(profile.customer, [(profile.at, *row) for row in profile.fields], ())
        for each in handed:
            self._learn(each.into, each.fields, each.acts)
        for order in orders:
            self._note(order)
        placed = [order for order in orders if order.kind == "placed" and self._looks_at_orders()]
        if self._event_time:
            placed.sort(key=lambda order: order.at)
        at = start
        for move in moves:
            if self._event_time:
                at = max(at, move.at)
                while placed and placed[0].at < at:
                    self._order_by_date(placed.pop(0), behind=behind)
                self._release(self._person(move.customer), at, behind=behind)
            self._move(self._person(move.customer), move, at)
        for order in placed:
            if self._event_time:
                self._order_by_date(order, behind=behind)
            else:
                self._order(self._person(order.customer), order, end)
        if not behind and (moves or not self._event_time):
            here = [person for person in self.people.values() if self._shard_of(person.key) == shard]
            waiting = [(min(p.until for p in person.pendings), person.key) for person in here if person.pendings]
            for _, key in sorted(waiting):
                self._release(self.people[key], end)
        self.clocks[shard] = end
        return self._found

    def next_due(self) -> int | None:
        """Return the first instant for which something is held back."""
        return min((p.until for person in self.people.values() for p in person.pendings), default=None)

    def _person(self, customer: str) -> _History:
        return self.people.setdefault(customer, _History(customer))

    def _learn(self, customer: str, rows: Sequence[tuple[int, str, str]], acts: Sequence[PlainAct]) -> None:
        person = self._person(customer)
        known = len(person.said) + len(person.handed)
        person.said += [row for row in rows if row not in person.said]
        person.handed = list((Counter(person.handed) | Counter(acts)).elements())  # acts may come again
        if len(person.said) + len(person.handed) > known:
            self._hand_on(person)

    def _hand_on(self, person: _History) -> None:
        if person.merged:
            into = max(person.merged)[1]
            self.handed.append(Handed(into, tuple(person.fields()), tuple(person.foreign_acts())))

    def _note(self, order: PlainOrder) -> None:
        person = self._person(order.customer)
        if order.kind == "erased":
            person.erased.append(order.at)
        elif order.kind == "merged" and order.into != order.customer:
            person.merged.append((order.at, order.into))
            self._hand_on(person)

    def _move(self, person: _History, move: PlainMove, at: int) -> None:
        if move.sequence <= person.sequence:
            return
        person.sequence, person.segment = move.sequence, move.to
        if move.to is None:
            if move.cause == "merged":
                for pending in person.pendings:
                    self._say("withheld", person, pending.rule, pending.move, at, "merged")
                if move.into is not None:
                    acts = [act for act in person.all_acts() if act.at > max(person.erased, default=-1)]
                    self.handed.append(Handed(move.into, (), tuple(acts)))
            person.acts, person.pendings, person.watches = [], [], []
            return
        if self._adopted and move.cause in {"model", "settings"}:
            return
        for group in self.table.groups():
            for rule in group:
                if self._is_valid(rule, at) and rule.matches(move) and self._try(person, rule, move, at):
                    break

    def _try(self, person: _History, rule: PlainRule, move: PlainMove, at: int) -> bool:
        """Judge a rule that matches. Return whether the group's other rules have lost the move."""
        for pending in [each for each in person.pendings if each.rule.name == rule.name]:
            if rule.if_still and person.segment != pending.move.to:
                person.pendings.remove(pending)
                self._say("withheld", person, pending.rule, pending.move, at, "moved_on")
        if why := self._refusal(person, rule, at, rule.channel):
            self._say("withheld", person, rule, move, at, why)
            return False
        if rule.delay is not None and move.at + rule.delay > at:
            self._wait(person, PlainPending(move, rule, move.at + rule.delay), at, "delay")
            return True
        until = self._loud(person, rule, at)
        if until > at:
            self._wait(person, PlainPending(move, rule, until), at, "quiet_hours")
            return True
        return self._finish(person, rule, move, at)

    def _wait(self, person: _History, pending: PlainPending, at: int, why: str) -> None:
        person.pendings.append(pending)
        self._say("scheduled", person, pending.rule, pending.move, at, why, pending.until)

    def _looks_at_orders(self) -> bool:
        return any(rule.goal or rule.unless_order for rule in self.table.rules)

    def _order_by_date(self, order: PlainOrder, *, behind: bool) -> None:
        self._release(self._person(order.customer), order.at, behind=behind)
        self._order(self._person(order.customer), order, order.at)

    def _release(self, person: _History, at: int, *, behind: bool = False) -> None:
        """Decide on what is due before an instant: now, or in event time as of the millisecond after the wait."""
        while due := [pending for pending in person.pendings if pending.until < at and not behind]:
            pending = min(due, key=lambda pending: (pending.until, self._rank(pending.rule.name)))
            person.pendings.remove(pending)
            self._finish_pending(person, pending, pending.until + 1 if self._event_time else at)

    def _rank(self, campaign: str) -> tuple[int, int]:
        ranks = [(-rule.priority, n) for n, rule in enumerate(self.table.rules) if rule.name == campaign]
        return ranks[0] if ranks else (-1_000_000, 0)

    def _finish_pending(self, person: _History, pending: PlainPending, at: int) -> None:
        rule, move = self.table.rule(pending.rule.name), pending.move
        why = None
        if rule is None:
            why = "rule_removed"
        elif not self._is_valid(rule, at):
            why = "not_valid"
        elif rule.if_still and person.segment != move.to:
            why = "moved_on"
        else:
            why = self._refusal(person, rule, at, pending.rule.channel)
        if why or rule is None:
            self._say("withheld", person, pending.rule, move, at, why or "")
        elif (until := self._loud(person, rule, at)) > at:
            self._wait(person, pending._replace(until=until), at, "quiet_hours")
        else:
            self._finish(person, rule, move, at)

    def _order(self, person: _History, order: PlainOrder, at: int) -> None:
        for pending in list(person.pendings):
            rule = self.table.rule(pending.rule.name)
            if rule is not None and rule.unless_order and order.at > pending.move.at:
                person.pendings.remove(pending)
                self._say("withheld", person, pending.rule, pending.move, at, "ordered")
        for watch in list(person.watches):
            if watch.at < order.at <= watch.until:
                person.watches.remove(watch)
                why = "held_out" if watch.held else "sent"
                self._found.append(
                    PlainDecision("converted", person.key, watch.campaign, watch.move.id, at, why, order.id)
                )

    def _is_valid(self, rule: PlainRule, at: int) -> bool:
        first, last = rule.valid or (None, None)
        day = day_there(at, rule.zone or self.table.zone)
        return (first is None or first <= day) and (last is None or day <= last)

    def _zone(self, person: _History, rule: PlainRule) -> str:
        known = person.said_of("time_zone")
        return known if known in _KNOWN_ZONES else rule.zone or self.table.zone

    def _loud(self, person: _History, rule: PlainRule, at: int) -> int:
        quiet = self.table.quiet_of(rule)
        return at if quiet is None else first_loud(at, *quiet, self._zone(person, rule))

    def _refusal(self, person: _History, rule: PlainRule, at: int, channel: str) -> str | None:
        mine = [act.at for act in person.all_acts() if act.campaign == rule.name]
        waits = any(pending.rule.name == rule.name for pending in person.pendings)
        if rule.first_time and (mine or waits):
            return "first_time"
        if waits or (rule.cooldown is not None and mine and at < max(mine) + rule.cooldown):
            return "cooldown"
        consent = person.said_of(f"consent.{channel}")
        needed = (rule.consent or self.table.consent) == "required"
        if consent == "denied" or (needed and consent != "granted"):
            return "no_consent"
        return None

    def _finish(self, person: _History, rule: PlainRule, move: PlainMove, at: int) -> bool:
        """Send, or withhold. Return whether the move is dealt with: as it was sent, or the customer is held out."""
        if not rule.transactional:
            if any(self._reached(person, rule, cap, at) for cap in self.table.caps):
                self._say("withheld", person, rule, move, at, "cap")
                return False
            shard, day = self._shard_of(person.key), day_there(at, rule.zone or self.table.zone)
            # In event time days may go back: an earlier one counts as the last one with an action.
            day = max([day, *(other for n, name, other in self.spent if (n, name) == (shard, rule.name))])
            if rule.budget is not None:
                share = rule.budget // self._shards + (shard < rule.budget % self._shards)
                if self.spent[shard, rule.name, day] >= share:
                    self._say("withheld", person, rule, move, at, "budget")
                    return False
            if self._held(person, rule, at):
                self._say("withheld", person, rule, move, at, "held_out")
                self._act(person, rule, move, at, sent=False)
                return True
            if rule.budget is not None:
                self.spent[shard, rule.name, day] += 1
        self._say("action", person, rule, move, at)
        self._act(person, rule, move, at, sent=True)
        return True

    def _act(self, person: _History, rule: PlainRule, move: PlainMove, at: int, *, sent: bool) -> None:
        person.acts.append(PlainAct(rule.name, at, sent))
        if rule.goal is not None:
            person.watches.append(PlainWatch(move, rule.name, at, at + rule.goal, held=not sent))

    def _reached(self, person: _History, rule: PlainRule, cap: PlainCap, at: int) -> bool:
        if cap.tag is not None and cap.tag not in rule.tags:
            return False
        zone = self._zone(person, rule)
        count = 0
        for act in person.all_acts():
            its = self.table.rule(act.campaign)
            counts = its is None if cap.tag is None else False
            if its is not None:
                counts = not its.transactional and (cap.tag is None or cap.tag in its.tags)
            near = day_there(act.at, zone) == day_there(at, zone) if cap.within is None else act.at > at - cap.within
            count += act.sent and counts and near
        return count >= cap.at_most

    def _held(self, person: _History, rule: PlainRule, at: int) -> bool:
        table = self.table
        shares = [(GLOBAL, table.held_globally)]
        shares += [(tag_scope(tag), dict(table.held_by_tag).get(tag)) for tag in rule.tags]
        shares += [(campaign_scope(rule.name), rule.holdout)]
        period = period_of(at, table.rotate, ZoneInfo(table.zone))
        key = person.key.encode()
        return any(
            share is not None and is_held_out(key, scope, Decimal(str(share)), table.salt, period)
            for scope, share in shares
        )

    def _say(
        self,
        kind: Literal["action", "withheld", "scheduled"],
        person: _History,
        rule: PlainRule,
        move: PlainMove,
        at: int,
        why: str = "",
        until: int | None = None,
    ) -> None:
        language = zone = None
        if kind == "action":
            language, zone = person.said_of("language"), person.said_of("time_zone")
            zone = zone if zone in _KNOWN_ZONES else None
        self._found.append(PlainDecision(kind, person.key, rule.name, move.id, at, why, until, language, zone))
