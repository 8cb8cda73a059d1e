"""What the commands need of the models topic: the active model, and the name of every segment that there ever was."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segmentation.model import ACTIVE_KEY, CANDIDATE_KEY, ModelError, SegmentModel, read_pointer, read_version
from stream.errors import SegstreamError
from stream.kafka.clients import read_topic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream.settings import Settings

log = logging.getLogger(__name__)


class NoActiveModel(SegstreamError):
    """Nothing can be scored yet."""


@dataclass(slots=True)
class PublishedModels:
    """What lies on the models topic. `names`: segment id -> name, later models over earlier ones."""

    active: SegmentModel | None = None
    names: dict[int, str] = field(default_factory=dict)
    candidate: SegmentModel | None = None
    models: dict[str, SegmentModel] = field(default_factory=dict)  # by version, in the order of the topic

    def require_active(self) -> SegmentModel:
        """Give the active model. Raises NoActiveModel."""
        if self.active is None:
            raise NoActiveModel("no model is active yet.", hint="`segtrainer run` trains one and activates it.")
        return self.active

    def name(self, segment: int) -> str | None:
        """Give the name of a segment id, None for 0 (never announced). One that no model has is told as its number."""
        return None if segment == 0 else self.names.get(segment, f"segment-{segment}")


async def read_published(settings: Settings) -> PublishedModels:
    """Read the models topic. Raises KafkaUnreachable, TopicMissing."""
    records = await read_topic(settings, settings.models_topic)
    return published((record.key, record.value) for record in records)


async def read_active(settings: Settings) -> SegmentModel:
    """Read the active model. Raises NoActiveModel, KafkaUnreachable, TopicMissing."""
    return (await read_published(settings)).require_active()


def published(records: Iterable[tuple[bytes | None, bytes | None]]) -> PublishedModels:
    """Take records (key, value) in their order. A broken model is passed over, as the worker does: the last good one stays."""
    found = PublishedModels()
    for key, value in records:
        if value is None:
            if key == CANDIDATE_KEY:
                found.candidate = None
            continue
        try:
            if key == ACTIVE_KEY:
                found.active = found.models.get(read_pointer(value), found.active)
                continue
            if key == CANDIDATE_KEY:
                found.candidate = found.models.get(read_pointer(value), found.candidate)
                continue
            model = read_version(key, value)
        except ModelError as why:
            log.warning("a record %r of the models topic is passed over: %s", key, why)
            continue
        found.models[model.version] = model
        found.names |= {segment.id: segment.name for segment in model.segments}
    return found
