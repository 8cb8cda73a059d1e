"""Settings that all workers of a group must share: how a takeover compares them, and follows a change of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from segmentation.agreed import Agreed, Way, differences, way_from
from segmentation.backfills import NONE_OPEN
from segmentation.step import Scope
from stream.engine.store import MAX_SLICE, Writes
from stream.errors import ShardQuarantined
from stream.storage.heads import NO_CLOCK, HeadChange, KafkaHead, StoreHead

if TYPE_CHECKING:
    from segmentation.step import Step
    from stream.engine.ownership import Owned, ShardContext
    from stream.engine.store import ShardStore

log = logging.getLogger(__name__)

WAYS_OUT: Final = "Restore the settings and restart the worker. To change them for good, run `segstream reconfigure`."


def spoken(held: Agreed, wanted: Agreed) -> str:
    """Return the settings that differ, with both values.

    >>> import msgspec
    >>> from segmentation.agreed import Agreed
    >>> one = Agreed(365, 7, 9, "USD", "wall", 0.0, "murmur2", 300, 90, 1024, "1990-01-01", 24.0)
    >>> spoken(one, msgspec.structs.replace(one, window_days=180))
    'SEGSTREAM_WINDOW_DAYS is 180 here, but 365'
    """
    found = differences(held, wanted)
    return ", ".join(f"SEGSTREAM_{d.name.upper()} is {_shown(d.wanted)} here, but {_shown(d.held)}" for d in found)


def _shown(value: Any) -> Any:
    return '""' if value == "" else value


async def settings_held(
    store: ShardStore, kafka: KafkaHead | None, head: StoreHead | None, *, otherwise: Agreed | None = None
) -> Agreed | None:
    """Return the settings that a shard is under; None where nobody knows any.

    Kafka decides. Heads of an earlier version have none; then those of Redis count, and then those of the group's first
    worker. `otherwise`: these become the group's where it has none yet.
    """
    if kafka is not None and kafka.agreed is not None:
        return kafka.agreed
    if head is not None and head.agreed is not None:
        return head.agreed
    found = await store.agreed(None if otherwise is None else msgspec.json.encode(otherwise))
    try:
        return None if found is None else msgspec.json.decode(found, type=Agreed)
    except msgspec.DecodeError as error:
        raise ShardQuarantined("redis_format", f"the group's settings in Redis are unreadable: {error}.") from error


async def check_settings(shard: ShardContext, kafka: KafkaHead | None, head: StoreHead | None) -> None:
    """Raise ShardQuarantined where the shard is under other settings than this worker's."""
    own = shard.step.agreed
    if own is None:
        return
    held = await settings_held(shard.store, kafka, head, otherwise=own)
    if held is not None and differences(held, own):
        raise ShardQuarantined("settings_changed", f"{spoken(held, own)} in the heads of {shard}.", hint=WAYS_OUT)


def way_behind(head: StoreHead, target: KafkaHead, step: Step) -> Way | None:
    """Return how Redis follows the changes of settings that it hasn't seen; None: there are none.

    `target`: Kafka's head. Its counter tells where the settings themselves don't: several changes may cancel out, and
    the head of an earlier version, restored from a backup, doesn't say which settings its states are under.
    """
    if head.stripped is not None or head.changes < target.reread:
        return Way.READ_AGAIN
    way = way_from(head.agreed, step.agreed)
    missed = target.changes - head.changes
    if missed > 1 or (missed == 1 and head.agreed is None):
        return max(way or Way.RESCORE, Way.RESCORE)
    return way


def must_read_again(head: StoreHead, target: KafkaHead, step: Step) -> bool:
    """Return whether Redis' states are under settings that make them another function of the records."""
    return way_behind(head, target, step) is Way.READ_AGAIN


def adopted(head: StoreHead, target: KafkaHead, step: Step) -> HeadChange:
    """Return step 5's change of a Redis head whose states may stay: this worker's settings, and a rescore.

    `target`: Kafka's head. The moves up to its cursor are published already.
    """
    way = way_behind(head, target, step)
    if way is Way.READ_AGAIN:
        return {}
    change: HeadChange = {"agreed": step.agreed, "changes": target.changes}
    if way is Way.RESCORE:
        change |= {"cursor": "", "quiet": target.cursor, "scope": scope_of_all(target)}
    return change


def scope_of_all(target: KafkaHead) -> Scope:
    """Return the scope of a rescore that also gives all customers a due time again.

    Where Kafka's head is in a rescore of the released customers alone, the one of all customers before it has ended:
    all its moves are published.
    """
    if target.cursor is None or target.scope is Scope.EVERYONE:
        return Scope.EVERYONE
    return Scope.SETTINGS if target.scope is Scope.SETTINGS else Scope.RELEASED_AND_DUE


async def read_again(owned: Owned, target: KafkaHead, begin: int) -> None:
    """Empty the states, but for each customer's last published move, and go back to the input's start.

    Step 6 then reads all records under the new settings. A crash in between leaves how far this came. `target`: Kafka's
    head. `begin`: where the input starts. Raises ShardQuarantined where that isn't its first record any more.
    """
    shard = owned.shard
    if owned.head.former:
        raise ShardQuarantined(
            "settings_changed",
            f"the states of {shard} must be read again under the changed settings, but the orders from before the last "
            "`segstream reshard` are on other partitions.",
            hint="`segstream rebuild` reads all of them, for all shards at once.",
        )
    if begin > 0 or target.era > 0:
        raise ShardQuarantined(
            "input_gone",
            f"the settings have changed, so the states of {shard} must be read again from its first record, which is "
            f"gone: it starts at offset {begin}" + (", and was made anew." if target.era else "."),
            hint="Restore a backup of Redis from after the change, if you have one. Otherwise "
            "`segstream rebuild --allow-truncated-logs` reads what is left.",
        )
    log.info("%s: the settings have changed: all records are read again", shard)
    cursor: str | None = owned.head.stripped or ""
    while cursor is not None:
        assert owned.raw is not None
        rows, found, last = await shard.store.load_slice(owned.raw, cursor, MAX_SLICE)
        bare = {key: shard.step.bare(value) for key, value in rows}
        kept = {key: value for key, value in bare.items() if value is not None}
        writes = Writes(kept, idle=list(kept), deleted=[key for key in bare if key not in kept])
        cursor = None if found < MAX_SLICE else last.decode()
        change: HeadChange = {"agreed": shard.step.agreed, "stripped": cursor}
        if cursor is None:
            change |= {
                "changes": target.changes,
                "offset": begin, "merge_clock": NO_CLOCK, "read": None, "backfills": NONE_OPEN,
                "cursor": "", "quiet": target.cursor, "scope": scope_of_all(target),
            }  # fmt: skip
        await owned.commit(writes, **change)
