"""A customer's state recomputed from all events ever sent, in exact integers: each rule once, slow and plain.

Nothing here is the code under test. It shares the names of kinds and settings, and the layout's numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from fractions import Fraction
from functools import cache
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

from segmentation.entries import Kind, Rules

NONE, NEVER = -(2**63), 2**63 - 1
DAY = 86_400_000  # tests on a small scale set another one, here and in segmentation.life
Money = tuple[int, int, int]  # the currency's number, what was paid in it, and its rate in 1 / 10^12
Rank = tuple[int, int, int, int, Money | tuple[()]]
Row = tuple[int, int, int, int, int, Money | tuple[()]]  # key, order, amount, event, revision, foreign


@cache
def hashed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") % 2**48 or 1


class OracleEvent(NamedTuple):
    """An event as it was sent. Times in ms, amounts in ten-thousandths."""

    kind: Kind
    id: str
    time: int
    order: str | None = None
    amount: int = 0
    revision: int = -1
    foreign: Money | tuple[()] = ()

    @property
    def precedence(self) -> tuple[int, Rank]:
        """The greater content of one event or order counts."""
        return self.revision, self.rank

    @property
    def rank(self) -> Rank:
        """The later of two events of one kind has the greater one."""
        order = 0 if self.order is None else hashed(f"o{self.order}")
        return self.time, order, self.amount, hashed(f"{int(self.kind)}{self.id}"), self.foreign

    @property
    def row(self) -> Row:
        """Its entry in the bytes."""
        if self.kind == Kind.ERASED:
            return self.time * 8 + self.kind, 0, 0, 0, -1, ()
        return self.row_as(self.kind)

    def row_as(self, kind: Kind) -> Row:
        """Its entry in the bytes, of another kind."""
        return self.time * 8 + kind, *self.rank[1:4], self.revision, self.foreign


class OracleLife(NamedTuple):
    orders: int
    days: int
    money: int
    first: int


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
        return any(o.precedence > e.precedence and abs(o.time - e.time) < rules.window for o in mine)

    real = {e for e in seen if not void(e)}

    def stands(p: OracleEvent) -> bool:
        mine = [o for o in real if o.order == p.order]
        again = any(
            o.kind == Kind.PLACED and o.precedence > p.precedence and abs(o.time - p.time) < rules.window for o in mine
        )
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
    money = -sum(r.amount for r in refunds if r.order is None and t - rules.window < r.time)
    for p in inside:
        money += left(p, [r for r in refunds if r.order == p.order and r.time >= p.time - rules.grace])
    return OracleFigures(max((p.time for p in orders), default=NONE), len(inside), money)


def left(order: OracleEvent, refunds: Iterable[OracleEvent]) -> int:
    """An order's money without its refunds: what was paid less what was given back in its currency, at its own rate."""
    own = order.foreign[:1]
    paid = sum(r.foreign[1] for r in refunds if own and r.foreign and r.foreign[:1] == own)
    others = sum(r.amount for r in refunds if not own or r.foreign[:1] != own)
    if not order.foreign:
        return order.amount - others
    return round(Fraction(order.foreign[2], 10**12) * (order.foreign[1] - paid)) - others  # half to even


def life(events: Iterable[OracleEvent], t: int, rules: Rules) -> OracleLife:
    """The figures of a whole life at t, of every event there ever was."""
    return _life(standing(set(events), t, rules), rules)


def _life(judged: tuple[set[OracleEvent], set[OracleEvent]], rules: Rules, until: int = NEVER) -> OracleLife:
    orders, refunds = judged
    orders = {p for p in orders if p.time <= until}
    money = -sum(r.amount for r in refunds if r.order is None and r.time <= until)
    for p in orders:
        reach = range(p.time - rules.grace, p.time + rules.window)
        money += left(p, [r for r in refunds if r.order == p.order and r.time in reach])
    days = {p.time // DAY for p in orders}
    return OracleLife(len(orders), len(days), money, min((p.time for p in orders), default=NEVER))


def batch_bytes(events: Collection[OracleEvent], t: int, rules: Rules) -> bytes:
    """The stored value at t, the announced fields clear; for customers who never had more events than the cap."""
    erased = erasure(events)
    live = sorted({e for e in events if e.kind != Kind.ERASED and e.time > erased}, key=lambda e: e.row)
    left = [e.time for e in live if e.time <= t - rules.window]
    cut = max(erased, left[-1] - rules.grace) if left else erased
    judged = standing(events, t, rules)
    anchor = max((p for p in judged[0] if p.time <= cut), key=lambda e: e.rank, default=None)
    coming = [p for p in judged[0] if p.time > cut]
    kept = [e for e in live if e.time > cut or e == anchor]
    for e in reversed([e for e in live if e.time <= cut and e != anchor]):
        if e.kind == Kind.REFUNDED:
            keep = e in judged[1] and any(
                p.order == e.order and e.time in range(p.time - rules.grace, p.time + rules.window) for p in coming
            )
        elif e.kind == Kind.CANCELLED:
            keep = anchor is None or e.time >= anchor.time - rules.grace
        else:
            keep = (
                anchor is None
                or e.rank > anchor.rank
                or (e.revision >= 0 and any(gives_way(o, e, rules) for o in kept if o != anchor))
            )
        if keep:
            kept.append(e)
    kept.sort(key=lambda e: (e.time, Kind.ANCHOR if e == anchor else e.kind, e.row))
    instants = [e.time if e.time > t else e.time + rules.window for e in kept if e.time > max(t - rules.window, cut)]
    last, frequency, monetary = _figures(judged, t, rules)
    first = min((e.time for e in live if e.kind == Kind.PLACED), default=NEVER)
    newest = max([erased, *(e.time for e in kept)])
    rows = [e.row_as(Kind.ANCHOR if e == anchor else e.kind) for e in kept]
    if erased > NONE:
        rows = sorted([*rows, (erased * 8 + Kind.ERASED, 0, 0, 0, -1, ())])
    folded, whole = _life(judged, rules, cut), _life(judged, rules)
    days = sorted({p.time // DAY for p in judged[0] if p.time <= cut})
    tail = _tail(rows, folded, max((p.time for p in judged[0] if p.time <= cut), default=NONE), days)
    head = (
        2, 128 if tail else 0, 0, 0, NONE, len(rows), frequency, monetary, last, first, newest,
        min(instants, default=NEVER), cut, *whole,
    )  # fmt: skip
    return struct.pack("<BBHIqIIqqqqqqIHqq", *head) + b"".join(_row(*r) for r in rows) + tail


def gives_way(o: OracleEvent, e: OracleEvent, rules: Rules) -> bool:
    """Return whether a later placement doesn't stand because of an earlier one of a greater revision."""
    near = o.kind == Kind.PLACED and o.time - e.time < rules.window and (o.order == e.order or o.id == e.id)
    return near and o.precedence < e.precedence


def _row(key: int, order: int, amount: int, event: int, *_: object) -> bytes:
    small = amount // 100 if amount % 100 == 0 and amount < 100 * 2**31 else amount + 2**31
    small = min(2**32 - 1, small)
    numbers = ((min(key, 2**48 - 1), 6), (small, 4), (order, 6), (event, 6))
    return b"".join(number.to_bytes(size, "little") for number, size in numbers)


def _tail(rows: list[Row], folded: OracleLife, last: int, days: list[int]) -> bytes:
    wide = [(i, key, amount) for i, (key, _, amount, *_) in enumerate(rows) if _row(*rows[i])[6:10] == b"\xff" * 4]
    flags, parts = 0, b""
    if wide:
        flags, parts = 1, _varint(len(wide)) + b"".join(_varint(number) for row in wide for number in row)
    if foreign := [(i, *row[5]) for i, row in enumerate(rows) if row[5]]:
        flags += 2
        parts += _varint(len(foreign)) + b"".join(_varint(number) for row in foreign for number in row)
    if folded.orders or folded.money:
        gaps = b"".join(_varint(b - a) for a, b in pairwise(days))
        bits = sum(1 << (day - days[0] - 1) for day in days[1:])
        bitmap = bits.to_bytes(-(-bits.bit_length() // 8), "little")
        flags += 4 + 16 * (len(bitmap) < len(gaps))
        parts += _varint(folded.orders) + _signed(folded.money)
        if folded.orders:
            parts += _varint(folded.first) + _varint(last - folded.first)
        parts += _varint(len(days)) + b"".join(map(_varint, days[:1])) + min(gaps, bitmap, key=len)
    if any(row[4] >= 0 for row in rows):
        flags += 32
        parts += b"".join(_signed(row[4] - (row[0] >> 3), 1) if row[4] >= 0 else b"\0" for row in rows)
    return bytes([flags]) + parts if flags else b""


def _varint(number: int) -> bytes:
    return _varint_part(number % 128, number // 128)


def _varint_part(low: int, rest: int) -> bytes:
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _signed(number: int, more: int = 0) -> bytes:
    return _varint((2 * number if number >= 0 else -2 * number - 1) + more)


def related(a: OracleEvent, b: OracleEvent) -> bool:
    """Return whether one of two replaces the other: a second content of an id, or a second placement of an order."""
    return a != b and a.kind == b.kind and (a.id == b.id or (a.kind == Kind.PLACED and a.order == b.order))


def takes(e: OracleEvent, events: Iterable[OracleEvent]) -> bool:
    """Return whether an event can take another's effect away. Recency is exact if these are at most a grace late.

    Where contents have revisions, an earlier date may count instead of a later one: then both must be on time.
    """
    if e.kind in (Kind.CANCELLED, Kind.ERASED):
        return True
    return any(related(e, o) and (e.rank > o.rank or max(e.revision, o.revision) >= 0) for o in events)
