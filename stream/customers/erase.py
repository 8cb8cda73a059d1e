"""The erasure of a customer: its events, and the wait until workers have done it."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from segmentation.event_text import instant, iso
from segmentation.events import CustomerErased, encode
from segmentation.rfm import StateFormatError
from stream.customers.erasure_report import (
    Erasure,
    SentErasure,
    judged,
    left_by_scoring,
    unerased,
)
from stream.errors import SegstreamError
from stream.kafka.clients import kafka_producer
from stream.replay.preconditions import check_target
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import read_clock, read_head
from stream.traces.mentions import Mentions
from stream.traces.person import person_of
from stream.traces.places import shards_of
from stream.traces.shard_traces import PersonHoldings, holdings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from stream.settings import Settings

_POLL_S: Final = 0.1


class ErasureUnconfirmed(SegstreamError):
    """The erasure is sent, and it can't be seen whether it is done."""


async def erase(
    settings: Settings,
    customer_id: str,
    at_ms: int | None,
    *,
    now_ms: int,
    wait_s: float,
    on_sent: Callable[[str], object] = lambda _: None,
) -> Erasure:
    """Send customer.erased for everything dated up to `at_ms`, wait until workers have done it, and look.

    It goes to the customer's partition; where no partitioner is known, to all. It is of the whole person, so each id of
    a merged customer gets one: campaigns know of each what its profile said. `at_ms` None: now; in event time the clock
    of the shard. Instants in ms. `on_sent` gets where the events are. Raises CustomerIdRefused, KafkaUnreachable,
    TopicUnusable, RedisUnreachable; and ErasureUnconfirmed where the events are sent, and then something can't be read.
    """
    Mentions.of(settings, customer_id)
    await check_target(settings)
    with redis_client(settings) as redis:
        ids = _ids(redis, settings, customer_id)
        instants = {
            (known, p): event_instant(redis, settings, p, at_ms, now_ms)
            for known in ids
            for p in shards_of(settings, known)
        }
    sent: list[SentErasure] = []
    try:
        await _send(settings, instants, sent)
        on_sent(where(sent))
        with redis_client(settings) as redis:
            holdings = await _awaited(redis, settings, customer_id, sent, time.monotonic() + wait_s)
            return await judged(redis, settings, customer_id, sent, holdings, now_ms)
    except (SegstreamError, RedisError) as error:
        if not sent:
            raise
        raise ErasureUnconfirmed(
            f"the erasure of {customer_id!r} is sent ({where(sent)}), but it can't be seen whether it is done: {error}",
            hint="A worker will do it as soon as it reads it. `segstream erase ID --check` looks again; running "
            "`erase` again does no harm.",
        ) from error


async def check(settings: Settings, customer_id: str, *, now_ms: int) -> Erasure:
    """Look whether a customer is erased, and send nothing. Raises as `erase` does."""
    Mentions.of(settings, customer_id)
    with redis_client(settings) as redis:
        holdings = await asyncio.to_thread(holdings_of, redis, settings, customer_id)
        return await judged(redis, settings, customer_id, [], holdings, now_ms)


def where(sent: list[SentErasure]) -> str:
    """Return where the events are.

    >>> where([SentErasure("ann", 3, 17, "")]), where([SentErasure("ann", 0, 1, ""), SentErasure("ann", 1, 5, "")])
    ('partition 3, offset 17', '2 events in partitions 0, 1')
    """
    first = sent[0]
    if len(sent) == 1:
        return f"partition {first.partition}, offset {first.offset}"
    return f"{len(sent)} events in partitions {', '.join(map(str, sorted({event.partition for event in sent})))}"


def event_instant(redis: Redis, settings: Settings, partition: int, at_ms: int | None, now_ms: int) -> int:
    """Return the instant of an event: the one asked for, or now; in event time the shard's clock. Raises RedisError."""
    if at_ms is not None:
        return at_ms
    if settings.time == "wall":
        return now_ms
    clock = read_clock(redis, ShardKeys(settings.group, settings.orders_topic, partition))
    return now_ms if clock is None else clock


def _ids(redis: Redis, settings: Settings, customer_id: str) -> tuple[str, ...]:
    """Return all ids of the customer, this one first. Raises RedisError."""
    try:
        return customer_id, *person_of(redis, settings, customer_id).others(customer_id)
    except StateFormatError:
        return (customer_id,)  # the event is of the whole person in any case; what can't be read is said later


async def _send(settings: Settings, instants: dict[tuple[str, int], int], sent: list[SentErasure]) -> None:
    """Send an event for each of these ids and partitions, and add each to `sent` once Kafka has it."""
    async with kafka_producer(settings) as producer:
        for (known, partition), at_ms in instants.items():
            event = CustomerErased(id=f"erasure-{uuid.uuid4()}", customer_id=known, occurred_at=instant(at_ms))
            record = await producer.send_and_wait(
                settings.orders_topic, encode(event), key=known.encode(), partition=partition
            )
            sent.append(SentErasure(known, partition, int(record.offset), iso(at_ms)))


async def _awaited(
    redis: Redis, settings: Settings, customer_id: str, sent: list[SentErasure], deadline_s: float
) -> PersonHoldings:
    """Wait until the shards have read the events and hold nothing that they erase, or the time is over."""
    read = False
    while True:
        read = read or await asyncio.to_thread(
            lambda: all(has_read(redis, settings, event.partition, event.offset) for event in sent)
        )
        over = time.monotonic() > deadline_s
        if read or over:
            found = await asyncio.to_thread(holdings_of, redis, settings, customer_id)
            left = unerased(settings, sent, found)
            # What the scoring left is final: it was committed with the head that says the event is read. Not so where
            # that shard has handed it on to another one.
            final = len(found.person.ids) == 1 and left_by_scoring(settings, sent, found)
            if over or final or not left:
                return found
        await asyncio.sleep(_POLL_S)


def has_read(redis: Redis, settings: Settings, partition: int, offset: int) -> bool:
    """Return whether a shard has read an event. Raises ShardUnreadable, RedisError."""
    head = read_head(redis, ShardKeys(settings.group, settings.orders_topic, partition))
    return head is not None and head.offset > offset
