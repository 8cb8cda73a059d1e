"""The export of all customers' figures at one instant: exact, read from the states in Redis page by page."""

from __future__ import annotations

import heapq
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from segmentation.event_text import iso
from segmentation.outlook_figures import outlook_of_lives
from segmentation.rfm import StateFormatError
from stream.customers.export_files import WRITERS, CustomerRow
from stream.customers.figures import figures_at
from stream.errors import SegstreamError
from stream.private_files import private_file
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import require_head
from stream.storage.states import read_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis import Redis

    from segmentation.model_parts import OutlookModel
    from segmentation.rfm import Rules
    from stream.models.topic import PublishedModels
    from stream.settings import Settings

_PAGE: Final = 5_000


class ExportError(SegstreamError):
    """The states can't be exported as asked."""


class ExportReport(msgspec.Struct, frozen=True):
    """The export as of one instant. `behind`: in event time the clock of the shard furthest behind, if earlier."""

    file: str
    customers: int
    incomplete: int
    as_of: str | None  # None: no shard has a record yet
    behind: str | None


class ExportInstant(NamedTuple):
    """The instant as of which all shards are read. `behind_ms`: the clock of the shard furthest behind, if earlier."""

    at_ms: int
    behind_ms: int | None
    partitions: tuple[int, ...]  # of the shards that have records


def export(
    settings: Settings,
    published: PublishedModels,
    out: Path,
    *,
    now_ms: int,
    as_of_ms: int | None = None,
    raw: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Write every customer's figures to a .csv or .parquet file, sorted by id. The file appears when it is complete.

    Only its owner may read it. `raw`: texts of a .csv stay as they are; else an apostrophe keeps spreadsheets from
    taking one for a formula.

    The figures of all are as of `as_of_ms`; None: in event time as of the most advanced shard's clock, in wall time as
    of `now_ms`. Segment and sequence are those published last. A worker may run meanwhile: an order that it adds to a
    customer not read yet counts if it is dated early enough. Raises ExportError, RedisUnreachable.
    """
    if out.suffix.lower() not in WRITERS:
        raise ExportError(f"{out} ends neither in .csv nor in .parquet.", hint="Choose one of these formats.")
    customers, incomplete = 0, 0
    outlook = published.active.outlook if published.active else None
    try:
        with redis_client(settings) as redis:
            instant = instant_of_all(redis, settings, as_of_ms, now_ms)
            rows = _rows(redis, settings, published, instant)
            with private_file(out) as file, WRITERS[out.suffix.lower()](file, raw) as write:
                while page := list(islice(rows, _PAGE)):
                    write(_with_outlook(page, outlook, instant.at_ms))
                    customers += len(page)
                    incomplete += sum(row.incomplete for row in page)
                    if progress:
                        progress(customers)
    except StateFormatError as error:
        raise ExportError(f"a state can't be read: {error}") from error
    except OSError as error:
        raise ExportError(f"{out}: {error.strerror or error}.", hint="Choose a file that can be written.") from error
    return ExportReport(
        str(out),
        customers,
        incomplete,
        iso(instant.at_ms) if instant.partitions else None,
        None if instant.behind_ms is None else iso(instant.behind_ms),
    )


def _with_outlook(page: list[CustomerRow], outlook: OutlookModel | None, at_ms: int) -> list[CustomerRow]:
    figures = outlook_of_lives(outlook, [row.life for row in page], at_ms)
    return [msgspec.structs.replace(row, outlook=one) for row, one in zip(page, figures, strict=True)]


def instant_of_all(redis: Redis, settings: Settings, as_of_ms: int | None, now_ms: int) -> ExportInstant:
    """Return the instant as of which all shards are read. Raises ExportError, ShardUnreadable.

    `as_of_ms` may be at most a grace before a shard's clock: entries that counted earlier may have been dropped since.
    """
    keys = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
    found = {k.partition: require_head(redis, k, settings).clock_ms for k in keys}
    clocks = {partition: clock for partition, clock in found.items() if clock is not None}
    event_time = settings.time == "event"
    at_ms = as_of_ms
    if at_ms is None:
        at_ms = max(clocks.values(), default=0) if event_time else now_ms
    for partition, clock in clocks.items():
        if at_ms < clock - settings.rules.grace:
            raise ExportError(
                f"{iso(at_ms)} is too early: partition {partition} has reached {iso(clock)}, and figures can be "
                f"computed for the last {settings.grace_days} days only.",
                hint=f"For older figures, run `segstream replay FILE --until {iso(at_ms)}` into a separate deployment.",
            )
    behind = min(clocks.values(), default=at_ms)
    return ExportInstant(at_ms, behind if event_time and behind < at_ms else None, tuple(clocks))


def _rows(
    redis: Redis, settings: Settings, published: PublishedModels, instant: ExportInstant
) -> Iterator[CustomerRow]:
    """Yield all customers by id, merged from the shards, each of which is in that order. Raises ExportError."""
    shards = [_of_shard(redis, settings, published, p, instant.at_ms) for p in instant.partitions]
    before = None
    for row in heapq.merge(*shards, key=attrgetter("customer_id")):
        if row.customer_id == before:
            raise ExportError(
                f"customer {row.customer_id!r} is in two shards: the producers of {settings.orders_topic} choose "
                "partitions differently.",
                hint="Let all use one partitioner and name it in SEGSTREAM_PARTITIONER (docs/reference/events.md).",
            )
        before = row.customer_id
        yield row


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
                figures.life,
            )
