"""One more model on the models topic, or another one activated: in one transaction, and never over somebody's head.

All writers share one transactional id. Whoever starts last fences the others, writes a barrier (a transaction that is
taken back, so that no reader ever sees it), and reads the topic past it: all that others wrote is decided then. If what
is active isn't what the caller expected, nothing is written. So of two at once one wins, and the other hears it.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced

from segmentation.events import CONTROL_KEY, ModelActivated, encode
from segmentation.model import ACTIVE_KEY, CANDIDATE_KEY, SegmentModel
from stream.kafka.clients import TopicUnusable, check_partition_count
from trainer.errors import PublishConflict, PublishError
from trainer.registry.contents import REMEMBERED, Pointer, Signature, TopicContents, read_published, way_back
from trainer.registry.topic import REQUEST_MS, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream.settings import DeploymentSettings
    from trainer.training.naming import Lineage

TIMEOUT_S: Final = 30.0  # for all of a reading, or of a transaction
_BARRIER: Final = b"barrier"
# The latter is told to one of two that start in the same moment.
_FENCED: Final = (ProducerFenced, InvalidProducerEpoch)


@dataclass(frozen=True, slots=True)
class PublicationResult:
    """What was published. `number`: the offset of its `active` record, which only grows; None for a candidate."""

    number: int | None
    version: str


@dataclass(frozen=True, slots=True)
class _ModelChange:
    """What is to be written. `model`: None where it must be on the topic already."""

    version: str
    model: SegmentModel | None
    signature: Signature
    activate: bool = True
    rollback: bool = False
    event_time: bool = False


def read_models(settings: DeploymentSettings) -> TopicContents:
    """Read the models topic to its end. What can't be read there is skipped, as the worker does. Raises PublishError."""
    return asyncio.run(_read(settings))


def read_lineage(settings: DeploymentSettings) -> Lineage:
    """Read of the models topic what a training needs to know. Raises PublishError."""
    return read_models(settings).lineage()


async def active_model(settings: DeploymentSettings) -> SegmentModel | None:
    """Give the active model; None: none is. Raises PublishError."""
    found = await _read(settings)
    return found.versions[found.active.version].model if found.active else None


def publish(
    settings: DeploymentSettings,
    model: SegmentModel,
    *,
    activate: bool,
    event_time: bool,
    now_ms: int,
    signed: Signature | None = None,
    expected: Lineage | None = None,
) -> PublicationResult:
    """Publish a model, in one transaction: all of it or nothing. Raises PublishError.

    1. The model under its version, unless it is there: an activation must stay behind its model when the topic is
       compacted.
    2. Under `active` (or `candidate`) the version. The offset of this record is the activation.
    3. In event time and if activated: `model.activated` on every partition of the orders, where it starts among them.

    `expected`: what the topic held when the training began. Raises PublishConflict where another model is active by
    now, or where another one has got the ids of this one's new segments.
    """
    signature = signed or Signature.now("segtrainer", now_ms)
    change = _ModelChange(model.version, model, signature, activate=activate, event_time=event_time)

    def check(found: TopicContents) -> None:
        if expected is None:
            return
        if activate:
            _expect_active(found, expected.activation)
        now = found.lineage()
        fresh = max(segment.id for segment in model.segments) > expected.highest_id
        if fresh and now.highest_id > expected.highest_id and model.version not in found.versions:
            raise PublishConflict(
                f"another model was published meanwhile, and its new segments have the ids of those of {model.version}.",
                hint="Nothing was published: run the training again.",
            )

    return asyncio.run(_commit(settings, change, check))


def promote(
    settings: DeploymentSettings, version: str, signed: Signature, *, expected: str | None = None
) -> PublicationResult:
    """Activate a model that is on the topic. Raises PublishError: it isn't there, or it is active already.

    `expected`: the version that the caller takes for active ("": none is); None: the one that is as this begins.
    Raises PublishConflict where another one is.
    """

    async def go() -> PublicationResult:
        found = await _read(settings)
        _require(found, version)
        now = found.active
        if expected is not None and expected != (now.version if now else ""):
            raise PublishConflict(f"active is {_told(found)}, expected {expected or 'none'}.", hint=_LOOK)
        if now and now.version == version:
            raise PublishError(f"model {version} is active already (activation {now.activation}).")
        change = _ModelChange(version, None, signed, event_time=settings.time == "event")
        return await _commit(settings, change, lambda late: _expect_active(late, now.activation if now else None))

    return asyncio.run(go())


def roll_back(settings: DeploymentSettings, version: str | None, signed: Signature) -> PublicationResult:
    """Activate a model again that was active before. None: the one before the present one, then the one before that.

    Raises PublishError where there is none, PublishConflict where another one becomes active meanwhile.
    """

    async def go() -> PublicationResult:
        found = await _read(settings)
        way = way_back(found.history)
        if version is not None:
            _require(found, version)
        if len(way) < 2:
            raise PublishError(
                f"there is nothing to go back to: active is {_told(found)}, and no other was before it.", hint=_LOOK
            )
        target = way[-2].version if version is None else version
        if target not in {past.version for past in way[:-1]} or target == way[-1].version:
            raise PublishError(
                f"model {target} isn't on the way back from {_told(found)}: that is "
                f"{', '.join(past.version for past in reversed(way[:-1]))}.",
                hint=f"`segtrainer promote {target}` activates any model.",
            )
        change = _ModelChange(target, None, signed, rollback=True, event_time=settings.time == "event")
        return await _commit(settings, change, lambda late: _expect_active(late, way[-1].activation))

    return asyncio.run(go())


_LOOK: Final = "`segtrainer list` shows the models."


def _require(found: TopicContents, version: str) -> None:
    if version not in found.versions:
        there = ", ".join(found.versions) or "none"
        raise PublishError(f"no model {version!r} on the models topic; there are: {there}.", hint=_LOOK)


def _told(found: TopicContents) -> str:
    """Say what is active, since when and by whom."""
    now = found.active
    if now is None:
        return "none"
    by, at = now.signature.by, now.signature.at
    return f"{now.version} (activation {now.activation}{f', by {by}' if by else ''}{f' at {at}' if at else ''})"


def _expect_active(found: TopicContents, number: int | None) -> None:
    now = found.active
    if (now.activation if now else None) != number:
        raise PublishConflict(
            f"another model became active meanwhile: {_told(found)}.", hint="Nothing was published. " + _LOOK
        )


async def _read(settings: DeploymentSettings) -> TopicContents:
    async with _translated(settings):
        return await read_published(settings)


async def _commit(settings: DeploymentSettings, change: _ModelChange, check: Any) -> PublicationResult:
    """Fence the others, read past one's own barrier, let `check(TopicContents)` refuse, and write. Raises PublishError."""
    asyncio.get_running_loop().set_exception_handler(_unheard)
    async with _translated(settings), _producer(settings) as producer:
        partitions = await _order_partitions(settings, producer) if change.activate and change.event_time else []
        found = await read_published(settings, past=await _barrier(producer, settings.models_topic))
        check(found)
        async with producer.transaction():
            number = await _written(settings, producer, change, found)
            if change.activate:
                event = encode(
                    ModelActivated(id=f"model.activated:{number}", activation=number, version=change.version)
                )
                for partition in partitions:
                    await _sent(producer, settings.orders_topic, CONTROL_KEY, event, partition)
    return PublicationResult(number if change.activate else None, change.version)


def _unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pass over what a fenced producer tells futures that nobody waits for: the caller hears it by the exception."""
    if not isinstance(context.get("exception"), _FENCED):
        loop.default_exception_handler(context)


async def _written(settings: DeploymentSettings, producer: Any, change: _ModelChange, found: TopicContents) -> int:
    """Write model and pointer, and take the mark of a candidate off what becomes active. Returns the pointer's offset."""
    topic, headers = settings.models_topic, change.signature.headers()
    if change.model is not None and change.version not in found.versions:
        await _sent(producer, topic, change.version.encode(), change.model.to_json(), 0, headers)
    if not change.activate:
        value = msgspec.json.encode(Pointer(change.version))
        return int((await _sent(producer, topic, CANDIDATE_KEY, value, 0, headers)).offset)
    pointer = Pointer(change.version, change.rollback, found.history[-REMEMBERED:])
    written = await _sent(producer, topic, ACTIVE_KEY, msgspec.json.encode(pointer), 0, headers)
    if found.candidate == change.version:
        await _sent(producer, topic, CANDIDATE_KEY, None, 0, headers)
    return int(written.offset)


async def _barrier(producer: Any, topic: str) -> int:
    """Write a record and take it back. Readers of committed records pass its offset, and never see it."""
    await producer.begin_transaction()
    offset = int((await _sent(producer, topic, _BARRIER, b"", 0)).offset)
    await producer.abort_transaction()
    return offset


async def _sent(
    producer: Any,
    topic: str,
    key: bytes,
    value: bytes | None,
    partition: int,
    headers: list[tuple[str, bytes]] | None = None,
) -> Any:
    """Send one record and wait until it is acknowledged: a commit doesn't tell of a send that failed."""
    return await (await producer.send(topic, value, key=key, partition=partition, headers=headers or []))


async def _order_partitions(settings: DeploymentSettings, producer: Any) -> list[int]:
    """Give the partitions of the orders. Raises PublishError where there aren't as many as the deployment has shards."""
    found = sorted(await producer.partitions_for(settings.orders_topic))
    try:
        check_partition_count(settings.orders_topic, len(found), settings.partitions)
    except TopicUnusable as error:
        raise PublishError(str(error)) from None
    return found


def _producer(settings: DeploymentSettings) -> AbstractAsyncContextManager[Any]:
    """Give the one transactional producer of the deployment's trainers. To start it fences any other."""
    return started(
        AIOKafkaProducer(
            **settings.kafka_client(),
            transactional_id=f"{settings.group}-trainer",
            linger_ms=0,
            retry_backoff_ms=10,
            request_timeout_ms=REQUEST_MS,
        )
    )


@asynccontextmanager
async def _translated(settings: DeploymentSettings) -> AsyncIterator[None]:
    """Bound the block in time, and turn Kafka's errors into PublishError."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield
    except _FENCED as error:
        raise PublishConflict(
            "another trainer or promotion began after this one, and goes first.", hint="Nothing was published. " + _LOOK
        ) from error
    except (KafkaError, OSError, AssertionError) as error:  # TimeoutError is an OSError
        what = str(error) or repr(error)
        if isinstance(error, TimeoutError):
            what = f"no end within {TIMEOUT_S:.0f} s (a change under way may be published all the same)"
        raise PublishError(
            f"Kafka at {settings.kafka_bootstrap_servers}: {what}.",
            hint="Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS, that the brokers run, and that no other trainer does.",
        ) from error
