"""The contents of the models topic: every model, every activation with who, when and why, and the candidate."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from segmentation.event_text import iso
from stream.models.topic import ModelAdded, ModelChosen, ModelsTopic, RecordRefused
from trainer.errors import PublishError
from trainer.registry.topic import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from segmentation.model import SegmentModel
    from stream.settings import DeploymentSettings
    from trainer.training.naming import Lineage

log = logging.getLogger(__name__)

# Earlier activations that an `active` record lists: compaction removes all their own records but the last.
REMEMBERED: Final = 200
# Models that were active, of which a report shows the segments.
SHOWN: Final = 8


class Signature(msgspec.Struct, frozen=True):
    """The writer of a record, the time (ISO 8601) and the reason. Each is a header of the record unless it is empty."""

    by: str = ""
    at: str = ""
    reason: str = ""

    @classmethod
    def now(cls, by: str, now_ms: int, reason: str = "") -> Signature:
        """Return a signature as of an instant, ms since 1970.

        >>> Signature.now("ada", 0).headers()
        [('by', b'ada'), ('at', b'1970-01-01T00:00:00.000Z')]
        """
        return cls(by, iso(now_ms), reason)

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the headers of a record."""
        return [(name, text.encode()) for name in self.__struct_fields__ if (text := getattr(self, name))]

    @classmethod
    def of(cls, headers: Iterable[tuple[str, bytes | None]]) -> Signature:
        """Parse the headers of a record, by this trainer or any other writer.

        >>> Signature.of([("by", b"ada"), ("reason", None), ("trace", b"1")])
        Signature(by='ada', at='', reason='')
        """
        return cls(
            **{
                name: (value or b"").decode(errors="replace")
                for name, value in headers
                if name in cls.__struct_fields__
            }
        )


class ActivationRecord(msgspec.Struct, frozen=True):
    """An activation: its number (the offset of its record), version and signature, and whether it was a rollback."""

    activation: int
    version: str
    signature: Signature = Signature()
    rollback: bool = False


class Pointer(msgspec.Struct, frozen=True):
    """The value of the records `active` and `candidate`: a version; `active` also lists the activations before it."""

    version: str
    rollback: bool = False
    before: tuple[ActivationRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """A model, and the signature of its first publication."""

    model: SegmentModel
    signature: Signature


@dataclass(slots=True)
class TopicContents:
    """The contents of the models topic: versions in the order of publication, activations with the current one last."""

    versions: dict[str, Version] = field(default_factory=dict)
    history: tuple[ActivationRecord, ...] = ()
    candidate: str | None = None

    @property
    def active(self) -> ActivationRecord | None:
        """The current activation; None before the first."""
        return self.history[-1] if self.history else None

    def lineage(self) -> Lineage:
        """Return what a training needs to know of the published models."""
        from trainer.training.naming import Lineage

        ids = [segment.id for version in self.versions.values() for segment in version.model.segments]
        now = self.active
        return Lineage(
            active=self.versions[now.version].model if now else None,
            activation=now.activation if now else None,
            highest_id=max(ids, default=0),
            past=self._past(),
        )

    def _past(self) -> tuple[SegmentModel, ...]:
        """Return the last models that were active, each once, the active one last."""
        there = [past.version for past in rollback_path(self.history) if past.version in self.versions]
        latest = list(dict.fromkeys(reversed(there)))[:SHOWN]
        return tuple(self.versions[version].model for version in reversed(latest))


def rollback_path(history: Iterable[ActivationRecord]) -> tuple[ActivationRecord, ...]:
    """Return the activations that rollbacks go back through, the current one last.

    A rollback removes the activations that it skips: after A, B, C and a rollback to B, the next one leads to A.

    >>> a, b, c = (ActivationRecord(number, version) for number, version in enumerate("abc"))
    >>> [past.version for past in rollback_path([a, b, c, ActivationRecord(3, "b", rollback=True)])]
    ['a', 'b']
    """
    path: list[ActivationRecord] = []
    for past in history:
        if past.rollback:
            while path and path[-1].version != past.version:
                path.pop()
            # The same model, under the number of its new activation.
            del path[-1:]
        path.append(past)
    return tuple(path)


async def read_published(settings: DeploymentSettings, *, past: int | None = None) -> TopicContents:
    """Read the models topic to its end, or past an offset, when all transactions before it are decided.

    Unreadable records are skipped, as by the worker. Raises PublishError where a topic is missing, KafkaError.
    """
    return contents(
        await read_whole(settings, settings.models_topic, lambda there: _expect_topics(settings, there), past=past)
    )


def contents(records: Sequence[Any]) -> TopicContents:
    """Fold all records of the topic, in their order. A refused record changes nothing: the last good one stays."""
    topic, found = ModelsTopic(), TopicContents()
    for record in records:
        change = topic.take(record.key, record.value, record.offset)
        if isinstance(change, RecordRefused):
            log.warning("%s", change.message)
        elif isinstance(change, ModelAdded):
            found.versions.setdefault(change.model.version, Version(change.model, Signature.of(record.headers)))
        elif isinstance(change, ModelChosen):
            version = change.activation.version
            pointer = _pointer(record.value, version)
            # A record that was written by hand lists no earlier activations; then those read before it count.
            before = [past for past in pointer.before if past.version in found.versions] or found.history
            now = ActivationRecord(record.offset, version, Signature.of(record.headers), pointer.rollback)
            found.history = (*before, now)[-REMEMBERED:]
    found.candidate = topic.candidate
    return found


def _pointer(value: bytes, version: str) -> Pointer:
    """Parse a pointer with a usable version; where the rest is unreadable, return one with the version alone."""
    try:
        return msgspec.json.decode(value, type=Pointer)
    except msgspec.DecodeError:
        return Pointer(version)


def _expect_topics(settings: DeploymentSettings, existing: set[str]) -> None:
    wanted = {settings.models_topic} | ({settings.orders_topic} if settings.time == "event" else set())
    if missing := sorted(wanted - existing):
        raise PublishError(f"no topic {' and no topic '.join(missing)}.", hint="Run `segstream topics create`.")
