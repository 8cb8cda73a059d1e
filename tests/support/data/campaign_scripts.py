"""Rule tables and stories of customers for the campaign step, drawn by Hypothesis; and tables as text."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from typing import Any, Final, Literal, NamedTuple

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
CAUSES: Final = ("order", "silence", "model", "merge")
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

Hours = st.tuples(*[st.sampled_from([0, 60, 120, 150, 180, 420, 720, 1260, 1380])] * 2).filter(
    lambda pair: pair[0] != pair[1]
)
Shares = st.sampled_from([0.5, 0.25, 0.1])
Tags = st.lists(st.sampled_from(["promo", "news"]), max_size=2, unique=True).map(tuple)
Consents: st.SearchStrategy[Literal["unless_denied", "required"]] = st.sampled_from(["unless_denied", "required"])
OwnHours: st.SearchStrategy[tuple[int, int] | Literal["none"] | None] = st.one_of(
    st.none(), st.none(), st.sampled_from(["none"]), Hours
)
Kinds: st.SearchStrategy[Literal["placed", "erased", "merged"]] = st.sampled_from(
    ["placed", "placed", "placed", "placed", "placed", "placed", "erased", "merged"]
)


@st.composite
def rules(draw: st.DrawFn, name: str) -> PlainRule:
    """Any rule, mostly one that matches often."""
    transactional = draw(st.integers(0, 5)) == 0
    first, last = sorted(draw(st.tuples(st.sampled_from(DAYS), st.sampled_from(DAYS))))
    segments = st.lists(st.sampled_from([*SEGMENTS, "At *"]), min_size=1, max_size=3, unique=True).map(tuple)
    rule = PlainRule(
        name,
        to=draw(st.none() | st.none() | segments),
        from_=draw(st.none() | st.none() | st.none() | st.sampled_from([(None,), ("At *", None), ("Lost",)])),
        cause=draw(st.none() | st.sampled_from([("order", "silence"), ("silence",), ("merge", "order", "model")])),
        first_time=draw(st.integers(0, 4)) == 0,
        channel=draw(st.sampled_from(["email", "email", "sms"])),
        tags=draw(Tags),
        group=draw(st.sampled_from(["main", "main", "other"])),
        priority=draw(st.sampled_from([0, 0, 5, -3])),
        cooldown=draw(st.none() | st.sampled_from([MINUTE_MS, HOUR_MS, DAY_MS, 30 * DAY_MS])),
        delay=draw(st.none() | st.sampled_from([MINUTE_MS, HOUR_MS, 10 * HOUR_MS, 2 * DAY_MS])),
        if_still=draw(st.booleans()),
        quiet=draw(OwnHours),
        zone=draw(st.none() | st.none() | st.sampled_from(ZONES)),
        goal=draw(st.none() | st.sampled_from([HOUR_MS, DAY_MS, 30 * DAY_MS])),
        valid=draw(st.none() | st.none() | st.none() | st.sampled_from([(first, None), (None, last), (first, last)])),
        budget=None if transactional else draw(st.none() | st.none() | st.integers(1, 5)),
        holdout=None if transactional else draw(st.none() | st.none() | Shares),
        transactional=transactional,
        consent=draw(Consents | st.none()),
    )
    return replace(rule, unless_order=draw(st.booleans()))


@st.composite
def tables(draw: st.DrawFn, names: tuple[str, ...] = ("a", "b", "c")) -> PlainTable:
    """A table of one to all of these rules, and of what goes for all of them."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    caps = st.builds(
        PlainCap,
        st.sampled_from([1, 1, 2]),
        st.none() | st.sampled_from([HOUR_MS, DAY_MS, 7 * DAY_MS, 31 * DAY_MS]),
        st.none() | st.sampled_from(["promo", "news"]),
    )
    table = PlainTable(
        tuple([draw(rules(name)) for name in chosen]),
        zone=draw(st.sampled_from(ZONES)),
        consent=draw(st.sampled_from(["unless_denied", "unless_denied", "required"])),
        quiet=draw(st.none() | Hours),
        caps=tuple(draw(st.lists(caps, max_size=2))),
        salt=draw(st.sampled_from(["", "2026"])),
        rotate=draw(st.sampled_from(["never", "never", "month", "quarter", "year"])),
        held_globally=draw(st.none() | st.none() | Shares),
        held_by_tag=draw(st.sampled_from([(), (), (("promo", 0.5),), (("news", 0.25), ("promo", 0.1))])),
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


@st.composite
def profiles(draw: st.DrawFn) -> PlainProfile:
    """An event of a profile."""
    fields = {"time_zone": st.sampled_from([*ZONES, *UNKNOWN_ZONES]), "language": st.sampled_from(["de", "en"])}
    fields |= dict.fromkeys(("consent.email", "consent.sms"), st.sampled_from(["granted", "granted", "denied"]))
    said = draw(st.fixed_dictionaries({}, optional=fields))
    return PlainProfile(draw(st.sampled_from(CUSTOMERS)), draw(Past), tuple(said.items()))


Past = st.sampled_from([0, 0, 0, 1, MINUTE_MS, HOUR_MS, DAY_MS, 2 * DAY_MS])  # how long before the instant


@st.composite
def orders(draw: st.DrawFn, *, merges: bool) -> PlainOrder:
    """A record of the topic of orders."""
    kind = draw(Kinds.filter(lambda kind: merges or kind != "merged"))
    customer, at = draw(st.sampled_from(CUSTOMERS)), draw(Past)
    by = draw(st.sampled_from(["", "", "", "eve"])) if kind != "merged" else ""
    into = draw(st.sampled_from(CUSTOMERS)) if kind == "merged" else ""
    return PlainOrder(kind, customer, at, f"order-{draw(st.integers(0, 9))}", into, by)


@st.composite
def stories(draw: st.DrawFn, *, tables: int = 1, merges: bool = True, most: int = 14, late: bool = True) -> list[Tick]:
    """Chains of moves with repeats, erasures and merges; profiles, orders and time in between.

    `late`: moves and orders may have happened some time before they come.
    """
    chains: dict[str, tuple[int, str | None]] = {}
    past = Past if late else st.just(0)
    ticks: list[Tick] = []
    sent: list[PlainMove] = []
    for _ in range(draw(st.integers(1, most))):
        moves = []
        for _ in range(draw(st.sampled_from([0, 1, 1, 2, 3]))):
            if sent and draw(st.integers(0, 9)) == 0:
                moves.append(draw(st.sampled_from(sent)))
                continue
            customer = draw(st.sampled_from(CUSTOMERS))
            sequence, segment = chains.get(customer, (0, None))
            kind = draw(st.sampled_from(["on"] * 12 + ["erasure"] + ["merged"] * merges))
            target = draw(st.sampled_from(SEGMENTS)) if kind == "on" else None
            cause = draw(st.sampled_from(CAUSES)) if kind == "on" else kind
            into = (
                draw(st.none() | st.sampled_from([c for c in CUSTOMERS if c != customer])) if kind == "merged" else None
            )
            moves.append(PlainMove(customer, sequence + 1, segment, target, cause, draw(past), into))
            chains[customer] = sequence + 1, target
        sent += moves
        happened = draw(st.lists(orders(merges=merges), max_size=2))
        ticks.append(
            Tick(
                draw(st.sampled_from(STEPS)),
                draw(st.integers(0, 2)) == 0,
                tuple(draw(st.lists(profiles(), max_size=2))),
                tuple(moves),
                tuple(order if late else order._replace(at=0) for order in happened),
                draw(st.booleans()),
                draw(st.integers(0, 4)) == 0,
                draw(st.integers(0, tables - 1)),
            )
        )
    return ticks


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
