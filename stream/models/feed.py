"""The model feed of a worker: follows the models topic, and compiles its models for the step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from segmentation.model import CANDIDATE_KEY, SegmentModel
from segmentation.step import Activation
from stream.errors import WorkerFailed
from stream.kafka.clients import raise_if_denied
from stream.kafka.refusals import denial, explained
from stream.models.topic import ModelAdded, ModelsTopic, RecordRefused
from stream.settings import Settings

log = logging.getLogger(__name__)

STOP_S: Final = 5.0


class ModelFeed:
    """Follows the models topic from its beginning. A broken model is refused, and the last good one stays."""

    def __init__(
        self,
        settings: Settings,
        compile_model: Callable[[SegmentModel, dict[int, str]], Any],
        count_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`compile_model(model, names of all segments)`: to the step's form. `count_refused`: counts for the metric."""
        self._settings = settings
        self._compile = compile_model
        self._count_refused = count_refused
        self._topic = ModelsTopic()
        self._compiled: dict[str, Any] = {}
        self._stopping = asyncio.Event()
        self.refused: dict[str, str] = {}  # version -> reason
        self.caught_up = asyncio.Event()

    def latest(self) -> Activation:
        """Return the newest activation of a usable model; none until the topic was read to its end once.

        Otherwise a new worker would start each activation of the past in turn.
        """
        return self._topic.activation if self.caught_up.is_set() else Activation()

    def active(self) -> SegmentModel | None:
        """Return the model of the newest activation, None before the first."""
        return self._topic.models.get(self.latest().version)

    def refuses(self, version: str) -> bool:
        """Return whether a model of this version was published and can't be used."""
        return version in self.refused

    def compiled(self, version: str) -> Any | None:
        """Return the model of this version in the step's form, None where the topic has no usable one."""
        topic = self._topic
        if version not in self._compiled and version in topic.models:
            self._compiled[version] = self._compile(topic.models[version], dict(topic.names))
        return self._compiled.get(version)

    def stop(self) -> None:
        """Let `run` return soon."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow the topic until stopped. Raises WorkerFailed where it doesn't exist, KafkaUnreachable."""
        topic = self._settings.models_topic
        consumer = AIOKafkaConsumer(
            **self._settings.kafka_client(),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        try:
            await self._start(consumer)
            if topic not in await consumer.topics():
                raise WorkerFailed(
                    f"topic {topic!r} doesn't exist.", hint="`segstream topics create` makes all of them."
                )
            tp = TopicPartition(topic, 0)
            consumer.assign([tp])
            await consumer.seek_to_beginning(tp)
            end = (await consumer.end_offsets([tp]))[tp]
            while not self._stopping.is_set():
                try:
                    answer = await consumer.getmany(tp, timeout_ms=200)
                except KafkaError as error:
                    if denied := denial(self._settings, error):
                        raise denied from error
                    log.warning("the models topic can't be read: %s", error)
                    await asyncio.sleep(1)
                    continue
                for record in answer.get(tp, []):
                    self.take(record.key, record.value, record.offset)
                if not self.caught_up.is_set() and await consumer.position(tp) >= end:
                    self.caught_up.set()
        finally:
            # After a denial it may hang; the denial is what ends the worker.
            with suppress(Exception):
                await asyncio.wait_for(consumer.stop(), STOP_S)

    async def _start(self, consumer: AIOKafkaConsumer) -> None:
        try:
            await consumer.start()
            await raise_if_denied(consumer, [self._settings.models_topic])
        except (KafkaError, OSError) as error:
            raise await explained(self._settings, error) from error

    def take(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        """Take the next record of the topic."""
        change = self._topic.take(key, value, offset)
        if isinstance(change, RecordRefused) and key != CANDIDATE_KEY:
            if change.version is not None:
                self.refused[change.version] = change.message
            log.error("%s", change.message)
            self._count_refused()
        elif isinstance(change, ModelAdded):
            self._compiled.clear()  # compiled models hold the names of all segments
            for warning in change.model.warnings():
                log.warning("model %s: %s", change.model.version, warning)
