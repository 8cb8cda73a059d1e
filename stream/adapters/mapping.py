"""Adapters: mappings that users write from the records of their topics to order events, and the check of their results.

A mapping is a plain function. It gets a `SourceRecord` and returns order events, or nothing:

    adapters = Adapters()

    @adapters.map("shop-orders")
    def to_events(record: SourceRecord) -> OrderPlaced: ...

`segstream adapters --app MODULE:adapters` runs it. docs/how-to/adapters.md describes the guarantees.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from traceback import format_exception_only
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from segmentation.decoder import Reader
from segmentation.events import Control, CustomerEvent, Reason, RejectedEvent, decode
from segmentation.rates import UNCHECKED
from stream.errors import SegstreamError

EVENTS_A_RECORD: Final = 10_000  # of one record at most: a mapping that never ends must not fill the memory
SOURCE_HEADER: Final = "segstream_source"
_OVERHEAD_BYTES: Final = 128  # of a batch of one record in Kafka: 61 bytes, and up to 40 of the record's own
_HEADER_OVERHEAD_BYTES: Final = 10
_ENCODER: Final = msgspec.json.Encoder()

Event = CustomerEvent | Mapping[str, Any] | bytes
"""An input event, or the same as a mapping of its JSON fields, or as JSON."""


class AdapterError(SegstreamError):
    """The adapters are set up wrongly."""


class SourceRecord(Struct, frozen=True):
    """A record as Kafka has it. `timestamp_ms`: ms since 1970, set by producer or broker as the topic says."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def timestamp(self) -> int:
        """The same as `timestamp_ms`, by the name that the engine's records have."""
        return self.timestamp_ms

    def header(self, name: str) -> bytes | None:
        """Return the value of the first header of this name; None where there is none."""
        return next((value for found, value in self.headers if found == name), None)

    def event_id(self, number: int = 0) -> str:
        """Return an id for the record's event: its position in Kafka, so that reading it again changes nothing.

        `number` distinguishes several events of one record. If the source has ids, use them instead: then an order that
        the source has sent twice is recognised, too.

        >>> SourceRecord("shop-orders", 3, 41, 0, None, b"{}").event_id()
        'shop-orders:3:41'
        """
        position = f"{self.topic}:{self.partition}:{self.offset}"
        return f"{position}#{number}" if number else position


Mapper = Callable[[SourceRecord], Event | Iterable[Event] | None]


class Route(NamedTuple):
    """The mapping of one topic's records. `keep_headers`: the orders get the record's headers."""

    mapper: Mapper
    keep_headers: bool = False


class OrderRecord(NamedTuple):
    """A record for the topic of orders."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes | None]]


class Adapters:
    """Mappings by topic."""

    def __init__(self) -> None:
        """Make an empty collection; `map` adds to it."""
        self._routes: dict[str, Route] = {}

    @property
    def routes(self) -> Mapping[str, Route]:
        """The routes by topic, read-only."""
        return MappingProxyType(self._routes)

    def map(self, topic: str, *, keep_headers: bool = False) -> Callable[[Mapper], Mapper]:
        """Decorate the function that maps this topic's records. Raises AdapterError.

        The function returns one event, several, or None for a record that isn't an order. If it raises, the record goes
        to the dead letters. `keep_headers`: the orders get the record's headers (trace ids, for example).
        """

        def add(mapper: Mapper) -> Mapper:
            if inspect.iscoroutinefunction(mapper) or inspect.isasyncgenfunction(mapper):
                name = getattr(mapper, "__name__", mapper)
                raise AdapterError(f"the mapping {name} of {topic} is async.", hint="Make it a plain function.")
            self.add(topic, Route(mapper, keep_headers))
            return mapper

        return add

    def add(self, topic: str, route: Route) -> None:
        """Add a topic's mapping. Raises AdapterError where it has one."""
        if topic in self._routes:
            raise AdapterError(f"the topic {topic} has two mappings.", hint="Let one function map all its records.")
        self._routes[topic] = route


def rekeyed(record: SourceRecord) -> bytes:
    """Return an order event as it is: the ready mapping of `orders-unkeyed`. Raises RejectedEvent."""
    decode(record.value)
    assert record.value is not None, "decode refuses None"
    return record.value


def order_records(record: SourceRecord, route: Route, reader: Reader, now_ms: int) -> list[OrderRecord]:
    """Map a record and check each of its events as a worker would. Raises RejectedEvent: then none may be sent.

    `reader`: a worker's own, in wall time, for an adapter knows no shard's clock. `now_ms`: when the orders would
    arrive.
    """
    try:
        events = list(islice(_events(route.mapper(record)), EVENTS_A_RECORD + 1))
        values = [event if isinstance(event, bytes) else _ENCODER.encode(event) for event in events]
    except RejectedEvent:
        raise
    except Exception as error:
        # Not str(error), which can raise for a user's exception class.
        message = f"the mapping of {record.topic} raised {format_exception_only(error)[-1].strip()}"
        raise RejectedEvent(Reason.ADAPTER_FAILED, None, message) from error
    if len(values) > EVENTS_A_RECORD:
        message = f"the mapping of {record.topic} returned more than {EVENTS_A_RECORD} events for one record."
        raise RejectedEvent(Reason.ADAPTER_FAILED, None, message)
    kept = list(record.headers) if route.keep_headers else []
    source = (SOURCE_HEADER, f"{record.topic}-{record.partition}@{record.offset}".encode())
    headers = [*(h for h in kept if h[0] != SOURCE_HEADER), source]
    return [_checked(value, headers, reader, now_ms) for value in values]


def _events(given: Event | Iterable[Event] | None) -> Iterator[Struct | Mapping[str, Any] | bytes]:
    """Yield the events one by one. Raises TypeError for anything else."""
    if given is None:
        return
    events: Any = given
    if isinstance(given, Mapping | bytes | str) or not isinstance(given, Iterable):
        events = [given]
    for event in events:
        if not isinstance(event, Struct | Mapping | bytes):
            raise TypeError(
                f"{type(event).__name__} returned, expected order events: structs, mappings or bytes of JSON"
            )
        yield event


def _checked(value: bytes, headers: list[tuple[str, bytes | None]], reader: Reader, now_ms: int) -> OrderRecord:
    event = decode(value)
    if isinstance(event, Control):
        raise RejectedEvent(
            Reason.CONTROL_NOT_ALLOWED, "type", "a control event is segstream's own: adapters can't send it."
        )
    key = event.customer_id.encode()
    size = len(key) + len(value) + sum(len(n.encode()) + len(v or b"") + _HEADER_OVERHEAD_BYTES for n, v in headers)
    if size + _OVERHEAD_BYTES > reader.max_event_bytes:
        message = (
            f"the event with key and headers has {size} bytes, the limit is {reader.max_event_bytes - _OVERHEAD_BYTES}."
        )
        raise RejectedEvent(Reason.TOO_LARGE, None, message)
    for dead_letter in reader.read([SourceRecord("", 0, 0, now_ms, key, value)], -1, rates=UNCHECKED).dead:
        raise RejectedEvent(Reason(dead_letter.reason), dead_letter.field, dead_letter.message)
    return OrderRecord(key, value, headers)


def load_adapters(name: str) -> Adapters:
    """Import `MODULE:NAME`. Raises AdapterError."""
    module, _, attribute = name.partition(":")
    hint = "Pass MODULE:NAME, like shop.adapter:adapters; the current folder is on the path."
    if not module or not attribute:
        raise AdapterError(f"--app {name!r} isn't MODULE:NAME.", hint=hint)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise AdapterError(f"--app {name!r}: {error}.", hint=hint) from error
    if not isinstance(found, Adapters):
        raise AdapterError(
            f"--app {name!r} is {type(found).__name__}, expected stream.adapters.mapping.Adapters.", hint=hint
        )
    return found
