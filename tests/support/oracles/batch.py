"""A customer's state recomputed from all events ever sent, in exact integers: each rule once, slow and plain.

Nothing here is the code under test. It shares the names of kinds and settings, and the layout's numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

from segmentation.entries import Kind, Rules

NONE, NEVER = -(2**63), 2**63 - 1
Rank = tuple[int, int, int, int]


@cache
def hashed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") or 1


class OracleEvent(NamedTuple):
    """An event as it was sent. Times in ms, amounts in ten-thousandths."""

    kind: Kind
    id: str
    time: int
    order: str | None = None
    amount: int = 0

    @property
    def rank(self) -> Rank:
        """The later of two events of one kind has the greater one."""
        order = 0 if self.order is None else hashed(f"o{self.order}")
        return self.time, order, self.amount, hashed(f"{int(self.kind)}{self.id}")

    @property
    def row(self) -> Rank:
        """Its entry in the bytes: key, order, amount, event."""
        if self.kind == Kind.ERASED:
            return self.time * 8 + self.kind, 0, 0, 0
        return self.time * 8 + self.kind, *self.rank[1:]


class OracleFigures(NamedTuple):
    last: int
    frequency: int
    monetary: int


def erasure(events: Iterable[OracleEvent]) -> int:
    return max((e.time for e in events if e.kind == Kind.ERASED), default=NONE)


def standing(events: Iterable[OracleEvent], t: int, rules: Rules) -> tuple[set[OracleEvent], set[OracleEvent]]:
    """(orders that stand at t, refunds that aren't void)."""
    erased = erasure(events)
    seen = {e for e in events if e.kind != Kind.ERASED and erased < e.time <= t}

    def void(e: OracleEvent) -> bool:
        mine = [o for o in seen if (o.kind, o.id) == (e.kind, e.id)]
        return any(o.rank > e.rank and o.time < e.time + rules.window for o in mine)

    real = {e for e in seen if not void(e)}

    def stands(p: OracleEvent) -> bool:
        mine = [o for o in real if o.order == p.order]
        again = any(o.kind == Kind.PLACED and o.rank > p.rank and o.time < p.time + rules.window for o in mine)
        reach = range(p.time - rules.grace, p.time + rules.window)
        return not again and not any(o.kind == Kind.CANCELLED and o.time in reach for o in mine)

    orders = {e for e in real if e.kind == Kind.PLACED and stands(e)}
    return orders, {e for e in real if e.kind == Kind.REFUNDED}


def figures(events: Iterable[OracleEvent], t: int, rules: Rules) -> OracleFigures:
    """Recency's last order, frequency and monetary value at t, of every event there ever was."""
    return _figures(standing(set(events), t, rules), t, rules)


def _figures(judged: tuple[set[OracleEvent], set[OracleEvent]], t: int, rules: Rules) -> OracleFigures:
    orders, refunds = judged
    inside = {p for p in orders if t - rules.window < p.time}
    money = sum(p.amount for p in inside)
    for r in refunds:
        if r.order is None:
            money -= r.amount if t - rules.window < r.time else 0
        elif any(p.order == r.order and r.time >= p.time - rules.grace for p in inside):
            money -= r.amount
    return OracleFigures(max((p.time for p in orders), default=NONE), len(inside), money)


def batch_bytes(events: Collection[OracleEvent], t: int, rules: Rules) -> bytes:
    """The stored value at t, the announced fields clear; for customers who never had more events than the cap."""
    erased = erasure(events)
    live = sorted({e for e in events if e.kind != Kind.ERASED and e.time > erased}, key=lambda e: e.row)
    left = [e.time for e in live if e.time <= t - rules.window]
    cut = max(erased, left[-1] - rules.grace) if left else erased
    judged = standing(events, t, rules)
    anchor = max((p for p in judged[0] if p.time <= cut), key=lambda e: e.rank, default=None)

    def row(e: OracleEvent) -> Rank | None:
        """None: forgotten."""
        if e.time > cut:
            return e.row
        if e == anchor:
            return e.time * 8 + Kind.ANCHOR, *e.rank[1:]
        if e.kind == Kind.REFUNDED:
            return None
        if anchor and (e.rank < anchor.rank if e.kind == Kind.PLACED else e.time < anchor.time - rules.grace):
            return None
        return e.row

    rows = sorted(r for e in live if (r := row(e)))
    coming = [key >> 3 if key >> 3 > t else (key >> 3) + rules.window for key, *_ in rows]
    changes = [c for c, (key, *_) in zip(coming, rows, strict=True) if key >> 3 > max(t - rules.window, cut)]
    if erased > NONE:
        rows = sorted([*rows, (erased * 8 + Kind.ERASED, 0, 0, 0)])
    last, frequency, monetary = _figures(judged, t, rules)
    first = min((e.time for e in live if e.kind == Kind.PLACED), default=NEVER)
    newest = max((key >> 3 for key, *_ in rows), default=NONE)
    head = (1, 0, 0, 0, NONE, len(rows), frequency, monetary, last, first, newest, min(changes, default=NEVER), cut)
    return struct.pack("<BBHIqIIqqqqqq", *head) + b"".join(struct.pack("<qQqQ", *r) for r in rows)


def related(a: OracleEvent, b: OracleEvent) -> bool:
    """Return whether one of two replaces the other: a second content of an id, or a second placement of an order."""
    return a != b and a.kind == b.kind and (a.id == b.id or (a.kind == Kind.PLACED and a.order == b.order))


def takes(e: OracleEvent, events: Iterable[OracleEvent]) -> bool:
    """Return whether an event can take another's effect away. Recency is exact if these are at most a grace late."""
    return e.kind in (Kind.CANCELLED, Kind.ERASED) or any(related(e, o) and e.rank > o.rank for o in events)
