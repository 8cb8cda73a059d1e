"""Which shard of the new count takes what from which of the former one. Pure: heads in, heads out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

import msgspec
from msgspec.structs import replace

from segmentation.agreed import JudgedBefore
from segmentation.backfills import NONE_OPEN, SLOTS, Backfills
from segmentation.step import Scope
from stream.errors import SegstreamError
from stream.storage.heads import KafkaHead, StoreHead
from stream.storage.remains import age_of


class TooManyBackfills(SegstreamError):
    """A shard of the new count would have more open backfills than a state can name."""


class Sealed(msgspec.Struct, frozen=True):
    """The end of a former shard: its last head, and the settings by which some of its records were judged."""

    head: StoreHead
    judged: list[JudgedBefore] = []


class Inheritance(msgspec.Struct, frozen=True):
    """The head that a shard of the new count begins with. It is the same however often it is computed."""

    head: StoreHead
    # Former shard -> {slot of a backfill there: its slot here}. Slots that stay as they are aren't listed.
    slots: dict[int, dict[int, int]] = {}


def sources(partition: int, former: int, partitions: int) -> list[int]:
    """Return the former shards that a shard's customers can come from: both counts divide the same hash.

    >>> sources(5, 4, 8), sources(1, 4, 6), sources(0, 2, 3)
    ([1], [1, 3], [0, 1])
    """
    both = gcd(former, partitions)
    return list(range(partition % both, former, both))


def targets(partition: int, former: int, partitions: int) -> list[int]:
    """Return the shards that a former shard's customers can go to.

    >>> targets(1, 4, 8), targets(1, 4, 6)
    ([1, 5], [1, 3, 5])
    """
    both = gcd(former, partitions)
    return list(range(partition % both, partitions, both))


def inherit(sealed: Sequence[StoreHead], partitions: int, begins: Sequence[int]) -> list[Inheritance]:
    """Return what each shard begins with. `sealed`: the last heads of the former shards.

    `begins`: where the input partition of each shard starts, for those that are new. Raises TooManyBackfills.
    """
    former = len(sealed)
    return [
        _inherit(p, {s: sealed[s] for s in sources(p, former, partitions)}, former, partitions, begins[p])
        for p in range(partitions)
    ]


def _inherit(partition: int, heads: Mapping[int, StoreHead], former: int, partitions: int, begin: int) -> Inheritance:
    newest = max(heads.values(), key=lambda head: head.activation)
    clock = max(head.clock for head in heads.values())
    # Where one of the shards was still rescoring, or hadn't started the model yet, all its customers are looked at
    # once more: whoever has moved already doesn't move again.
    alike = all(head.activation == newest.activation for head in heads.values())
    under_way = {head.scope for head in heads.values() if head.cursor is not None}
    backfills, slots = _united(partition, heads)
    # An old partition goes on where it was sealed: its input, its outputs and their numbers.
    own = heads.get(partition)
    base = own or replace(newest, offset=begin, position=0, count=0, read=None, written=None, era=0)
    head = replace(
        base,
        token="",
        turn=1,  # a head of turn 0 would have the tombstones read from Kafka
        clock=clock,
        merge_clock=clock,
        activation=newest.activation,
        version=newest.version,
        cursor=None if alike and not under_way else "",
        quiet="",
        # Moves of changed settings keep their cause, unless a model starts after them.
        scope=Scope.SETTINGS if alike and Scope.SETTINGS in under_way else Scope.EVERYONE,
        partitions=(partitions, partitions),
        former=former,
        backfills=backfills,
        rewritten=None if all(head.rewritten is None for head in heads.values()) else "",
        # What is known of customers has come with them. New partitions begin with their first record.
        sides=own.sides if own else dict.fromkeys(newest.sides, 0),
        stored=None,
    )
    return Inheritance(head, slots)


def _united(partition: int, heads: Mapping[int, StoreHead]) -> tuple[Backfills, dict[int, dict[int, int]]]:
    """Return (the backfills of several shards as one registry, where their slots went). The own shard's slots stay."""
    own = heads.get(partition)
    rows = list(own.backfills.rows) if own else []
    moved: dict[int, dict[int, int]] = {}
    for source, head in heads.items():
        if source == partition:
            continue
        for row in head.backfills.rows:
            known = next((r for r in rows if r.id == row.id and r.closed == row.closed), None)
            if known is None:
                slot = next((s for s in range(1, SLOTS + 1) if all(r.slot != s for r in rows)), None)
                if slot is None:
                    raise TooManyBackfills(
                        f"shard {partition} would take customers of more than {SLOTS} open backfills.",
                        hint="Finish some of them first: `segstream status` lists them.",
                    )
                known = replace(row, slot=slot)
            else:
                rows.remove(known)
                known = replace(known, since=min(known.since, row.since), last=max(known.last, row.last))
            rows.append(known)
            if known.slot != row.slot:
                moved.setdefault(source, {})[row.slot] = known.slot
    if not rows:
        return NONE_OPEN, {}
    return Backfills(max(head.backfills.opened for head in heads.values()), tuple(rows)), moved


def kafka_head(head: StoreHead) -> KafkaHead:
    """Return the Kafka head of a shard whose Redis head this is, with nothing in between."""
    return KafkaHead(
        offset=head.offset,
        count=head.count,
        clock=head.clock,
        activation=head.activation,
        version=head.version,
        cursor=head.cursor,
        scope=head.scope,
        era=head.era,
        agreed=head.agreed,
        partitions=head.partitions[0],
        changes=head.changes,
    )


def later(one: bytes, other: bytes | None) -> bytes:
    """Return the later of two remains of one customer who is gone: copies stay behind in other shards.

    >>> later(bytes([0, 0, 0, 0, 1, 0, 0, 0]), bytes([0, 0, 0, 0, 2, 0, 0, 0]))[4]
    2
    """
    if other is None:
        return one
    return max(one, other, key=age_of)
