"""The models topic: one reading of its records, for workers, commands and the trainer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from segmentation.model import ACTIVE_KEY, CANDIDATE_KEY, ModelError, SegmentModel, read_pointer, read_version
from segmentation.step import Activation
from stream.errors import SegstreamError
from stream.kafka.clients import read_topic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream.settings import DeploymentSettings

log = logging.getLogger(__name__)


class NoActiveModel(SegstreamError):
    """Nothing can be scored yet."""


class ModelAdded(NamedTuple):
    """A record holds a usable model."""

    model: SegmentModel


class ModelChosen(NamedTuple):
    """A record makes a model of the topic the active one. Its offset is the number of the activation."""

    activation: Activation


class CandidateChosen(NamedTuple):
    """A record names the candidate; None: there is none any more."""

    version: str | None


class RecordRefused(NamedTuple):
    """A record can't be used. `version`: that of a refused model, its key; None: the record isn't a model."""

    message: str
    version: str | None = None


TopicChange = ModelAdded | ModelChosen | CandidateChosen | RecordRefused


@dataclass(slots=True)
class ModelsTopic:
    """The topic's state after the records taken so far. A refused record changes nothing: the last good one stays."""

    models: dict[str, SegmentModel] = field(default_factory=dict)  # by version, in the order of the topic
    names: dict[int, str] = field(default_factory=dict)  # of every segment by its id, later models over earlier ones
    activation: Activation = field(default_factory=Activation)
    candidate: str | None = None

    def take(self, key: bytes | None, value: bytes | None, offset: int) -> TopicChange | None:
        """Take the next record and return what it changed; None: nothing, for it deletes a model or an activation."""
        try:
            if key == CANDIDATE_KEY:
                return self._choose_candidate(value)
            if value is None:
                return None
            if key == ACTIVE_KEY:
                return self._choose_active(value, offset)
        except ModelError as error:
            pointer = "activation" if key == ACTIVE_KEY else "candidate"
            return RecordRefused(f"the {pointer} at offset {offset} is refused: {error}")
        try:
            model = read_version(key, value)
        except ModelError as error:
            return RecordRefused(
                f"the model {key!r} at offset {offset} is refused: {error}", (key or b"").decode(errors="replace")
            )
        self.models[model.version] = model
        self.names |= {segment.id: segment.name for segment in model.segments}
        return ModelAdded(model)

    def _choose_active(self, value: bytes, offset: int) -> ModelChosen:
        self.activation = Activation(offset, self._known(read_pointer(value)))
        return ModelChosen(self.activation)

    def _choose_candidate(self, value: bytes | None) -> CandidateChosen:
        self.candidate = None if value is None else self._known(read_pointer(value))
        return CandidateChosen(self.candidate)

    def _known(self, version: str) -> str:
        if version not in self.models:
            raise ModelError(f"the topic has no usable model {version!r}; the last good one stays")
        return version


@dataclass(slots=True)
class PublishedModels:
    """The models topic as the commands need it. `names`: segment id -> name, later models over earlier ones."""

    active: SegmentModel | None = None
    names: dict[int, str] = field(default_factory=dict)
    candidate: SegmentModel | None = None
    models: dict[str, SegmentModel] = field(default_factory=dict)  # by version, in the order of the topic

    def require_active(self) -> SegmentModel:
        """Return the active model. Raises NoActiveModel."""
        if self.active is None:
            raise NoActiveModel("no model is active yet.", hint="`segtrainer run` trains one and activates it.")
        return self.active

    def name(self, segment: int) -> str | None:
        """Return the name of a segment id: None for 0 (never announced), `segment-ID` where no model has it."""
        return None if segment == 0 else self.names.get(segment, f"segment-{segment}")


async def read_published(settings: DeploymentSettings) -> PublishedModels:
    """Read the models topic. Raises KafkaUnreachable, TopicUnusable."""
    return published(await read_topic(settings, settings.models_topic))


async def read_active(settings: DeploymentSettings) -> SegmentModel:
    """Read the active model. Raises NoActiveModel, KafkaUnreachable, TopicUnusable."""
    return (await read_published(settings)).require_active()


def published(records: Iterable[Any]) -> PublishedModels:
    """Fold all records of the topic (their `key`, `value`, `offset`), in their order."""
    topic = ModelsTopic()
    for record in records:
        if isinstance(change := topic.take(record.key, record.value, record.offset), RecordRefused):
            log.warning("%s", change.message)
    return PublishedModels(
        active=topic.models.get(topic.activation.version),
        names=topic.names,
        candidate=None if topic.candidate is None else topic.models[topic.candidate],
        models=topic.models,
    )
