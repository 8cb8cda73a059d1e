"""Every customer's figures at one instant, as a file: read from the states in Redis, a page at a time, exact to the last digit."""

from __future__ import annotations

import csv
import heapq
import time
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from segmentation.events import iso
from segmentation.money import UNITS, format_units
from segmentation.rfm import StateFormatError
from stream.customers.figures import figures_at
from stream.errors import SegstreamError
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import read_clock, read_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from redis import Redis

    from segmentation.rfm import Rules
    from stream.models.topic import PublishedModels
    from stream.settings import Settings

COLUMNS: Final = ("customer_id", "recency_days", "frequency", "monetary", "segment", "sequence", "incomplete")
_PAGE: Final = 5_000
_MONEY_DIGITS: Final = 19  # of 64 bits


class ExportError(SegstreamError):
    """The states can't be exported so."""


class CustomerRow(msgspec.Struct, frozen=True, gc=False):
    """One customer. `recency_days` is None where no order stands, `segment` where none was ever announced."""

    customer_id: str
    recency_days: float | None
    frequency: int
    monetary_units: int
    segment: str | None
    sequence: int
    incomplete: bool


class ExportReport(msgspec.Struct, frozen=True):
    """What was written, as of one instant. `behind`: how far the last shard has come in event time, if not so far."""

    file: str
    customers: int
    incomplete: int
    as_of: str | None  # None: no shard has begun
    behind: str | None


class ExportInstant(NamedTuple):
    """The instant (ms) as of which all shards are read. `behind_ms`: the clock of the one furthest behind, where that is earlier."""

    at_ms: int
    behind_ms: int | None
    partitions: tuple[int, ...]  # which have begun


class RowWriter(Protocol):
    """Takes lines, in pages."""

    def __call__(self, lines: Sequence[CustomerRow]) -> None:
        """Write them behind those before."""


def export(
    settings: Settings,
    published: PublishedModels,
    out: Path,
    *,
    as_of_ms: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Write every customer's figures to a .csv or .parquet file, which appears when it is whole. Sorted by id, none twice.

    As of `as_of_ms`, or in event time of the clock that has come furthest, in wall time of now; the same instant for all.
    Segment and sequence are those announced last. A worker that runs meanwhile goes on: what it adds to a customer not
    read yet is in the figures, if dated so early. Raises ExportError, RedisUnreachable.
    """
    if out.suffix.lower() not in _WRITERS:
        raise ExportError(f"{out} ends neither in .csv nor in .parquet.", hint="Name the file for what it shall be.")
    customers, incomplete = 0, 0
    part = out.with_name(f".{out.name}.part")
    try:
        with redis_client(settings) as redis:
            instant = instant_of_all(redis, settings, as_of_ms)
            lines = _lines(redis, settings, published, instant)
            with _WRITERS[out.suffix.lower()](part) as write:
                while page := list(islice(lines, _PAGE)):
                    write(page)
                    customers += len(page)
                    incomplete += sum(line.incomplete for line in page)
                    if progress:
                        progress(customers)
        part.replace(out)
    except StateFormatError as error:
        raise ExportError(f"a state can't be read: {error}") from error
    except OSError as error:
        raise ExportError(f"{out}: {error.strerror or error}.", hint="Give a file that can be written.") from error
    finally:
        part.unlink(missing_ok=True)
    return ExportReport(
        str(out),
        customers,
        incomplete,
        iso(instant.at_ms) if instant.partitions else None,
        None if instant.behind_ms is None else iso(instant.behind_ms),
    )


def instant_of_all(redis: Redis, settings: Settings, as_of_ms: int | None) -> ExportInstant:
    """Choose the instant as of which all shards are read. Raises ExportError.

    `as_of_ms` may lie at most a grace before a shard's clock: what counted earlier may have been forgotten since.
    """
    keys = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
    clocks = {k.partition: clock for k in keys if (clock := read_clock(redis, k)) is not None}
    event_time = settings.time == "event"
    at_ms = as_of_ms
    if at_ms is None:
        at_ms = max(clocks.values(), default=0) if event_time else time.time_ns() // 1_000_000
    for partition, clock in clocks.items():
        if at_ms < clock - settings.rules.grace:
            raise ExportError(
                f"{iso(at_ms)} is too early: partition {partition} has come to {iso(clock)}, and only the last "
                f"{settings.grace_days} days can be looked back on.",
                hint=f"For the figures of then: `segstream replay FILE --until {iso(at_ms)}` into a deployment of its own.",
            )
    behind = min(clocks.values(), default=at_ms)
    return ExportInstant(at_ms, behind if event_time and behind < at_ms else None, tuple(clocks))


def _lines(
    redis: Redis, settings: Settings, published: PublishedModels, instant: ExportInstant
) -> Iterator[CustomerRow]:
    """Give all customers, in the order of their ids. Each shard has its own in that order: they are merged. Raises ExportError."""
    shards = [_of_shard(redis, settings, published, p, instant.at_ms) for p in instant.partitions]
    before = None
    for line in heapq.merge(*shards, key=attrgetter("customer_id")):
        if line.customer_id == before:
            raise ExportError(
                f"customer {line.customer_id!r} is in two shards: the producers of {settings.orders_topic} choose partitions differently.",
                hint="Let all use one partitioner and name it in SEGSTREAM_PARTITIONER (docs/reference/events.md).",
            )
        before = line.customer_id
        yield line


def _of_shard(
    redis: Redis, settings: Settings, published: PublishedModels, partition: int, at_ms: int
) -> Iterator[CustomerRow]:
    rules: Rules = settings.rules
    for key, value in read_states(redis, ShardKeys(settings.group, settings.orders_topic, partition)):
        figures = figures_at(value, at_ms, rules)
        if figures is not None:
            yield CustomerRow(
                key.decode(),
                figures.recency_days,
                figures.frequency,
                figures.monetary_units,
                published.name(figures.segment),
                figures.sequence,
                figures.incomplete,
            )


@contextmanager
def _csv(path: Path) -> Iterator[RowWriter]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)

        def write(lines: Sequence[CustomerRow]) -> None:
            writer.writerows(
                (
                    line.customer_id,
                    "" if line.recency_days is None else repr(line.recency_days),
                    line.frequency,
                    format_units(line.monetary_units),
                    line.segment or "",
                    line.sequence,
                    "true" if line.incomplete else "false",
                )
                for line in lines
            )

        yield write


@contextmanager
def _parquet(path: Path) -> Iterator[RowWriter]:
    # Imported here: it takes half a second, which only those who write Parquet should wait for.
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (
        pa.string(),
        pa.float64(),
        pa.int64(),
        pa.decimal128(_MONEY_DIGITS, 4),
        pa.string(),
        pa.int64(),
        pa.bool_(),
    )
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    with pq.ParquetWriter(path, schema) as writer:

        def write(lines: Sequence[CustomerRow]) -> None:
            rows = (
                (
                    line.customer_id,
                    line.recency_days,
                    line.frequency,
                    Decimal(line.monetary_units) / UNITS,
                    line.segment,
                    line.sequence,
                    line.incomplete,
                )
                for line in lines
            )
            columns = zip(*rows, strict=True)
            arrays = [pa.array(column, of) for column, of in zip(columns, types, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))

        yield write


_WRITERS: Final = {".csv": _csv, ".parquet": _parquet}
