"""What lies on the models topic: every model, every activation with who, when and why, and the candidate."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from segmentation.events import iso
from stream.models.topic import ModelAdded, ModelChosen, ModelsTopic, RecordRefused
from trainer.errors import PublishError
from trainer.registry.topic import read_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from segmentation.model import SegmentModel
    from stream.settings import DeploymentSettings
    from trainer.training.naming import Lineage

log = logging.getLogger(__name__)

# Activations that a pointer remembers: compaction removes their own records, all but the last.
REMEMBERED: Final = 200


class Signature(msgspec.Struct, frozen=True):
    """Who wrote a record, when (ISO 8601), and why. Each is a header of the record; an empty one is left out."""

    by: str = ""
    at: str = ""
    reason: str = ""

    @classmethod
    def now(cls, by: str, now_ms: int, reason: str = "") -> Signature:
        """Sign as of an instant, ms since 1970.

        >>> Signature.now("ada", 0).headers()
        [('by', b'ada'), ('at', b'1970-01-01T00:00:00.000Z')]
        """
        return cls(by, iso(now_ms), reason)

    def headers(self) -> list[tuple[str, bytes]]:
        """Give the headers of a record."""
        return [(name, text.encode()) for name in self.__struct_fields__ if (text := getattr(self, name))]

    @classmethod
    def of(cls, headers: Iterable[tuple[str, bytes | None]]) -> Signature:
        """Read the headers of a record, whoever wrote them.

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
    """An activation: its number (the offset of its record), what it made active, and by whom. `rollback`: went back."""

    activation: int
    version: str
    signature: Signature = Signature()
    rollback: bool = False


class Pointer(msgspec.Struct, frozen=True):
    """The value of the records `active` and `candidate`: which version. Of `active` also what was active before it."""

    version: str
    rollback: bool = False
    before: tuple[ActivationRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """A model as it was first published."""

    model: SegmentModel
    signature: Signature


@dataclass(slots=True)
class TopicContents:
    """The models topic. `versions`: in the order of publication; `history`: activations, the present one last."""

    versions: dict[str, Version] = field(default_factory=dict)
    history: tuple[ActivationRecord, ...] = ()
    candidate: str | None = None

    @property
    def active(self) -> ActivationRecord | None:
        """The activation that is in force; None before the first."""
        return self.history[-1] if self.history else None

    def lineage(self) -> Lineage:
        """Give what a training needs to know of it."""
        from trainer.training.naming import Lineage

        ids = [segment.id for version in self.versions.values() for segment in version.model.segments]
        now = self.active
        return Lineage(
            active=self.versions[now.version].model if now else None,
            activation=now.activation if now else None,
            highest_id=max(ids, default=0),
        )


def way_back(history: Iterable[ActivationRecord]) -> tuple[ActivationRecord, ...]:
    """Give the activations that a rollback goes back through, the present one last.

    A rollback takes away what it goes back over: after A, B, C and a rollback to B the next one leads to A, not to C.

    >>> a, b, c = (ActivationRecord(number, version) for number, version in enumerate("abc"))
    >>> [past.version for past in way_back([a, b, c, ActivationRecord(3, "b", rollback=True)])]
    ['a', 'b']
    """
    way: list[ActivationRecord] = []
    for past in history:
        if past.rollback:
            while way and way[-1].version != past.version:
                way.pop()
            # The same model as before, under the number it has now.
            del way[-1:]
        way.append(past)
    return tuple(way)


async def read_published(settings: DeploymentSettings, *, past: int | None = None) -> TopicContents:
    """Read the models topic to its end, or past an offset: whatever a transaction under way decides before it.

    What can't be read there is skipped, as the worker does. Raises PublishError where a topic is missing, KafkaError.
    """
    return published(
        await read_whole(settings, settings.models_topic, lambda there: _expect_topics(settings, there), past=past)
    )


def published(records: Sequence[Any]) -> TopicContents:
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
            # A record written by hand remembers nothing: then what was read before it counts.
            before = [past for past in pointer.before if past.version in found.versions] or found.history
            now = ActivationRecord(record.offset, version, Signature.of(record.headers), pointer.rollback)
            found.history = (*before, now)[-REMEMBERED:]
    found.candidate = topic.candidate
    return found


def _pointer(value: bytes, version: str) -> Pointer:
    """Read a pointer whose version is usable. What else it says may be anybody's: unreadable, it says nothing."""
    try:
        return msgspec.json.decode(value, type=Pointer)
    except msgspec.DecodeError:
        return Pointer(version)


def _expect_topics(settings: DeploymentSettings, existing: set[str]) -> None:
    wanted = {settings.models_topic} | ({settings.orders_topic} if settings.time == "event" else set())
    if missing := sorted(wanted - existing):
        raise PublishError(f"no topic {' and no topic '.join(missing)}.", hint="Run `segstream topics create`.")
