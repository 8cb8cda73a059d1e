"""Rule tables and stories of customers for the campaign step, drawn by Hypothesis; and tables as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from random import Random
from typing import Any, Final, NamedTuple, TypeVar

from hypothesis import strategies as st

from tests.support.oracles.campaigns import (
    PlainCap,
    PlainMove,
    PlainOrder,
    PlainProfile,
    PlainRule,
    PlainTable,
)
from tests.support.oracles.local_time import ms_at

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

CUSTOMERS: Final = ("ann", "bob", "Zoë", "dan")
SEGMENTS: Final = ("Lost", "Loyal", "At Risk", "At Peace")
ZONES: Final = (
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Kiritimati",
    "Africa/Cairo",
)  # fmt: skip
UNKNOWN_ZONES: Final = ("Mars/Phobos", "Europe", "CET+1")
# Evenings before clocks are changed in one zone or another, in both directions, and a common day.
STARTS: Final = tuple(
    ms_at(text)
    for text in (
        "2026-03-28T20:00:00Z", "2026-10-24T20:00:00Z", "2026-03-08T02:00:00Z", "2026-11-01T01:00:00Z",
        "2026-04-04T10:00:00Z", "2026-10-03T10:00:00Z", "2026-04-23T18:00:00Z", "2026-10-29T18:00:00Z",
        "2026-06-15T12:00:00Z", "2026-12-31T20:00:00Z",
    )
)  # fmt: skip
DAYS: Final = (date(2026, 3, 29), date(2026, 10, 25), date(2026, 6, 15), date(2026, 11, 2), date(2027, 1, 1))
STEPS: Final = (
    0, 1, 1, MINUTE_MS, 37 * MINUTE_MS, HOUR_MS, HOUR_MS, 5 * HOUR_MS, 9 * HOUR_MS, DAY_MS, 3 * DAY_MS, 7 * DAY_MS,
    33 * DAY_MS,
)  # fmt: skip

SHARES: Final = (0.5, 0.25, 0.1)
T = TypeVar("T")


class Chance:
    """Draws from random numbers: Hypothesis's, which it can make smaller, or any others."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def one(self, *choices: T) -> T:
        """Return one of these."""
        return choices[self.random.randrange(len(choices))]

    def in_(self, n: int) -> bool:
        """Return whether one of `n` equal chances has come."""
        return self.random.randrange(n) == n - 1

    def some(self, most: int, choices: Sequence[T]) -> tuple[T, ...]:
        """Return none to `most` of these, each once."""
        found = dict.fromkeys(self.one(*choices) for _ in range(self.random.randrange(most + 1)))
        return tuple(found)

    def hours(self) -> tuple[int, int]:
        """Return a part of the day."""
        begin = self.one(0, 60, 120, 150, 180, 420, 720, 1260, 1380)
        return begin, (begin + self.one(30, 60, 90, 120, 480, 660, 1320, 1439)) % 1440


def a_rule(chance: Chance, name: str) -> PlainRule:
    """Return any rule, mostly one that matches often."""
    one, transactional = chance.one, chance.in_(6)
    first, last = sorted((one(*DAYS), one(*DAYS)))
    return PlainRule(
        name,
        to=one(None, None, chance.some(2, (*SEGMENTS, "At *")) or None),
        from_=one(None, None, None, one((None,), ("At *", None), ("Lost",))),
        cause=one(None, one(("order", "silence"), ("silence",), ("merge", "order", "model"))),
        first_time=chance.in_(5),
        channel=one("email", "email", "sms"),
        tags=chance.some(2, ("promo", "news")),
        group=one("main", "main", "other"),
        priority=one(0, 0, 5, -3),
        cooldown=one(None, one(MINUTE_MS, HOUR_MS, DAY_MS, 30 * DAY_MS)),
        delay=one(None, one(MINUTE_MS, HOUR_MS, 10 * HOUR_MS, 2 * DAY_MS)),
        unless_order=one(False, True),
        if_still=one(True, False),
        quiet=one(None, None, one("none", chance.hours())),
        zone=one(None, None, one(*ZONES)),
        goal=one(None, one(HOUR_MS, DAY_MS, 30 * DAY_MS)),
        valid=one(None, None, None, one((first, None), (None, last), (first, last))),
        budget=None if transactional else one(None, None, one(1, 2, 5)),
        holdout=None if transactional else one(None, None, one(*SHARES)),
        transactional=transactional,
        consent=one(None, None, one("unless_denied", "required")),
    )


def a_table(chance: Chance, names: Sequence[str] = ("a", "b", "c")) -> PlainTable:
    """Return a table of one to all of these rules, and of what goes for all of them."""
    one = chance.one
    table = PlainTable(
        tuple(a_rule(chance, name) for name in chance.some(3, names) or names[:1]),
        zone=one(*ZONES),
        consent=one("unless_denied", "unless_denied", "unless_denied", "required"),
        quiet=one(None, chance.hours()),
        caps=tuple(
            PlainCap(one(1, 1, 2), one(None, one(HOUR_MS, DAY_MS, 7 * DAY_MS, 31 * DAY_MS)), one(None, "promo", "news"))
            for _ in range(one(0, 0, 1, 2))
        ),
        salt=one("", "2026"),
        rotate=one("never", "never", "month", "quarter", "year"),
        held_globally=one(None, None, None, one(*SHARES)),
        held_by_tag=one((), (), (("promo", 0.5),), (("news", 0.25), ("promo", 0.1))),
    )
    # A rule that never waits can't have an order come first: the reader of rules refuses it.
    waits = [rule.delay is not None or table.quiet_of(rule) is not None for rule in table.rules]
    return replace(
        table,
        rules=tuple(
            rule if may else replace(rule, unless_order=False) for rule, may in zip(table.rules, waits, strict=True)
        ),
    )


class Tick(NamedTuple):
    """Some time, and then the inputs of that instant. `due`: not that time, but until something is due, and so long."""

    wait: int
    due: bool
    profiles: tuple[PlainProfile, ...] = ()  # dated backwards from the instant
    moves: tuple[PlainMove, ...] = ()
    orders: tuple[PlainOrder, ...] = ()
    deliver: bool = True  # the records that shards have handed on arrive
    repeat: bool = False  # the side records of the tick before arrive again
    table: int = 0  # which table goes from here on


def a_past(chance: Chance) -> int:
    """Return how long before it comes something has happened (ms)."""
    return chance.one(0, 0, 0, 1, MINUTE_MS, HOUR_MS, DAY_MS, 2 * DAY_MS)


def a_profile(chance: Chance) -> PlainProfile:
    """Return an event of a profile."""
    one = chance.one
    said = {
        "time_zone": one(None, one(*ZONES, *UNKNOWN_ZONES)),
        "language": one(None, "de", "en"),
        "consent.email": one(None, "granted", "granted", "denied"),
        "consent.sms": one(None, "granted", "denied"),
    }
    fields = tuple((name, text) for name, text in said.items() if text is not None)
    return PlainProfile(one(*CUSTOMERS), a_past(chance), fields)


def an_order(chance: Chance) -> PlainOrder:
    """Return a record of the topic of orders."""
    one = chance.one
    customer, at, number = one(*CUSTOMERS), a_past(chance), f"order-{one(*range(9))}"
    if chance.in_(8):
        return PlainOrder("merged", customer, at, number, into=one(*CUSTOMERS))
    return PlainOrder("erased" if chance.in_(8) else "placed", customer, at, number, by=one("", "", "", "eve"))


def a_story(chance: Chance, *, tables: int = 1, most: int = 14, late: bool = True) -> list[Tick]:
    """Return chains of moves with repeats, erasures and merges; profiles, orders and time in between.

    `late`: moves and orders may have happened some time before they come. Without it an id is merged into one other
    only, as well: what is handed on to the first of two depends on when it was read.
    """
    one = chance.one
    chains: dict[str, tuple[int, str | None]] = {}
    ticks: list[Tick] = []
    sent: list[PlainMove] = []
    for _ in range(1 + chance.random.randrange(most)):
        moves = []
        for _ in range(one(0, 1, 1, 2, 3)):
            if sent and chance.in_(10):
                moves.append(one(*sent))
                continue
            customer = one(*CUSTOMERS)
            sequence, segment = chains.get(customer, (0, None))
            kind = one(*["on"] * 12, "erasure", "merged")
            target = one(*SEGMENTS) if kind == "on" else None
            cause = one("order", "order", "silence", "silence", "model", "merge") if kind == "on" else kind
            others = [other for other in CUSTOMERS if other != customer]
            into = one(None, one(*others)) if kind == "merged" else None
            at = a_past(chance) if late else 0
            moves.append(PlainMove(customer, sequence + 1, segment, target, cause, at, into))
            chains[customer] = sequence + 1, target
        sent += moves
        orders = [an_order(chance) for _ in range(one(0, 0, 1, 2))]
        ticks.append(
            Tick(
                one(*STEPS),
                chance.in_(3),
                tuple(a_profile(chance) for _ in range(one(0, 0, 0, 1, 2))),
                tuple(moves),
                tuple(order if late else order._replace(at=0, into=_after(order)) for order in orders),
                one(True, False),
                chance.in_(5),
                chance.random.randrange(tables),
            )
        )
    return ticks


def _after(order: PlainOrder) -> str:
    """Return which id the customer is merged into, the same each time; "" for no merge."""
    return order.into and CUSTOMERS[(CUSTOMERS.index(order.customer) + 1) % len(CUSTOMERS)]


_chances = st.randoms(use_true_random=False).map(Chance)


def tables() -> st.SearchStrategy[PlainTable]:
    """Return the strategy of tables."""
    return st.builds(a_table, _chances)


def stories(*, tables: int = 1, late: bool = True) -> st.SearchStrategy[list[Tick]]:
    """Return the strategy of stories."""
    return st.builds(a_story, _chances, tables=st.just(tables), late=st.just(late))


def rules_text(table: PlainTable) -> str:
    """Return the table as text of version 2: JSON, which is YAML."""
    content: dict[str, Any] = {"version": 2, "time_zone": table.zone, "consent": table.consent}
    content["quiet_hours"] = table.quiet and _hours(table.quiet)
    content["holdouts"] = {
        "salt": table.salt, "rotate": table.rotate, "global": table.held_globally, "tags": dict(table.held_by_tag)
    }  # fmt: skip
    content["caps"] = [
        {"at_most": cap.at_most, "within": _span(cap.within), "per": None if cap.within else "day", "tag": cap.tag}
        for cap in table.caps
    ]
    content["rules"] = [_rule(rule) for rule in table.rules]
    return json.dumps(_without_none(content), ensure_ascii=False, indent=1)


def _rule(rule: PlainRule) -> dict[str, Any]:
    when: dict[str, Any] = {
        "to": "*" if rule.to is None else list(rule.to),
        "cause": rule.cause and list(rule.cause),
        "first_time": rule.first_time,
    }
    if rule.from_ is not None:
        when["from"] = list(rule.from_)
    first, last = rule.valid or (None, None)
    return {
        "name": rule.name,
        "when": when,
        "then": {"action": f"Send {rule.name}", "channel": rule.channel},
        "tags": list(rule.tags),
        "group": rule.group,
        "priority": rule.priority,
        "cooldown": _span(rule.cooldown),
        "delay": _span(rule.delay),
        "unless": "order" if rule.unless_order else None,
        "if_still": rule.if_still,
        "quiet_hours": rule.quiet and (_hours(rule.quiet) if isinstance(rule.quiet, tuple) else rule.quiet),
        "time_zone": rule.zone,
        "goal": rule.goal and {"order_within": _span(rule.goal)},
        "valid": rule.valid and {"from": first and first.isoformat(), "until": last and last.isoformat()},
        "budget": rule.budget and {"per_day": rule.budget},
        "holdout": rule.holdout,
        "transactional": rule.transactional,
        "consent": rule.consent,
    }


def _hours(hours: tuple[int, int]) -> dict[str, str]:
    begin, end = (f"{minute // 60:02}:{minute % 60:02}" for minute in hours)
    return {"from": begin, "until": end}


def _span(ms: int | None) -> str | None:
    return None if ms is None else f"{ms // MINUTE_MS}m"


def _without_none(content: Any) -> Any:
    """Return the content without fields of no value: a rule leaves them out. In a list None is the absent segment."""
    if isinstance(content, dict):
        return {name: _without_none(value) for name, value in content.items() if value is not None}
    if isinstance(content, list):
        return [_without_none(value) for value in content]
    return content
