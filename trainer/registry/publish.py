"""Publish a model on the models topic, or activate another one: in one transaction, and without overwriting others.

All writers share one transactional id. The last one to start fences the others, writes a barrier (a transaction that is
aborted, so that no reader ever sees it), and reads the topic past it: then all other transactions are decided. If
another model is active than the caller expected, nothing is written. Of two writers at once, one succeeds and the other
gets PublishConflict.
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
from stream.kafka.aiokafka_internals import TransactionInDoubt, end_transactions_once
from stream.kafka.clients import TopicUnusable, check_partition_count, raise_if_denied
from stream.kafka.refusals import explained
from trainer.errors import PublishConflict, PublishError
from trainer.registry.contents import REMEMBERED, Pointer, Signature, TopicContents, read_published, rollback_path
from trainer.registry.topic import REQUEST_MS, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream.settings import DeploymentSettings
    from trainer.training.naming import Lineage

TIMEOUT_S: Final = 30.0  # for all of a reading, or of a transaction
_BARRIER: Final = b"barrier"
# InvalidProducerEpoch: raised for one of two producers that start at the same moment.
_FENCED: Final = (ProducerFenced, InvalidProducerEpoch)


@dataclass(frozen=True, slots=True)
class PublicationResult:
    """A publication or activation. `number`: the offset of its `active` record; None for a candidate."""

    number: int | None
    version: str


@dataclass(frozen=True, slots=True)
class _ModelChange:
    """The change to write. `model`: None where it is on the topic already."""

    version: str
    model: SegmentModel | None
    signature: Signature
    activate: bool = True
    rollback: bool = False
    event_time: bool = False


def read_models(settings: DeploymentSettings) -> TopicContents:
    """Read the models topic to its end. Unreadable records are skipped, as by the worker. Raises PublishError."""
    return asyncio.run(_read(settings))


def read_lineage(settings: DeploymentSettings) -> Lineage:
    """Return what a training needs to know of the published models. Raises PublishError."""
    return read_models(settings).lineage()


async def active_model(settings: DeploymentSettings) -> SegmentModel | None:
    """Return the active model, or None. Raises PublishError."""
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
    """Publish a model in one transaction. Raises PublishError.

    1. Write the model under its version, unless it is there: an activation must follow its model after compaction too.
    2. Write the version under `active` (or `candidate`). The offset of this record is the number of the activation.
    3. In event time, if activated: write `model.activated` to every partition of the orders, where the model starts.

    `expected`: the published models when the training began. Raises PublishConflict where another model has become
    active since, or where another one has taken the ids of this one's new segments.
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
                "another model was published meanwhile, and its new segments have the same ids as those of "
                f"{model.version}.",
                hint="Nothing was published: run the training again.",
            )

    return asyncio.run(_commit(settings, change, check))


def promote(
    settings: DeploymentSettings, version: str, signed: Signature, *, expected: str | None = None
) -> PublicationResult:
    """Activate a model that is on the topic. Raises PublishError where it isn't there, or is active already.

    `expected`: the version that must be active ("": none may be); None: the one that is active as this begins. Raises
    PublishConflict where another one is active.
    """

    async def go() -> PublicationResult:
        found = await _read(settings)
        _require(found, version)
        now = found.active
        if expected is not None and expected != (now.version if now else ""):
            raise PublishConflict(f"the active model is {_active(found)}, expected {expected or 'none'}.", hint=_LOOK)
        if now and now.version == version:
            raise PublishError(f"model {version} is active already (activation {now.activation}).")
        change = _ModelChange(version, None, signed, event_time=settings.time == "event")
        return await _commit(settings, change, lambda late: _expect_active(late, now.activation if now else None))

    return asyncio.run(go())


def roll_back(settings: DeploymentSettings, version: str | None, signed: Signature) -> PublicationResult:
    """Activate a model that was active before; None: the one before the current one, and next time the one before that.

    Raises PublishError where there is none, PublishConflict where another one becomes active meanwhile.
    """

    async def go() -> PublicationResult:
        found = await _read(settings)
        path = rollback_path(found.history)
        if version is not None:
            _require(found, version)
        if len(path) < 2:
            raise PublishError(
                f"there is no model to roll back to: the active model is {_active(found)}, and none was active before.",
                hint=_LOOK,
            )
        target = path[-2].version if version is None else version
        if target not in {past.version for past in path[:-1]} or target == path[-1].version:
            raise PublishError(
                f"model {target} can't be rolled back to from {_active(found)}; possible: "
                f"{', '.join(past.version for past in reversed(path[:-1]))}.",
                hint=f"`segtrainer promote {target}` activates any model.",
            )
        change = _ModelChange(target, None, signed, rollback=True, event_time=settings.time == "event")
        return await _commit(settings, change, lambda late: _expect_active(late, path[-1].activation))

    return asyncio.run(go())


_LOOK: Final = "`segtrainer list` shows the models."


def _require(found: TopicContents, version: str) -> None:
    if version not in found.versions:
        there = ", ".join(found.versions) or "none"
        raise PublishError(f"no model {version!r} on the models topic; there are: {there}.", hint=_LOOK)


def _active(found: TopicContents) -> str:
    """Return the active version, with the number, writer and time of its activation."""
    now = found.active
    if now is None:
        return "none"
    by, at = now.signature.by, now.signature.at
    return f"{now.version} (activation {now.activation}{f', by {by}' if by else ''}{f' at {at}' if at else ''})"


def _expect_active(found: TopicContents, number: int | None) -> None:
    now = found.active
    if (now.activation if now else None) != number:
        raise PublishConflict(
            f"another model became active meanwhile: {_active(found)}.", hint="Nothing was published. " + _LOOK
        )


async def _read(settings: DeploymentSettings) -> TopicContents:
    async with _translated(settings):
        return await read_published(settings)


async def _commit(settings: DeploymentSettings, change: _ModelChange, check: Any) -> PublicationResult:
    """Fence other writers, read past the barrier, let `check(TopicContents)` raise, and write. Raises PublishError."""
    asyncio.get_running_loop().set_exception_handler(_ignore_fenced)
    async with _translated(settings), _producer(settings) as producer:
        partitions = await _order_partitions(settings, producer) if change.activate and change.event_time else []
        found = await read_published(settings, past=await _barrier(producer, settings.models_topic))
        check(found)
        async with producer.transaction():
            number = await _write_change(settings, producer, change, found)
            if change.activate:
                event = encode(
                    ModelActivated(id=f"model.activated:{number}", activation=number, version=change.version)
                )
                for partition in partitions:
                    await _sent(producer, settings.orders_topic, CONTROL_KEY, event, partition)
    return PublicationResult(number if change.activate else None, change.version)


def _ignore_fenced(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignore the errors of a fenced producer in futures that nothing awaits: the caller gets the exception."""
    if not isinstance(context.get("exception"), _FENCED):
        loop.default_exception_handler(context)


async def _write_change(settings: DeploymentSettings, producer: Any, change: _ModelChange, found: TopicContents) -> int:
    """Write model and pointer, and clear the candidate where it becomes active. Return the pointer's offset."""
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
    """Write a record and abort it. Return its offset, which readers of committed records pass without seeing it."""
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
    """Send one record and wait for its acknowledgement: a commit doesn't report a failed send."""
    return await (await producer.send(topic, value, key=key, partition=partition, headers=headers or []))


async def _order_partitions(settings: DeploymentSettings, producer: Any) -> list[int]:
    """Return the partitions of the orders topic. Raises PublishError where their number isn't SEGSTREAM_PARTITIONS."""
    await raise_if_denied(producer, [settings.orders_topic])
    found = sorted(await producer.partitions_for(settings.orders_topic))
    try:
        check_partition_count(settings.orders_topic, len(found), settings.partitions)
    except TopicUnusable as error:
        raise PublishError(str(error)) from None
    return found


def _producer(settings: DeploymentSettings) -> AbstractAsyncContextManager[Any]:
    """Return the transactional producer that all trainers of a deployment share: starting it fences the others."""
    producer = AIOKafkaProducer(
        **settings.kafka_client(),
        transactional_id=f"{settings.group}-trainer",
        linger_ms=0,
        retry_backoff_ms=10,
        request_timeout_ms=REQUEST_MS,
    )
    end_transactions_once(producer)
    return started(producer)


@asynccontextmanager
async def _translated(settings: DeploymentSettings) -> AsyncIterator[None]:
    """Limit the block to TIMEOUT_S, and translate Kafka's errors to PublishError."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield
    except _FENCED as error:
        raise PublishConflict(
            "another training or promotion began after this one, and takes precedence.",
            hint="Nothing was published. " + _LOOK,
        ) from error
    except (KafkaError, OSError, AssertionError) as error:  # TimeoutError is an OSError
        if not isinstance(error, TimeoutError | TransactionInDoubt):
            raise PublishError(str(await explained(settings, error))) from error
        doubt = f"no answer within {TIMEOUT_S:.0f} s" if isinstance(error, TimeoutError) else str(error)
        raise PublishError(
            f"Kafka at {settings.kafka_bootstrap_servers}: {doubt} (the change may still have been published).",
            hint="Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS, that the brokers run, and that no other training does.",
        ) from error
