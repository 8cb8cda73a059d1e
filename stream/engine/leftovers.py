"""Traces in Kafka of turns whose rest was lost, as a takeover finds them: dead letters and tombstones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stream.engine.store import Writes
from stream.storage.tombstones import AT_THE_END, TurnPlace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream.engine.log_reader import Bounds
    from stream.engine.ownership import Owned
    from stream.storage.heads import KafkaHead

RECENT_TURNS: Final = 4  # the newest dead letters of so many turns


async def reported(owned: Owned, kafka: KafkaHead | None, bounds: tuple[int, int]) -> frozenset[int]:
    """Return the input offsets beyond Kafka's head whose dead letters are there: of a torn turn. Else there are none.

    `bounds`: of the dead-letter topic. A head of an earlier version doesn't say where its dead letters end: then the
    last ones are looked at, and more than a turn can have.
    """
    shard, ledger = owned.shard, owned.ledger
    begin, end = bounds
    if ledger.dead_end is None:
        known = end - RECENT_TURNS * shard.settings.turn_max_orders
        if kafka and kafka.dead is not None:
            known = kafka.dead
        elif kafka and kafka.era:
            known = end  # offsets of the dead letters may be those of the era before
        ledger.dead_end = min(max(begin, known), end)
    topic, p = shard.streams.dead_letters, shard.partition
    found = await owned.reader.dead_letters(topic, p, (max(begin, ledger.dead_end), end), shard.streams.input)
    beyond = frozenset(offset for offset in found if offset >= (kafka.offset if kafka else 0))
    if not beyond:
        ledger.dead_end = max(ledger.dead_end, end)  # the next takeover needn't look at these again
    return beyond


async def reported_sides(owned: Owned, offsets: Mapping[str, int], bounds: Bounds) -> frozenset[tuple[str, int]]:
    """Return (topic, offset) of side records that will be read again and have a dead letter among the newest ones.

    `offsets`: where to read the side inputs on. `bounds`: of all topics.
    """
    shard, found = owned.shard, set[tuple[str, int]]()
    topic, p = shard.streams.dead_letters, shard.partition
    begin, end = bounds.get(topic, (0, 0))
    begin = max(begin, end - RECENT_TURNS * shard.settings.turn_max_orders)
    for side, offset in offsets.items():
        if offset < bounds[side][1] and begin < end:
            letters = await owned.reader.dead_letters(topic, p, (begin, end), side)
            found |= {(side, at) for at in letters if at >= offset}
    return frozenset(found)


async def restore_tombstones(owned: Owned, kafka: KafkaHead | None) -> None:
    """Store the tombstones of erased customers before the input is read again: it may no longer have the erasures.

    Those beyond Kafka's head are left out: the orders between N and their erasure would count as erased too early.
    Where Kafka's head is lost, though there was one, all are taken.
    """
    topic, head = owned.shard.streams.tombstones, owned.head
    place = TurnPlace.of(kafka or head) if kafka or not (head.offset or head.count) else AT_THE_END
    found = await owned.reader.read_tombstones(topic, owned.shard.partition, place) if topic else {}
    if found:
        await owned.commit(Writes(tombstones=found))
