"""The model feed: what lies on the models topic, validated at the door and compiled for the step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from segmentation.model import ACTIVE_KEY, CANDIDATE_KEY, ModelError, SegmentModel, read_pointer, read_version
from segmentation.step import Activation
from stream.errors import WorkerFailed
from stream.settings import Settings

log = logging.getLogger(__name__)


class ModelFeed:
    """Follows the models topic from its beginning. A broken model is refused with its reason; the last good one stays."""

    def __init__(
        self,
        settings: Settings,
        compile_model: Callable[[SegmentModel, dict[int, str]], Any],
        count_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`compile_model(model, names of all known segments)` -> the step's own form. `count_refused`: for the metric."""
        self._settings = settings
        self._compile = compile_model
        self._count_refused = count_refused
        self._models: dict[str, SegmentModel] = {}
        self._compiled: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._latest = Activation()
        self._stopping = asyncio.Event()
        self.refused: dict[str, str] = {}  # version -> why
        self.caught_up = asyncio.Event()

    def latest(self) -> Activation:
        """The newest activation whose model is at hand; none until the topic was read to its end once.

        Else a new worker would start each activation of the past in turn.
        """
        return self._latest if self.caught_up.is_set() else Activation()

    def active(self) -> SegmentModel | None:
        """The model of that activation."""
        return self._models.get(self.latest().version)

    def refuses(self, version: str) -> bool:
        """Whether a model of that version was there and can't be used."""
        return version in self.refused

    def compiled(self, version: str) -> Any | None:
        """The model of that version in the step's form; None: not at hand."""
        if version not in self._compiled and version in self._models:
            self._compiled[version] = self._compile(self._models[version], dict(self._names))
        return self._compiled.get(version)

    def stop(self) -> None:
        """`run` returns soon."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow the topic until stopped. Raises WorkerFailed where it doesn't exist."""
        topic = self._settings.models_topic
        consumer = AIOKafkaConsumer(
            **self._settings.kafka_client(),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        await consumer.start()
        try:
            if not await consumer.topics() or topic not in await consumer.topics():
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
                    log.warning("the models topic can't be read: %s", error)
                    await asyncio.sleep(1)
                    continue
                for record in answer.get(tp, []):
                    self.take(record.key, record.value, record.offset)
                if not self.caught_up.is_set() and await consumer.position(tp) >= end:
                    self.caught_up.set()
        finally:
            await consumer.stop()

    def take(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        """One record of the topic."""
        if value is None or key == CANDIDATE_KEY:
            return
        if key == ACTIVE_KEY:
            try:
                version = read_pointer(value)
            except ModelError as error:
                log.error("the activation at offset %d is unreadable: %s", offset, error)  # noqa: TRY400  # the line says it all
                self._count_refused()
                return
            if version in self._models:
                self._latest = Activation(offset, version)
            else:
                log.error("activation %d names model %r, which isn't at hand: the last good one stays", offset, version)
                self._count_refused()
            return
        try:
            model = read_version(key, value)
        except ModelError as why:
            self.refused[(key or b"").decode(errors="replace")] = str(why)
            log.error("model %r is refused: %s", key, why)  # noqa: TRY400  # the line says it all
            self._count_refused()
            return
        self._models[model.version] = model
        self._names |= {segment.id: segment.name for segment in model.segments}
        self._compiled.clear()  # they carry names
        for warning in model.warnings():
            log.warning("model %s: %s", model.version, warning)
