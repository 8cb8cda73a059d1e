"""All that is held of one customer, as a ZIP file: for a person who asks for it (a data-subject request).

The file has a manifest, the customer's states as reports, the keys of Redis that name the customer, and the records of
each topic. Records that may be somebody else's are listed by their coordinates alone.
"""

from __future__ import annotations

import base64
import time
import zipfile
from contextlib import contextmanager
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from segmentation.campaign_state import CampaignFormatError
from segmentation.event_text import iso
from stream.clock import now_ms
from stream.customers.campaigns import campaign_names, campaign_states, in_campaigns
from stream.customers.lookup import CustomerUnreadable, reports
from stream.errors import SegstreamError
from stream.private_files import private_file
from stream.storage.client import redis_client
from stream.storage.reads import StoreUnreadable
from stream.traces.mentions import Mention, Mentions
from stream.traces.person import person_of
from stream.traces.places import OUTSIDE, topic_places
from stream.traces.record_traces import SearchedPartition, TopicSearch, records_about, records_to_read
from stream.traces.shard_traces import shard_holdings, status_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis import Redis

    from stream.models.topic import PublishedModels
    from stream.settings import Settings

FORMAT: Final = 1
_MOST_POSSIBLE: Final = 1_000  # coordinates of a topic that the manifest lists
_NAMED_SETTINGS: Final = ("group", "time", "currency", "partitions", "partitioner", "window_days", "grace_days")


class EverythingNotWritten(SegstreamError):
    """The file can't be written."""


class Coordinates(msgspec.Struct, frozen=True):
    """A record that has the customer's id somewhere, but may be about somebody else."""

    partition: int
    offset: int


class SearchedTopic(msgspec.Struct, frozen=True):
    """A topic and the offsets that were read.

    `file` has the `found` records. `possible` counts those that a person has to look at, and `coordinates` lists the
    first 1,000 of them.
    """

    topic: str
    exists: bool
    partitions: list[SearchedPartition]
    records: int
    found: int
    file: str
    possible: int
    coordinates: list[Coordinates]


class Everything(msgspec.Struct, frozen=True):
    """The manifest: what was searched, from where to where and when, what was found, and what could not be searched."""

    format: int
    segstream: str
    customer_id: str
    ids: list[str]  # of the same customer: each has records of its own in the topics
    began_at: str
    ended_at: str
    settings: dict[str, Any]
    states: int
    tombstones: int
    redis_keys: int
    shards_read: int
    topics: list[SearchedTopic]
    not_searched: list[str]

    @property
    def records(self) -> int:
        """The number of records found, in all topics."""
        return sum(topic.found for topic in self.topics)

    @property
    def possible(self) -> int:
        """The number of records that a person has to look at."""
        return sum(topic.possible for topic in self.topics)


class EverythingReport(msgspec.Struct, frozen=True):
    """The outcome of an export. `complete`: every place of the deployment could be searched."""

    file: str
    complete: bool
    manifest: Everything


async def export_everything(
    settings: Settings,
    published: PublishedModels,
    customer_id: str,
    out: Path,
    *,
    replace: bool = False,
    progress: Callable[[int], None] | None = None,
) -> EverythingReport:
    """Write all that is held of a customer to a file that only its owner may read. It appears when it is complete.

    `progress` gets the number of records read. Memory is bounded, however long the topics are. Raises
    EverythingNotWritten, KafkaUnreachable, RedisUnreachable.
    """
    mentions = Mentions.of(settings, customer_id)
    try:
        with private_file(out, replace=replace) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            export = _Export(settings, mentions, archive)
            export.redis(published)
            await export.kafka(progress)
            manifest = export.manifest()
            with export.entry("manifest.json") as entry:
                entry.write(msgspec.json.format(msgspec.json.encode(manifest)))
    except FileExistsError:
        raise EverythingNotWritten(f"{out} exists.", hint="Choose another name, or replace it with --force.") from None
    except OSError as error:
        raise EverythingNotWritten(
            f"{out}: {error.strerror or error}.", hint="Choose a file that can be written."
        ) from error
    return EverythingReport(str(out), not export.failures, manifest)


async def records_held(settings: Settings, customer_id: str) -> int:
    """Return how many records an export reads at most, for its progress. Raises KafkaUnreachable."""
    return await records_to_read(settings, topic_places(settings), customer_id)


class _Export:
    """One export while it is made."""

    def __init__(self, settings: Settings, mentions: Mentions, archive: zipfile.ZipFile) -> None:
        self._settings = settings
        self._mentions = mentions
        self._archive = archive
        self._began_ms = now_ms()
        self._ids = [mentions.customer_id]
        self._states = self._tombstones = self._keys = self._shards = 0
        self._topics: list[SearchedTopic] = []
        self.failures: list[str] = []

    @contextmanager
    def entry(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file of the archive."""
        info = zipfile.ZipInfo(name, time.gmtime(self._began_ms / 1000)[:6])
        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
        with self._archive.open(info, "w", force_zip64=True) as file:
            yield file

    def redis(self, published: PublishedModels) -> None:
        """Write the states and every key that names the customer."""
        with redis_client(self._settings) as redis:
            holdings = list(shard_holdings(redis, self._settings, self._mentions))
            with self.entry("redis/keys.jsonl") as file:
                for trace in (trace for holding in holdings for trace in holding.traces()):
                    self._keys += 1
                    _write_line(file, trace)
                for key in status_texts(redis, self._settings, self._mentions):
                    self._keys += 1
                    _write_line(file, {"key": key})
            with self.entry("redis/states.jsonl") as file:
                try:
                    self._ids = list(person_of(redis, self._settings, self._mentions.customer_id).ids)
                    for report in reports(redis, self._settings, published, self._mentions.customer_id, now_ms()):
                        _write_line(file, report)
                except (CustomerUnreadable, StoreUnreadable) as error:
                    # The bytes are among the keys.
                    self.failures.append(f"a state: {error}")
            with self.entry("redis/campaigns.jsonl") as file:
                self._campaigns(redis, file)
        self._shards = len(holdings)
        self._states = sum(holding.state is not None for holding in holdings)
        self._tombstones = sum(holding.tombstone is not None for holding in holdings)
        for holding in holdings:
            self.failures += [f"the key {key} has a type that can't be searched" for key in holding.unread]
            if holding.other_salt:
                self.failures.append(f"the tombstones of shard {holding.place.keys.shard}: they have another salt")

    def _campaigns(self, redis: Redis, file: IO[bytes]) -> None:
        """Write what the shards of the campaign step know: the profile, what waits, and the last actions."""
        names = campaign_names(self._settings)
        for keys, state in campaign_states(redis, self._settings, self._mentions.customer_id):
            if isinstance(state, CampaignFormatError):
                self.failures.append(f"a state of campaigns: {state}")
            else:
                _write_line(file, in_campaigns(self._mentions.customer_id, keys.partition, state, names))

    async def kafka(self, progress: Callable[[int], None] | None) -> None:
        """Write the records of each topic."""
        before = 0
        for place in topic_places(self._settings):
            search = TopicSearch(place)
            base = before
            show = None if progress is None else (lambda done, base=base: progress(base + done))
            await self._topic(search, show)
            before += search.records
            if progress:
                progress(before)

    async def _topic(self, search: TopicSearch, show: Callable[[int], None] | None) -> None:
        name = f"kafka/{search.place.topic}.jsonl"
        found, possible, coordinates = 0, 0, []
        with self.entry(name) as file:
            async for record, mention in records_about(self._settings, search, self._mentions, progress=show):
                if mention is Mention.CERTAIN:
                    found += 1
                    _write_line(file, record_line(record))
                    continue
                possible += 1
                if possible <= _MOST_POSSIBLE:
                    coordinates.append(Coordinates(record.partition, record.offset))
        if search.failure:
            self.failures.append(f"the topic {search.place.topic}, to its end: {search.failure}")
        self._topics.append(
            SearchedTopic(
                search.place.topic,
                search.exists,
                search.partitions,
                search.records,
                found,
                name,
                possible,
                coordinates,
            )
        )

    def manifest(self) -> Everything:
        """Return what was done."""
        return Everything(
            FORMAT,
            version("segstream"),
            self._mentions.customer_id,
            self._ids,
            iso(self._began_ms),
            iso(now_ms()),
            {name: getattr(self._settings, name) for name in _NAMED_SETTINGS},
            self._states,
            self._tombstones,
            self._keys,
            self._shards,
            self._topics,
            [*self.failures, *OUTSIDE],
        )


def everything_lines(done: EverythingReport) -> list[str]:
    """Return the outcome of an export as lines for people."""
    found, customer_id = done.manifest, done.manifest.customer_id
    topics = ", ".join(f"{topic.found:,} of {topic.topic}" for topic in found.topics if topic.found)
    lines = [f"{customer_id}: {found.redis_keys} keys of Redis and {found.records:,} records in {done.file}"]
    lines.append(f"  records: {topics or 'none'}")
    if others := [known for known in found.ids if known != customer_id]:
        lines.append(f"  the same customer has other ids, with records of their own: {', '.join(others)}")
    if found.possible:
        lines.append(
            f"  records with the id that may be somebody else's: {found.possible:,}; manifest.json has their "
            "coordinates"
        )
    return [*lines, *(f"  not searched: {place}" for place in found.not_searched)]


def record_line(record: Any) -> dict[str, Any]:
    """Return a record as JSON values: key, value and headers as text, or in base64 where they aren't UTF-8."""
    return {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": iso(record.timestamp) if record.timestamp >= 0 else None,
        **_text("key", record.key),
        **_text("value", record.value),
        "headers": [{"name": name} | _text("value", content) for name, content in record.headers],
    }


def _text(name: str, part: bytes | None) -> dict[str, str | None]:
    """Return bytes under a name that says how they are written.

    >>> _text("key", b"ann"), _text("key", bytes([255]))
    ({'key': 'ann'}, {'key_base64': '/w=='})
    """
    if part is None:
        return {name: None}
    try:
        return {name: part.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(part).decode()}


def _write_line(file: IO[bytes], content: Any) -> None:
    file.write(msgspec.json.encode(content) + b"\n")
