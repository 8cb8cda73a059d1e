"""The states of a run with merges, against those of persons who always had one id: by the oracle, from the input."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import msgspec

from segmentation.entries import Kind, Rules
from segmentation.events import (
    CustomerErased,
    CustomerMerged,
    EntryEvent,
    InputEvent,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    RejectedEvent,
    decode,
    millis,
)
from segmentation.links import NO_LINKS
from segmentation.rfm import NONE, advance, pack, unpack
from tests.recovery.rig.checker import GroupRun
from tests.support.oracles.batch import OracleEvent, batch_bytes
from tests.support.oracles.persons import Merge, roots

_KINDS = {OrderPlaced: Kind.PLACED, OrderRefunded: Kind.REFUNDED, OrderCancelled: Kind.CANCELLED}


def differences_from_one_id(run: GroupRun, rules: Rules) -> list[str]:
    """Return which persons' states aren't those of one id, at the clock of their shard."""
    sent: dict[str, set[OracleEvent]] = {}
    merges: list[Merge] = []
    for row in run.orders:
        event = _decoded(row.value)
        if isinstance(event, CustomerMerged):
            merges.append((millis(event.occurred_at), event.from_, event.into))
            for name in (event.from_, event.into):
                sent.setdefault(name, set())
        elif isinstance(event, CustomerErased | OrderPlaced | OrderRefunded | OrderCancelled):
            sent.setdefault(event.customer_id, set()).add(as_oracle_event(event))
    states = {key.decode(): (value, p) for p, shard in enumerate(run.shards) for key, value in shard.states.items()}
    root, wrong = roots(sent, merges), list[str]()
    for name in sorted(sent):
        value, p = states.get(name, (None, 0))
        if root[name] != name:
            if value is not None and unpack(value).holds_anything:
                wrong.append(f"alias {name} of {root[name]} holds something")
            continue
        events = {e for other, own in sent.items() if root[other] == name for e in own}
        if value is None:
            if any(e.kind != Kind.ERASED for e in events) and not any(e.kind == Kind.ERASED for e in events):
                wrong.append(f"{name} has no state")
            continue
        clock = run.shards[p].head["clock"]
        if _plain(value, clock, rules) != batch_bytes(events, clock, rules):
            wrong.append(f"{name} has another state than one id: {_plain(value, clock, rules)!r}, {sorted(events)}")
    return wrong


def _decoded(value: bytes | None) -> InputEvent | None:
    try:
        return None if value is None else decode(value)
    except (RejectedEvent, msgspec.MsgspecError):
        return None


def as_oracle_event(event: EntryEvent) -> OracleEvent:
    """Return an event as the oracle takes it."""
    time = millis(event.occurred_at)
    if isinstance(event, CustomerErased):
        return OracleEvent(Kind.ERASED, "", time)
    amount = 0 if isinstance(event, OrderCancelled) else int(Decimal(event.amount.value) * 10_000)
    return OracleEvent(_KINDS[type(event)], event.id, time, event.order_id, amount)


def _plain(value: bytes, clock: int, rules: Rules) -> bytes:
    """Return a state without merges, moves and mute, at an instant."""
    state = advance(unpack(value), clock, rules)
    return pack(replace(state, links=NO_LINKS, muted=0, segment=0, sequence=0, moved_at=NONE))
