"""The models topic: what was published before, and one more model, announced to every shard in one transaction."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from segmentation.events import CONTROL_KEY, ModelActivated, encode, iso
from segmentation.model import ACTIVE_KEY, CANDIDATE_KEY, ModelError, SegmentModel, read_pointer, read_version
from trainer.errors import PublishError
from trainer.names import Lineage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trainer.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 30.0  # for all of a reading, or of a transaction
_STOP_S: Final = 5.0  # a producer that was fenced may hang in stop()
_REQUEST_MS: Final = 10_000


class Pointer(msgspec.Struct, frozen=True):
    """The value of the records `active` and `candidate`: which version, since when (ISO 8601), by whom."""

    version: str
    at: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Activation:
    """What was published. `number`: the offset of its `active` record, which only grows; None for a candidate."""

    number: int | None
    version: str


def read_lineage(settings: Settings) -> Lineage:
    """Read the models topic to its end. What can't be read there is skipped, as the worker does. Raises PublishError."""
    return asyncio.run(_read(settings))


def publish(settings: Settings, model: SegmentModel, *, activate: bool, event_time: bool, now_ms: int) -> Activation:
    """Publish a model, in one transaction: all of it or nothing. Raises PublishError.

    1. The model under its version; not again for a candidate, since an activation must stay behind its model when the
       topic is compacted.
    2. Under `active` (or `candidate`) the version. The offset of this record is the activation.
    3. In event time and if activated: `model.activated` on every partition of the orders, where it starts among them.
    """
    return asyncio.run(_publish(settings, model, activate=activate, event_time=event_time, now_ms=now_ms))


async def _read(settings: Settings) -> Lineage:
    consumer = AIOKafkaConsumer(
        **settings.kafka_client(),
        enable_auto_commit=False,
        isolation_level="read_committed",
        request_timeout_ms=_REQUEST_MS,
    )
    partition = TopicPartition(settings.models_topic, 0)
    async with _translated(settings, consumer):
        await _expect_topics(settings, await consumer.topics())
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        end = (await consumer.end_offsets([partition]))[partition]
        records: list[Any] = []
        while await consumer.position(partition) < end:
            answer = await consumer.getmany(partition, timeout_ms=200)
            records += answer.get(partition, [])
    return _lineage([record for record in records if record.offset < end])


def _lineage(records: list[Any]) -> Lineage:
    models: dict[str, SegmentModel] = {}
    active, activation = None, None
    for record in records:
        try:
            if record.value is None or record.key == CANDIDATE_KEY:
                continue
            if record.key == ACTIVE_KEY:
                version = read_pointer(record.value)
                # Of a model that isn't there the worker goes on with the last good one, too.
                if version in models:
                    active, activation = models[version], record.offset
                else:
                    log.warning("activation %d names model %r, which isn't on the topic", record.offset, version)
                continue
            model = read_version(record.key, record.value)
            models[model.version] = model
        except ModelError as error:
            log.warning("the record at offset %d of the models topic is skipped: %s", record.offset, error)
    ids = [segment.id for model in models.values() for segment in model.segments]
    return Lineage(active, activation, frozenset(models), max(ids, default=0))


async def _publish(
    settings: Settings, model: SegmentModel, *, activate: bool, event_time: bool, now_ms: int
) -> Activation:
    known = (await _read(settings)).versions
    producer = AIOKafkaProducer(
        **settings.kafka_client(),
        transactional_id=f"{settings.group}-trainer",
        linger_ms=0,
        retry_backoff_ms=10,
        request_timeout_ms=_REQUEST_MS,
    )
    version = model.version
    pointer = msgspec.json.encode(Pointer(version, iso(now_ms), "segtrainer"))
    async with _translated(settings, producer):
        partitions = await _order_partitions(settings, producer) if activate and event_time else []
        async with producer.transaction():
            if activate or version not in known:
                await _sent(producer, settings.models_topic, version.encode(), model.to_json(), 0)
            written = await _sent(
                producer, settings.models_topic, ACTIVE_KEY if activate else CANDIDATE_KEY, pointer, 0
            )
            event = encode(
                ModelActivated(id=f"model.activated:{written.offset}", activation=written.offset, version=version)
            )
            for partition in partitions:
                await _sent(producer, settings.orders_topic, CONTROL_KEY, event, partition)
    return Activation(written.offset if activate else None, version)


async def _sent(producer: Any, topic: str, key: bytes, value: bytes, partition: int) -> Any:
    """Send one record and wait until it is acknowledged: a commit doesn't tell of a send that failed."""
    return await (await producer.send(topic, value, key=key, partition=partition))


async def _order_partitions(settings: Settings, producer: Any) -> list[int]:
    """Give the partitions of the orders. Raises PublishError where there aren't as many as the deployment has shards."""
    found = sorted(await producer.partitions_for(settings.orders_topic))
    if len(found) != settings.partitions:
        raise PublishError(
            f"topic {settings.orders_topic} has {len(found)} partitions, expected {settings.partitions}.",
            hint=f"Set SEGSTREAM_PARTITIONS={len(found)} for workers and trainer alike, if that is what it always had.",
        )
    return found


async def _expect_topics(settings: Settings, existing: set[str]) -> None:
    wanted = {settings.models_topic} | ({settings.orders_topic} if settings.time == "event" else set())
    if missing := sorted(wanted - existing):
        raise PublishError(f"no topic {' and no topic '.join(missing)}.", hint="Run `segstream topics create`.")


@asynccontextmanager
async def _translated(settings: Settings, client: Any) -> AsyncIterator[None]:
    """Start and stop a client round the block, within a time limit, and turn Kafka's errors into PublishError."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await client.start()
            yield
    except (KafkaError, OSError, AssertionError) as error:  # TimeoutError is an OSError
        what = str(error) or repr(error)
        if isinstance(error, TimeoutError):
            what = f"no end within {TIMEOUT_S:.0f} s (a model under way may be published all the same)"
        raise PublishError(
            f"Kafka at {settings.kafka_bootstrap_servers}: {what}.",
            hint="Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS, that the brokers run, and that no other trainer does.",
        ) from error
    finally:
        with suppress(Exception):
            await asyncio.wait_for(client.stop(), _STOP_S)
