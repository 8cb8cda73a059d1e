"""One customer in the shards in Redis: every key of every shard of both steps is read, by the key's type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from stream.storage.keys import SALT_FIELD, tombstone
from stream.storage.remains import opened_remains
from stream.storage.states import whole_states
from stream.traces.mentions import Mentions
from stream.traces.person import Person, person_of
from stream.traces.places import ShardPlace, shard_places, status_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from redis import Redis

    from stream.settings import Settings

_SHARDS_AT_ONCE: Final = 200  # in one pipeline
_SEARCHED: Final = frozenset({"none", "hash", "zset", "set", "string"})  # types of keys; "none": there is no such key


class StoredTrace(msgspec.Struct, frozen=True):
    """One key of a shard that names the customer: a hash's value or a text in base64, or a sorted set's score."""

    key: str
    partition: int
    value: bytes | None = None
    score: float | None = None


class ShardHolding(NamedTuple):
    """The contents of one shard about the customer. `place.scoring` says of which step."""

    place: ShardPlace
    state: bytes | None  # under the customer's id
    tombstone: bytes | None  # under the hash of it, without its seal
    due_ms: int | None
    listed: bool  # in the list of customers
    stopped_at: bool  # a rescore has stopped at the customer: the head names it until the next slice
    others: list[StoredTrace]  # in keys that this version doesn't know by name
    unread: list[str]  # keys of a type that can't be searched
    other_salt: bool  # the shard's tombstones have another salt than SEGSTREAM_ERASURE_SALT: they can't be found

    @property
    def found(self) -> bool:
        """Whether anything but the tombstone names the customer."""
        return self.state is not None or self.due_ms is not None or self.listed or bool(self.others)

    def traces(self) -> list[StoredTrace]:
        """Return every trace, the tombstone too."""
        keys, partition = self.place.keys, self.place.keys.partition
        found = [
            StoredTrace(keys.states, partition, value=self.state) if self.state is not None else None,
            StoredTrace(keys.tombstones, partition, value=self.tombstone) if self.tombstone is not None else None,
            StoredTrace(keys.due, partition, score=self.due_ms) if self.due_ms is not None else None,
            StoredTrace(keys.customers, partition, score=0) if self.listed else None,
            StoredTrace(keys.head, partition) if self.stopped_at else None,
        ]
        return [trace for trace in found if trace is not None] + self.others


class PersonHoldings(NamedTuple):
    """The contents of all shards about each id of a customer."""

    person: Person
    by_id: dict[str, list[ShardHolding]]

    def all(self) -> list[ShardHolding]:
        """Return those about any id."""
        return [holding for holdings in self.by_id.values() for holding in holdings]


def holdings_of(redis: Redis, settings: Settings, customer_id: str) -> PersonHoldings:
    """Return what the shards hold of a customer, by any of the ids. Raises StoreUnreadable, RedisError."""
    person = person_of(redis, settings, customer_id)
    by_id = {known: list(shard_holdings(redis, settings, Mentions.of(settings, known))) for known in person.ids}
    return PersonHoldings(person, by_id)


def shard_holdings(redis: Redis, settings: Settings, mentions: Mentions) -> Iterator[ShardHolding]:
    """Yield what each shard holds of a customer, also where it holds nothing. Raises RedisError."""
    places = shard_places(settings)
    salt = settings.salt
    for at in range(0, len(places), _SHARDS_AT_ONCE):
        some = places[at : at + _SHARDS_AT_ONCE]
        names = [name for place in some for name in place.keys.all()]
        types = iter(_asked(redis, (("TYPE", name) for name in names)))
        kinds = {name: cast("bytes", next(types)).decode() for name in names}
        asked = [name for name in names if kinds[name] in _SEARCHED - {"none"}]
        answers = _asked(redis, (_question(name, kinds[name], mentions) for name in asked))
        raws = dict(zip(asked, answers, strict=True))
        for place in some:
            found = {name: _KeyAnswer.of(kinds[name], raws.get(name)) for name in place.keys.all()}
            holding = _holding(place, found, mentions, salt)
            [state] = whole_states(redis, place.keys, [mentions.customer_id.encode()], [holding.state])
            yield holding._replace(state=state)


def status_texts(redis: Redis, settings: Settings, mentions: Mentions) -> list[str]:
    """Return the keys of statuses whose texts name the customer. Raises RedisError."""
    found = []
    for key in status_places(settings):
        rows = cast("dict[bytes, bytes]", redis.hgetall(key))
        if any(mentions.in_text(value.decode(errors="replace")) for value in rows.values()):
            found.append(key)
    return found


class _KeyAnswer(NamedTuple):
    """The customer's part of a key. `salt`: the mark of the tombstones' salt."""

    kind: str
    under_id: bytes | None = None
    under_hash: bytes | None = None
    salt: bytes | None = None
    score: float | None = None
    text: bytes = b""

    @classmethod
    def of(cls, kind: str, raw: Any) -> _KeyAnswer:
        """Return the answer to the question for this type. `raw`: Redis' answer, None where nothing was asked."""
        if kind == "hash":
            return cls(kind, *raw)
        if kind == "zset":
            return cls(kind, score=raw)
        if kind == "set":
            return cls(kind, score=1.0 if raw else None)
        return cls(kind, text=raw or b"")

    def names(self, mentions: Mentions) -> bool:
        """Return whether the key names the customer, by id or hash, whatever it is for."""
        found = self.under_id, self.under_hash, self.score
        return found != (None, None, None) or mentions.in_text(self.text.decode(errors="replace"))


def _asked(redis: Redis, calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    pipe: Any = redis.pipeline(transaction=False)
    for call in calls:
        pipe.execute_command(*call)
    answers: list[Any] = pipe.execute()
    return answers


def _question(name: str, kind: str, mentions: Mentions) -> tuple[Any, ...]:
    """Return the command that searches a key of this type."""
    customer = mentions.customer_id.encode()
    return {
        "hash": ("HMGET", name, customer, mentions.hash, SALT_FIELD),
        "zset": ("ZSCORE", name, customer),
        "set": ("SISMEMBER", name, customer),
        "string": ("GET", name),
    }[kind]


def _holding(place: ShardPlace, found: dict[str, _KeyAnswer], mentions: Mentions, salt: bytes) -> ShardHolding:
    keys = place.keys
    due, left = found[keys.due].score, found[keys.tombstones]
    known = {keys.head, keys.states, keys.pieces, keys.due, keys.customers, keys.tombstones}
    others = {name: answer for name, answer in found.items() if name not in known and answer.names(mentions)}
    return ShardHolding(
        place,
        state=found[keys.states].under_id,
        tombstone=left.under_hash and opened_remains(left.under_hash, mentions.customer_id.encode(), salt),
        due_ms=None if due is None else int(due),
        listed=found[keys.customers].score is not None,
        stopped_at=mentions.is_cursor_of(found[keys.head].text),
        others=[
            StoredTrace(name, keys.partition, value=a.under_id or a.under_hash or a.text or None, score=a.score)
            for name, a in others.items()
        ],
        unread=[name for name, answer in found.items() if answer.kind not in _SEARCHED],
        other_salt=left.salt is not None and left.salt != tombstone(b"", salt),
    )
