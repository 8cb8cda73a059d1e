"""A shard's two heads: Kafka's is how far the shard has come, Redis' is how far Redis has followed."""

from __future__ import annotations

from typing import Final, NamedTuple, TypedDict, TypeVar
from zlib import crc32

import msgspec
from msgspec import structs

from segmentation.agreed import Agreed, JudgedBefore
from segmentation.backfills import NONE_OPEN, Backfills
from segmentation.step import Scope

T = TypeVar("T")

FORMAT: Final = 2  # of the states, too; 1 is still read
HEAD_KEY: Final = b"head"  # the two kinds of record on a heads topic
TAKEOVER_KEY: Final = b"takeover"
MARK_HEADER: Final = "segstream_mark"  # S of an output, and the N, T, M of its turn's head
NOTE_HEADER: Final = "segstream_note"  # what `Step.patch` needs of it when a state is patched from the log
GROUP_HEADER: Final = "segstream_group"  # whose output it is: two deployments can't share an output topic
NO_CLOCK: Final = -1  # before the first record (a real clock is never negative)
UNCOUNTED: Final = b"null}"  # the end of a StoreHead without counts; a commit puts the counts in its place


class Fingerprint(msgspec.Struct, frozen=True):
    """Identifies one record of a log: a foreign or recreated topic doesn't have it."""

    offset: int
    timestamp: int
    crc: int

    @classmethod
    def of(cls, offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> Fingerprint:
        """Return the fingerprint of a record as it is read back."""
        return cls(offset, timestamp, crc32(value or b"", crc32(key or b"")))


class KafkaHead(msgspec.Struct, frozen=True):
    """The Kafka head (docs/explanation/exactly-once.md, section 2), written in each turn's transaction."""

    offset: int  # N: of the last input record delivered, + 1
    count: int  # S: number of the last output
    clock: int  # T
    activation: int  # M: 0: none yet
    version: str = ""  # of M's model
    cursor: str | None = None  # rescore: the last customer done; None: none under way
    scope: Scope = Scope.EVERYONE  # the customers that the rescore looks at
    era: int = 0  # of the input: counts how often it began anew. Offsets of two eras aren't compared
    agreed: Agreed | None = None  # the settings behind all this; None: a worker of an earlier version wrote it
    judged: tuple[JudgedBefore, ...] = ()  # earlier settings, where they only judged the records up to an offset
    dead: int | None = None  # the position behind the shard's last dead letter, in their topic; None: not known
    partitions: int = 0  # of the topics, as its writer knew them; 0: a version that didn't note it
    changes: int = 0  # of the settings so far; 0 also: a version that didn't count them
    reread: int = 0  # the number of the last change after which all records were read again; 0: there was none
    format: int = FORMAT


class TakeoverRecord(msgspec.Struct, frozen=True):
    """Names the worker that took the shard over. A worker that reads a higher generation than its own stands down."""

    generation: int
    member: str
    at: int  # ms


class Stored(NamedTuple):
    """The number of entries in each of a shard's keys in Redis, besides its head."""

    states: int
    customers: int
    due: int
    tombstones: int
    pieces: int = 0  # of large states


class StoreHead(msgspec.Struct, frozen=True):
    """The Redis head (docs/explanation/exactly-once.md, section 2), and what identifies the logs it belongs to."""

    token: str  # anew with every takeover
    turn: int  # counts commits, so that no two heads are alike
    offset: int  # R
    position: int  # C: in the output partition
    count: int  # S
    clock: int  # T
    merge_clock: int  # the clock at R; behind T only while a takeover is absorbing R..N
    activation: int  # M
    version: str
    cursor: str | None  # rescore: the last customer done; None: none under way
    quiet: str | None  # rescore: the moves of customers up to here are published already ("": none, None: all)
    cluster: str  # Kafka's cluster id
    partitions: tuple[int, int]  # of the input and the output topic
    read: Fingerprint | None = None  # the last input record before R
    written: Fingerprint | None = None  # the output record S
    scope: Scope = Scope.EVERYONE  # of the rescore
    backfills: Backfills = NONE_OPEN
    era: int = 0  # of the input that R belongs to
    agreed: Agreed | None = None  # the settings behind the states and due times; None: as in Kafka's head
    stripped: str | None = None  # states are being emptied, to be read again: the last customer done; None: they aren't
    former: int = 0  # partitions before the last `segstream reshard`; 0: there was none
    changes: int = 0  # of the settings, as far as the states and due times have followed them
    # States of a former format are being rewritten: the last customer done; None: there are none left.
    rewritten: str | None = None
    sides: dict[str, int] = {}  # by topic of a side input: the offset behind the last record joined to the states
    format: int = FORMAT
    # What the commit left in the other keys; None: not counted yet. The last field: the script of a commit appends it.
    stored: Stored | None = None

    @property
    def clock_ms(self) -> int | None:
        """The shard's clock; None: it has had no record yet."""
        return None if self.clock == NO_CLOCK else self.clock

    def scope_with_released(self) -> Scope:
        """Return the scope of the rescore that begins where a backfill ends.

        Where a rescore is under way already, the new one covers its customers too.
        """
        return Scope.RELEASED if self.cursor is None else self.scope


class HeadChange(TypedDict, total=False):
    """The fields of a StoreHead that a commit changes. `turn` and `stored` count by themselves; the rest stays."""

    token: str
    offset: int
    position: int
    count: int
    clock: int
    merge_clock: int
    activation: int
    version: str
    cursor: str | None
    quiet: str | None
    read: Fingerprint | None
    written: Fingerprint | None
    scope: Scope
    backfills: Backfills
    agreed: Agreed | None
    stripped: str | None
    changes: int
    rewritten: str | None
    sides: dict[str, int]


_encoder = msgspec.json.Encoder()
_kafka_head = msgspec.json.Decoder(KafkaHead)
_store_head = msgspec.json.Decoder(StoreHead)
_takeover = msgspec.json.Decoder(TakeoverRecord)


def encode_head(head: KafkaHead | StoreHead | TakeoverRecord) -> bytes:
    """Encode a head; equal heads have equal bytes."""
    return _encoder.encode(head)


def decode_kafka_head(value: bytes) -> KafkaHead:
    """Decode a KafkaHead. Raises msgspec.DecodeError, also for another format."""
    head = _decoded(_kafka_head, value)
    _check_format(head.format)
    return structs.replace(head, format=FORMAT)  # what is written from here on is of this version


def decode_store_head(value: bytes) -> StoreHead:
    """Decode a StoreHead. Raises msgspec.DecodeError, also for another format."""
    head = _decoded(_store_head, value)
    _check_format(head.format)
    # What is written from here on is of this version. Under a head of a former one, so are the states.
    return head if head.format == FORMAT else structs.replace(head, format=FORMAT, rewritten="")


def _check_format(found: int) -> None:
    """Refuse the head of a version whose fields may mean something else: written back, it would lose them."""
    if not 1 <= found <= FORMAT:
        raise msgspec.DecodeError(f"it has format {found}, expected at most {FORMAT}: run the version that wrote it")


def decode_takeover(value: bytes) -> TakeoverRecord:
    """Decode a TakeoverRecord. Raises msgspec.DecodeError."""
    return _decoded(_takeover, value)


class _Counted(msgspec.Struct):
    """The one field of a StoreHead that its reader compares with the other keys."""

    stored: Stored | None = None


_counted = msgspec.json.Decoder(_Counted)


def stored_of(raw: bytes) -> Stored | None:
    """Return the counts in a head's bytes; None: it has none, or it isn't a head."""
    try:
        return _decoded(_counted, raw).stored
    except msgspec.DecodeError:
        return None


def with_stored(head: bytes, stored: Stored) -> bytes:
    """Return the bytes of a head with these counts. `head`: its bytes without any.

    A former version knows four counts: it is to refuse the head for its format, which it names.

    >>> with_stored(b'{"turn":1,"stored":null}', Stored(2, 2, 1, 0))
    b'{"turn":1,"stored":[2,2,1,0]}'
    """
    return head.removesuffix(UNCOUNTED) + _encoder.encode(stored if stored.pieces else stored[:4]) + b"}"


def _decoded(decoder: msgspec.json.Decoder[T], value: bytes) -> T:
    try:
        return decoder.decode(value)
    except UnicodeDecodeError as error:  # of a text within it: msgspec doesn't translate that
        raise msgspec.DecodeError(str(error)) from None


def first_head(cluster: str, partitions: tuple[int, int], begin: int) -> StoreHead:
    """Return the head of a shard before its first record. `begin`: where the input log starts."""
    return StoreHead(
        token="", turn=0, offset=begin, position=0, count=0, clock=NO_CLOCK, merge_clock=NO_CLOCK, activation=0,
        version="", cursor=None, quiet="", cluster=cluster, partitions=partitions,
    )  # fmt: skip
