"""The merge of two ids into one customer: its event, and the wait until workers have done it."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Final

import msgspec
from redis.exceptions import RedisError

from segmentation.event_text import instant, iso
from segmentation.events import CustomerMerged, encode, millis
from stream.customers.erase import event_instant, has_read
from stream.customers.erasure_report import dead_letters_about, refusals
from stream.errors import SegstreamError
from stream.kafka.clients import kafka_producer
from stream.replay.preconditions import check_target
from stream.storage.client import redis_client
from stream.traces.mentions import CustomerIdRefused, Mentions
from stream.traces.person import Person, person_of
from stream.traces.places import shards_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from stream.settings import Settings

_POLL_S: Final = 0.1


class MergeRefused(SegstreamError):
    """These two ids can't be merged."""


class MergeUnconfirmed(SegstreamError):
    """The merge is sent, and it can't be seen whether it is done."""


class SentMerge(msgspec.Struct, frozen=True):
    """An event customer.merged on the topic of orders."""

    partition: int
    offset: int
    at: str

    @property
    def where(self) -> str:
        """Where it is, for people.

        >>> SentMerge(3, 17, "").where
        'partition 3, offset 17'
        """
        return f"partition {self.partition}, offset {self.offset}"


class MergeOutcome(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """The outcome of a merge.

    `done`: both shards know that the ids are one customer; else `reasons` says why not. `customer_id`: the id that
    stays, which may be neither of the two; `ids`: all ids of the customer, that one first. Both as far as is known.
    """

    from_: str
    into: str
    sent: SentMerge
    done: bool
    reasons: list[str]
    customer_id: str
    ids: list[str]


async def merge(
    settings: Settings,
    from_: str,
    into: str,
    at_ms: int | None,
    *,
    now_ms: int,
    wait_s: float,
    on_sent: Callable[[str], object] = lambda _: None,
) -> MergeOutcome:
    """Send customer.merged, wait until workers have done it, and look.

    `at_ms` None: now; in event time the clock of the shard of `from_`. Instants in ms. `on_sent` gets where the event
    is. Raises MergeRefused, CustomerIdRefused, KafkaUnreachable, TopicUnusable, RedisUnreachable; and MergeUnconfirmed
    where the event is sent, and then something can't be read.
    """
    partition = _checked(settings, from_, into)
    await check_target(settings)
    with redis_client(settings) as redis:
        at = event_instant(redis, settings, partition, at_ms, now_ms)
    event = CustomerMerged(id=f"merge-{uuid.uuid4()}", from_=from_, into=into, occurred_at=instant(at))
    async with kafka_producer(settings) as producer:
        record = await producer.send_and_wait(
            settings.orders_topic, encode(event), key=from_.encode(), partition=partition
        )
    sent = SentMerge(partition, int(record.offset), iso(at))
    on_sent(sent.where)
    try:
        with redis_client(settings) as redis:
            return await _awaited(redis, settings, event, sent, time.monotonic() + wait_s)
    except (SegstreamError, RedisError) as error:
        raise MergeUnconfirmed(
            f"the merge of {from_!r} into {into!r} is sent ({sent.where}), but it can't be seen whether it is done: "
            f"{error}",
            hint="A worker will do it as soon as it reads it. `segstream customer ID` shows whether it is done, and "
            "merging again does no harm.",
        ) from error


def merge_lines(found: MergeOutcome) -> list[str]:
    """Return the outcome of a merge as lines for people.

    >>> sent = SentMerge(3, 17, "2026-03-03T14:20:00.000Z")
    >>> merge_lines(MergeOutcome("guest-1", "c-7", sent, True, [], "c-7", ["c-7", "guest-1"]))
    ['guest-1 and c-7 are one customer: c-7, with 2 ids (c-7, guest-1).', '`segstream customer c-7` shows it.']
    """
    if found.done:
        ids = ", ".join(found.ids)
        return [
            f"{found.from_} and {found.into} are one customer: {found.customer_id}, with {len(found.ids)} ids ({ids}).",
            f"`segstream customer {found.customer_id}` shows it.",
        ]
    return [
        f"{found.from_} and {found.into}: not merged yet.",
        *(f"  {reason}." for reason in found.reasons),
        "`segstream customer ID` shows whether it is done. Merging again does no harm.",
    ]


def _checked(settings: Settings, from_: str, into: str) -> int:
    """Return the partition of the event. Raises MergeRefused, CustomerIdRefused."""
    for customer_id in (from_, into):
        Mentions.of(settings, customer_id)
    if from_ == into:
        raise CustomerIdRefused(f"{from_!r} can't be merged into itself.", hint="Give two ids.")
    if settings.partitioner == "none":
        raise MergeRefused(
            "SEGSTREAM_PARTITIONER is none: nobody knows in which shard a customer lives.",
            hint="A merge needs the partitioner of the producers; `segstream reconfigure` changes the setting.",
        )
    (partition,) = shards_of(settings, from_)
    return partition


async def _awaited(
    redis: Redis, settings: Settings, event: CustomerMerged, sent: SentMerge, deadline_s: float
) -> MergeOutcome:
    """Wait until the state of both ids knows the merge, or the time is over."""
    read = False
    while True:
        read = read or await asyncio.to_thread(has_read, redis, settings, sent.partition, sent.offset)
        over = time.monotonic() > deadline_s
        if read or over:
            person = await asyncio.to_thread(person_of, redis, settings, event.from_)
            done = person.knows(millis(event.occurred_at), event.from_, event.into)
            if done or over:
                reasons = [] if done else await _reasons(settings, event, sent, person, read=read)
                return MergeOutcome(event.from_, event.into, sent, done, reasons, person.customer_id, list(person.ids))
        await asyncio.sleep(_POLL_S)


async def _reasons(
    settings: Settings, event: CustomerMerged, sent: SentMerge, person: Person, *, read: bool
) -> list[str]:
    """Return why a merge isn't done."""
    letters, failures = await dead_letters_about(settings, [Mentions.of(settings, event.from_)])
    if refused := refusals("merge", [(sent.partition, sent.offset)], letters):
        return refused
    if not read:
        first = f"shard {settings.orders_topic}-{sent.partition} hasn't read the merge at offset {sent.offset} yet"
        return [*failures, f"{first}: a worker will, and `segstream status` shows what keeps it"]
    shards = ", ".join(f"{settings.orders_topic}-{p}" for p in shards_of(settings, person.customer_id))
    handed_on = f"shard {shards} hasn't read yet what {event.from_} has handed on to {person.customer_id}"
    return [*failures, f"{handed_on}: a worker will, and `segstream status` shows what keeps it"]
