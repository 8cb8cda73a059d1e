"""Follow an output topic: moves, actions, deliveries or dead letters as lines, as they are committed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from stream.dead_letters.records import read_dead_letter
from stream.kafka.clients import at_end, kafka_consumer, partitions_of
from stream.outputs.kinds import OutputKind
from stream.outputs.lines import (
    change_line,
    dead_letter_json,
    dead_letter_line,
    decision_line,
    delivery_line,
    published_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from stream.settings import Settings

_POLL_MS: Final = 200
_BATCH: Final = 5_000


async def tail(
    settings: Settings,
    what: OutputKind,
    write: Callable[[str], object],
    *,
    from_beginning: bool = False,
    until_idle_s: float | None = None,
    limit: int | None = None,
    as_json: bool = False,
    reasons: Collection[str] = (),
) -> int:
    """Write a line for each record, each partition's in order, and return the number of lines.

    Starts with the next new record, or with the oldest one. Ends `until_idle_s` seconds after the last record, once all
    records that existed at the start have been read; after `limit` records; or never. `reasons`: only the dead letters
    with one of these; none: all. Raises KafkaUnreachable, TopicMissing.
    """
    line = _line_of(what, as_json=as_json)
    async with kafka_consumer(settings) as consumer:
        partitions = await partitions_of(consumer, _topics(settings, what))
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        if from_beginning:
            # In one call: each call waits for a fetch, which takes half a second if there is nothing to fetch.
            await consumer.seek_to_beginning(*partitions)
        else:
            for partition in partitions:
                consumer.seek(partition, ends[partition])
        written, last_s = 0, time.monotonic()
        while limit is None or written < limit:
            room = _BATCH if limit is None else min(_BATCH, limit - written)
            answer = await consumer.getmany(timeout_ms=_POLL_MS, max_records=room)
            for record in (record for records in answer.values() for record in records):
                last_s = time.monotonic()
                if reasons and read_dead_letter(record).reason not in reasons:
                    continue
                write(line(record))
                written += 1
            if answer or until_idle_s is None:
                continue
            if time.monotonic() - last_s >= until_idle_s and await at_end(consumer, ends):
                break
        return written


def _topics(settings: Settings, what: OutputKind) -> list[str]:
    if what is OutputKind.CHANGES:
        return [settings.changes_topic]
    if what is OutputKind.ACTIONS:
        return [settings.actions_topic]
    if what is OutputKind.DELIVERIES:
        return [settings.deliveries_topic]
    return [
        settings.orders_dead_letters_topic,
        settings.changes_dead_letters_topic,
        settings.actions_dead_letters_topic,
    ]


def _line_of(what: OutputKind, *, as_json: bool) -> Callable[[Any], str]:
    if what is OutputKind.DEAD_LETTERS:
        return dead_letter_json if as_json else dead_letter_line
    if as_json:
        return published_json
    lines = {OutputKind.CHANGES: change_line, OutputKind.ACTIONS: decision_line, OutputKind.DELIVERIES: delivery_line}
    return lines[what]
