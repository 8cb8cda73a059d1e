"""Malformed records through the real engine and step: each becomes a dead letter, and every good order counts."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from redis import Redis

from segmentation.events import CONTROL_KEY, Reason
from segmentation.partitioners import murmur2
from segmentation.rfm import unpack
from stream.dead_letters.records import KEPT_OF_HUGE, read_dead_letter
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from stream.storage.states import read_states
from stream.worker.steps import scoring_step
from tests.contract.ugly_inputs import UGLY, amount, order
from tests.support.engine.toy_engine import engine, eventually, read_all

HEADERS = [("trace", b"\x00\xff"), ("trace", b"2"), ("", b""), ("absent", None)]


@dataclass
class SentRecord:
    """A record and its place in the topic."""

    key: bytes | None
    value: bytes | None
    reason: str | None  # of the dead letter; None: a good record
    partition: int
    headers: list[tuple[str, bytes | None]] = field(default_factory=lambda: list(HEADERS))
    offset: int = -1


async def send(settings: Settings, records: list[SentRecord], **options: Any) -> None:
    """Send records in order, and note their offsets."""
    options = {"max_request_size": 2 * settings.max_event_bytes} | options
    async with AIOKafkaProducer(**settings.kafka_client(), **options) as producer:
        waiting = [
            await producer.send(settings.orders_topic, r.value, key=r.key, partition=r.partition, headers=r.headers)
            for r in records
        ]
        for record, done in zip(records, await asyncio.gather(*waiting), strict=True):
            record.offset = done.offset


async def taken(settings: Settings, number: int) -> Counter[str]:
    """Let a worker take so many records, with one takeover a shard; return its dead letters by reason (the metric)."""
    async with engine(settings, scoring_step(settings)) as running:
        await eventually(lambda: running.taken() >= number, what="taking everything")
        assert set(running.states().values()) == {"running"}
        (takeovers,) = running.metrics.takeovers.collect()
        assert {s.labels["cause"] for s in takeovers.samples if s.name.endswith("_total")} == {"assigned"}
        (letters,) = running.metrics.dead_letters.collect()
        return Counter({s.labels["reason"]: int(s.value) for s in letters.samples if s.name.endswith("_total")})


async def check_letters(settings: Settings, sent: list[SentRecord]) -> None:
    """Check that each bad record is one whole dead letter, in order, on its partition."""
    letters = await read_all(settings, settings.orders_dead_letters_topic)
    bad = sorted((r for r in sent if r.reason), key=lambda r: (r.partition, r.offset))
    assert len(letters) == len(bad)
    for record, found in zip(bad, letters, strict=True):
        letter = read_dead_letter(found)
        assert (letter.topic, letter.partition, letter.offset) == (
            settings.orders_topic,
            record.partition,
            record.offset,
        )
        assert found.partition == record.partition
        assert letter.reason == record.reason, record
        assert (found.key, found.value) == (record.key, record.value)
        assert letter.headers == record.headers
        assert not letter.cut
        assert 0 < len(letter.message) <= 1_000


def counted(settings: Settings) -> Counter[bytes]:
    """Return how many orders each customer has in Redis."""
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        return Counter(
            {
                customer: len(unpack(value).entries)
                for partition in range(settings.partitions)
                for customer, value in read_states(redis, ShardKeys(settings.group, settings.orders_topic, partition))
            }
        )


def good(settings: Settings, number: int) -> SentRecord:
    customer = f"good-{number % 37}"
    partition = murmur2(customer.encode(), settings.partitions)
    return SentRecord(
        customer.encode(), order(customer_id=customer, id=f"g{number}", order_id=f"g{number}"), None, partition
    )


async def test_each_malformed_record_is_a_dead_letter_and_each_good_order_counts(settings: Settings) -> None:
    sent = []
    for number, malformed in enumerate(UGLY):
        sent += [
            good(settings, number),
            SentRecord(malformed.key, malformed.value, malformed.reason, number % settings.partitions),
        ]
    for number in range(200):
        sent.append(good(settings, 1_000 + number))
    # These depend on more than the record: on the customer's partition, and on earlier events.
    at = murmur2(b"c1", settings.partitions)
    sent.append(SentRecord(b"c1", order(), "wrong_partition", (at + 1) % settings.partitions))
    sent.append(SentRecord(b"c1", order(), None, at))
    sent.append(SentRecord(b"c1", amount("99.00"), "conflicting_id", at))
    sent += [SentRecord(b"c1", amount("99.00"), None, at), SentRecord(b"c1", order(), None, at)]
    await send(settings, sent)
    metric = await taken(settings, len(sent))
    assert metric == Counter(r.reason for r in sent if r.reason)
    await check_letters(settings, sent)
    expected = Counter(r.key for r in sent if r.reason is None and r.key != b"c1")
    found = counted(settings)
    assert found.pop(b"c1") == 2  # both contents of the event: the result doesn't depend on their order
    assert found == expected


@pytest.mark.parametrize("max_event_bytes", [1_048_576, 40_000])
async def test_a_record_of_any_size_fits_its_dead_letter(settings_for: Any, max_event_bytes: int) -> None:
    from stream.kafka import topics

    settings = settings_for(max_event_bytes=max_event_bytes)
    await topics.create(settings)
    # The largest size that the broker accepts, found by trying: it depends on the broker's overhead per batch.
    full = max_event_bytes - 200
    sent = [
        SentRecord(b"k", b"x" * full, "not_json", 0, []),
        SentRecord(b"x" * full, b"{", "not_json", 1, []),
        SentRecord(b"k", b"{", "not_json", 2, [("own", b"x" * (full - 50))]),
        SentRecord(b"k", b"{", "not_json", 3, [("", b"")] * (full // 4)),
        good(settings, 1),
    ]
    # Compressed, a record may be far larger than the topic's limit.
    bombs = [
        SentRecord(b"k", b"x" * 9_000_000, "too_large", 0, [("own", b"1")]),
        SentRecord(b"y" * 9_000_000, b"x" * 9_000_000, "too_large", 1, []),
    ]
    await send(settings, sent)
    await send(settings, bombs, compression_type="gzip", max_request_size=30_000_000, max_batch_size=30_000_000)
    assert await taken(settings, len(sent) + len(bombs)) == {"not_json": 4, "too_large": 2}
    letters = await read_all(settings, settings.orders_dead_letters_topic)
    whole = {r.partition: r for r in letters if dict(r.headers)["segstream_reason"] == b"not_json"}
    for record in sent[:3]:
        assert (whole[record.partition].key, whole[record.partition].value) == (record.key, record.value)
        assert read_dead_letter(whole[record.partition]).headers == record.headers
    # A header costs more than its name and value: these are dropped, and another header says so.
    dropped = dict(whole[3].headers)["segstream_headers_dropped"]
    assert int(dropped) == full // 4
    assert read_dead_letter(whole[3]).cut
    cut = [r for r in letters if dict(r.headers)["segstream_reason"] == b"too_large"]
    kept = min(KEPT_OF_HUGE, (max_event_bytes + 32_768) // 2)
    for record, found in zip(bombs, cut, strict=True):
        assert read_dead_letter(found).cut
        assert found.value == b"x" * kept
        assert dict(found.headers)["segstream_value_sha256"] == sha256(record.value or b"").hexdigest().encode()
    assert cut[1].key == b"y" * kept
    assert counted(settings) == {b"good-1": 1}


async def test_a_flood_of_bad_records_neither_stops_a_worker_nor_grows_its_memory(settings: Settings) -> None:
    floods = [u for u in UGLY if len(u.value or b"") < 1_000 and u.key != CONTROL_KEY and len(u.key or b"") < 100]
    sent = []
    for number in range(20_000):
        malformed = floods[number % len(floods)]
        sent.append(SentRecord(malformed.key, malformed.value, malformed.reason, number % settings.partitions))
    sent += [good(settings, number) for number in range(400)]
    await send(settings, sent)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    metric = await taken(settings, len(sent))
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert metric == Counter(r.reason for r in sent if r.reason)
    assert metric[Reason.NOT_JSON] > 1_000
    # A turn holds at most 4,000 records of each of four shards; an earlier peak may hide a part of the growth.
    assert grown_kb < 150_000
    await check_letters(settings, sent)
    assert counted(settings).total() == 400


def oddly_named(batch: Any) -> Any:
    """Return the batch with a name that isn't UTF-8 for the header "abcd": other clients can send that."""
    build = batch._build

    def built() -> bytearray:
        made = bytearray(build())
        at = made.find(b"abcd")
        if at >= 0:
            made[at : at + 4] = b"\xff\xfe\xe9\xff"
            made[17:21] = calc_crc32c(memoryview(made)[21:]).to_bytes(4, "big")
        batch._buffer = made
        return made

    batch._build = built
    return batch


async def test_a_header_name_that_is_not_text_stops_no_shard(settings: Settings) -> None:
    sent = [good(settings, number) for number in range(40)]
    partition = sent[0].partition
    own = [record for record in sent if record.partition == partition]
    await send(settings, own[:3])
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        odd = oddly_named(producer.create_batch())
        for key, value, headers in ((b"k", b"{", []), (b"k", b"{{", [("own", b"1"), ("abcd", b"2")]), (b"k", b"}", [])):
            odd.append(key=key, value=value, headers=headers, timestamp=None)
        await (await producer.send_batch(odd, settings.orders_topic, partition=partition))
    await send(settings, own[3:])
    assert await taken(settings, len(own) + 3) == {"not_json": 3}
    letters = await read_all(settings, settings.orders_dead_letters_topic)
    assert [r.value for r in letters] == [b"{", b"{{", b"}"]
    assert read_dead_letter(letters[1]).headers == [("own", b"1"), ("\\xff\\xfe\\xe9\\xff", b"2")]
    assert counted(settings).total() == len(own)
