"""States of format 1, written from all events ever sent: plain, and independent of the code that reads them."""

from __future__ import annotations

import struct
from collections.abc import Collection
from hashlib import blake2b

from segmentation.entries import Kind, Rules
from tests.support.oracles.batch import NEVER, NONE, OracleEvent, erasure, figures, standing


def hashed64(text: str) -> int:
    """Return the hash of an id, of which format 2 keeps 48 bits."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") or 1


def former_bytes(events: Collection[OracleEvent], t: int, rules: Rules) -> bytes:
    """The value that format 1 had at t, the announced fields clear; for events without revisions, within the cap.

    Two contents of one instant go by their 48 bits here, as in format 2: by 64 bits, the other one may have counted.
    """
    erased = erasure(events)
    live = sorted({e for e in events if e.kind != Kind.ERASED and e.time > erased}, key=_row)
    left = [e.time for e in live if e.time <= t - rules.window]
    cut = max(erased, left[-1] - rules.grace) if left else erased
    orders, _ = standing(events, t, rules)
    anchor = max((p for p in orders if p.time <= cut), key=lambda e: e.rank, default=None)
    kept = [e for e in live if e.time > cut or e == anchor or _stays(e, anchor, rules)]
    rows = sorted((e.time * 8 + (Kind.ANCHOR if e == anchor else e.kind), *_row(e)[1:]) for e in kept)
    instants = [e.time if e.time > t else e.time + rules.window for e in kept if e.time > max(t - rules.window, cut)]
    if erased > NONE:
        rows = sorted([*rows, (erased * 8 + Kind.ERASED, 0, 0, 0)])
    last, frequency, monetary = figures(events, t, rules)
    first = min((e.time for e in live if e.kind == Kind.PLACED), default=NEVER)
    newest = max((key >> 3 for key, *_ in rows), default=NONE)
    head = (1, 0, 0, 0, NONE, len(rows), frequency, monetary, last, first, newest, min(instants, default=NEVER), cut)
    return struct.pack("<BBHIqIIqqqqqq", *head) + b"".join(struct.pack("<qQqQ", *row) for row in rows)


def _row(e: OracleEvent) -> tuple[int, int, int, int]:
    order = 0 if e.order is None else hashed64(f"o{e.order}")
    return e.time * 8 + e.kind, order, e.amount, hashed64(f"{int(e.kind)}{e.id}")


def _stays(e: OracleEvent, anchor: OracleEvent | None, rules: Rules) -> bool:
    """Return whether an entry up to the cut was kept beside the anchor. Refunds never were."""
    if e.kind == Kind.REFUNDED:
        return False
    if anchor is None:
        return True
    return e.rank > anchor.rank if e.kind == Kind.PLACED else e.time >= anchor.time - rules.grace
