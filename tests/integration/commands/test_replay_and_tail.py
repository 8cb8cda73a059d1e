from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from pydantic import SecretStr
from typer.testing import CliRunner

from segmentation.decoder import Reader
from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.events import Reason, encode
from segmentation.output_events import (
    CampaignAction,
    CampaignConverted,
    CampaignEvent,
    CampaignScheduled,
    CampaignWithheld,
    Cause,
    Money,
    NextMove,
    Rfm,
    SegmentChanged,
    Withheld,
)
from segmentation.partitioners import murmur2
from segmentation.step import DeadLetter
from stream import cli
from stream.dead_letters.records import dead_record
from stream.kafka.clients import KafkaUnreachable, TopicUnusable, read_topic
from stream.orders.files import OrderFileError
from stream.orders.rows import OrderRow, parse_at
from stream.orders.simulate import simulate
from stream.outputs.kinds import OutputKind
from stream.outputs.tail import tail
from stream.replay.preconditions import check_target
from stream.replay.publisher import replay
from stream.settings_sources import PREFIX
from stream.storage.client import RedisUnreachable, redis_client
from stream.storage.heads import StoreHead, encode_head
from stream.storage.keys import ShardKeys
from stream.storage.reads import HeadUnreadable
from tests.support.command_line import run, start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream.settings import Settings

    SettingsFor = Callable[..., Settings]

START = parse_at("2011-03-01T10:00:00Z")


async def _orders(settings: Settings) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {p: [] for p in range(settings.partitions)}
    for record in await read_topic(settings, settings.orders_topic):
        found[record.partition].append(record)
    return found


def _decoded(settings: Settings, records: list[Any], clock: int = -1) -> tuple[int, list[DeadLetter], list[bytes]]:
    """Decode a partition as its shard does: its clock, the refused records, and the values of the others."""
    reader = Reader(settings.currency, settings.time, 300_000, settings.max_clock_jump_days * DAY_MS, 1 << 20)
    batch = reader.read(records, clock)
    values = [r.value for r, arrival in zip(records, batch.events, strict=True) if arrival]
    return (batch.clocks or [-1])[-1], batch.dead, values


async def test_the_shards_accept_every_replayed_record(settings: Settings) -> None:
    event_time = settings.model_copy(update={"time": "event"})
    rows = list(islice(simulate(1, 300, START), 4_000))
    # A pause longer than a clock may jump, and then a customer of a single partition.
    rows.append(OrderRow("placed", "late", "late", rows[-1].at_ms + 400 * DAY_MS, 10_000, "USD", "late"))
    until = rows[-1].at_ms + 100 * DAY_MS
    seen: list[int] = []
    report = await replay(event_time, rows, until_ms=until, progress=lambda sent, _: seen.append(sent))
    assert report.sent == Counter(row.kind for row in rows)
    assert (report.left_out, report.other_currencies, report.interrupted) == ({}, {}, False)
    assert report.last_at == iso(until)
    assert seen == sorted(seen)
    assert seen

    found = await _orders(event_time)
    for partition, records in found.items():
        clock, dead, values = _decoded(event_time, records)
        assert (clock, dead) == (until, [])
        mine = [row for row in rows if murmur2(row.customer_id.encode(), 4) == partition]
        assert [msgspec.json.decode(value)["id"] for value in values] == [row.event_id for row in mine]
        assert records[-1].offset == report.last_offsets[partition]
        # The broker's time, not the orders': retention and the check of dates use it.
        assert all(record.timestamp > time.time() * 1000 - 600_000 for record in records)

    await replay(event_time, rows, until_ms=until)
    for partition, records in (await _orders(event_time)).items():
        half = len(records) // 2
        assert [(r.key, r.value) for r in records[:half]] == [(r.key, r.value) for r in records[half:]]
        assert half == len(found[partition])


async def test_from_and_until_cut_without_loss(settings: Settings) -> None:
    event_time = settings.model_copy(update={"time": "event"})
    rows = list(islice(simulate(2, 100, START), 1_000))
    cut = rows[500].at_ms
    first = await replay(event_time, rows, until_ms=cut)
    second = await replay(event_time, rows, from_ms=cut)
    assert sum(first.sent.values()) + sum(second.sent.values()) == 1_000
    for records in (await _orders(event_time)).values():
        clock, dead, _ = _decoded(event_time, records)
        assert (clock, dead) == (rows[-1].at_ms, [])


def _put_clocks(settings: Settings, clocks: Sequence[int | None]) -> None:
    """Store heads in Redis as a worker does; None: the shard has none."""
    with redis_client(settings) as redis:
        for partition, clock in enumerate(clocks):
            if clock is None:
                continue
            head = StoreHead("t", 1, 1, 0, 0, clock, clock, 0, "", None, None, "k", (settings.partitions,) * 2)
            redis.set(ShardKeys(settings.group, settings.orders_topic, partition).head, encode_head(head))


async def test_shards_that_are_years_behind_accept_a_whole_second_file(settings: Settings) -> None:
    event_time = settings.model_copy(update={"time": "event"})
    clocks = [START - 10_000 * DAY_MS, None, START - 800 * DAY_MS, START]
    await asyncio.to_thread(_put_clocks, event_time, clocks)
    rows = list(islice(simulate(4, 100, START), 500))
    async with asyncio.timeout(30):
        # --speed applies to the file's time, not to the years before it that the shards have to advance.
        report = await replay(event_time, rows, speed=2e7)
    assert sum(report.sent.values()) == 500
    for partition, records in (await _orders(event_time)).items():
        clock = clocks[partition]
        assert _decoded(event_time, records, -1 if clock is None else clock)[:2] == (rows[-1].at_ms, [])


async def test_unreadable_heads_are_reported_before_anything_is_sent(settings: Settings) -> None:
    event_time = settings.model_copy(update={"time": "event"})
    row = OrderRow("placed", "1", "c", START, 1, "USD", "1")
    with redis_client(settings) as redis:
        redis.set(ShardKeys(settings.group, settings.orders_topic, 2).head, b"none")
    with pytest.raises(HeadUnreadable, match="SEGSTREAM_GROUP"):
        await replay(event_time, [row])
    nowhere = event_time.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    for refused in (replay(nowhere, [row]), check_target(nowhere)):
        with pytest.raises(RedisUnreachable, match="SEGSTREAM_REDIS_URL"):
            await refused
    assert not any((await _orders(settings)).values())
    # In wall time there is no clock to ask for.
    await replay(nowhere.model_copy(update={"time": "wall"}), [row])


async def test_wall_time_has_no_clock_and_a_foreign_currency_is_counted(settings: Settings) -> None:
    rows = [OrderRow("placed", "1", "c", START, 1, "EUR", "1"), OrderRow("placed", "2", "c", START, 1, "USD", "2")]
    report = await replay(settings, rows)
    assert (report.clocks, report.other_currencies) == (0, {"EUR": 1})
    assert sum(len(records) for records in (await _orders(settings)).values()) == 2


async def test_a_stop_ends_a_slow_replay_with_what_was_sent(settings: Settings) -> None:
    stop = asyncio.Event()
    rows = simulate(3, 1_000, START)  # endless
    report = await replay(
        settings, rows, speed=1e6, stop=stop, progress=lambda sent, _: stop.set() if sent >= 20 else None
    )
    assert report.interrupted
    found = await _orders(settings)
    assert sum(len(records) for records in found.values()) == sum(report.sent.values()) >= 20


async def test_another_partition_count_is_refused(settings: Settings, settings_for: SettingsFor) -> None:
    with pytest.raises(TopicUnusable, match="has 4 partitions, expected 5"):
        await replay(settings.model_copy(update={"partitions": 5}), [])
    with pytest.raises(TopicUnusable, match="topics create"):
        await replay(settings_for(), [])


async def test_servers_that_do_not_answer_are_named_at_once(settings_for: SettingsFor) -> None:
    nowhere = settings_for(kafka_bootstrap_servers="127.0.0.1:1", redis_url="redis://:secret@127.0.0.1:1/0")
    began = time.monotonic()
    with pytest.raises(KafkaUnreachable, match=r"127\.0\.0\.1:1.*segstream local up"):
        await replay(nowhere, [])
    with pytest.raises(KafkaUnreachable, match=r"127\.0\.0\.1:1"):
        await tail(nowhere, OutputKind.CHANGES, print)
    with pytest.raises(RedisUnreachable, match=r"127\.0\.0\.1:1.*SEGSTREAM_REDIS_URL") as caught, redis_client(nowhere):
        pass
    assert "secret" not in str(caught.value)
    assert time.monotonic() - began < 15


def test_the_command_reads_sorts_sends_and_reports(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    lines = ["1,b,2011-01-03,5,", "2,a,2011-01-01,5,", "3,a,never,5,", "4,a,2011-01-02,-1,", "5,a,2011-02-01,1,"]
    path.write_text("order_id,customer_id,ordered_at,amount,kind\n" + "\n".join(lines) + "\n")
    result = run(settings, "replay", str(path), "--until", "2011-02-01")
    assert "scored as of now" in result.stderr
    assert "2 placed, 1 refunded" in result.stdout
    assert "left out 1 date" in result.stdout
    event_time = settings.model_copy(update={"time": "event"})
    report = json.loads(run(event_time, "replay", str(path), "--json", "--from", "2011-01-02", "--speed", "1e9").stdout)
    assert (report["sent"], report["left_out"]) == ({"refunded": 1, "placed": 2}, {"date": 1})
    # One advance to --from and one for each further day with rows, on each of 4 partitions.
    assert report["clocks"] == 3 * 4
    late = ["--from", "2011-02-01", "--until", "2011-01-31"]
    for arguments in (["--speed", "0"], ["--until", "soon"], ["--format", "xml"], late):
        assert CliRunner().invoke(cli.app, ["replay", str(path), *arguments]).exit_code == 2


def test_rows_of_today_are_scored_as_of_now_without_a_warning(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    now_ms = time.time_ns() // 1_000_000
    path.write_text(
        f"order_id,customer_id,ordered_at,amount\n1,b,{iso(now_ms - 60_000)},5\n2,b,{iso(now_ms - 2 * DAY_MS)},5\n"
    )
    assert "1 of these rows" in run(settings, "replay", str(path)).stderr
    # The old row isn't sent, so there is no warning.
    result = run(settings, "replay", str(path), "--from", iso(now_ms - DAY_MS))
    assert "wall" not in result.stderr
    assert "sent 1 placed" in result.stdout


def test_a_file_without_a_usable_row_ends_with_an_error_and_its_counts(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("order_id,customer_id,ordered_at,amount\n1,b,soon,5\n2,,2011-01-01,5\n3,b,later,5\n")
    result = run(settings, "replay", str(path), code=1)
    assert str(result.exception) == f"{path}: no row can be used. Left out: 2 date, 1 no_customer."
    assert not any(asyncio.run(_orders(settings)).values())


def test_a_missing_file_is_reported_before_any_server_is_asked(tmp_path: Path) -> None:
    nowhere = {f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    result = CliRunner().invoke(cli.app, ["replay", str(tmp_path / "missing.csv")], env=nowhere)
    assert (result.exit_code, type(result.exception)) == (1, OrderFileError)


def test_ctrl_c_ends_the_command_cleanly(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("order_id,customer_id,ordered_at,amount\n1,a,2011-01-01,5\n2,a,2012-01-01,5\n")
    with start(settings, "replay", str(path), "--json", "--speed", "1") as process:
        deadline = time.monotonic() + 30
        while not any(asyncio.run(_orders(settings)).values()):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
        assert process.returncode == 130
    assert json.loads(out)["sent"] == {"placed": 1}
    assert json.loads(out)["interrupted"] is True
    assert b"With --from 2011-01-01T00:00:00.000Z it starts where this run ended." in errors


async def _committed(
    settings: Settings, sent: Sequence[tuple[str, int, bytes | None, bytes | None, Sequence[tuple[str, bytes]]]]
) -> None:
    producer = AIOKafkaProducer(**settings.kafka_client(), transactional_id=f"{settings.group}-test")
    await producer.start()
    try:
        async with producer.transaction():
            for topic, partition, key, value, headers in sent:
                await producer.send_and_wait(topic, value, key=key, partition=partition, headers=headers)
    finally:
        await producer.stop()


def _change(customer: str, sequence: int) -> SegmentChanged:
    return SegmentChanged(
        id=f"{customer}{sequence}",
        customer_id=customer,
        sequence=sequence,
        from_=None if sequence == 1 else "Loyal",
        to="Loyal" if sequence == 1 else "At Risk",
        cause=Cause.FIRST if sequence == 1 else Cause.SILENCE,
        occurred_at="2011-03-03T14:20:05.123Z",
        scored_at="2011-03-03T14:20:05.123Z",
        model_version="v",
        rfm=Rfm(41.25, 12, "1234.50"),
        before=None,
        distances={},
        next=NextMove("Lost", "2011-06-01T00:00:00.000Z"),
        causation_id=None,
    )


async def _lines(settings: Settings, what: OutputKind, **options: Any) -> list[str]:
    written: list[str] = []
    async with asyncio.timeout(30):
        await tail(settings, what, written.append, until_idle_s=0.3, **options)
    return written


async def test_moves_are_followed_as_they_were_published(settings: Settings) -> None:
    changes = [_change("a", 1), _change("b", 1), _change("a", 2)]
    sent: list[Any] = [
        (settings.changes_topic, n % 2, c.customer_id.encode(), encode(c), []) for n, c in enumerate(changes)
    ]
    await _committed(settings, sent)
    found = await _lines(settings, OutputKind.CHANGES, from_beginning=True, as_json=True)
    assert sorted(found) == sorted(encode(c).decode() for c in changes)
    assert [json.loads(line)["sequence"] for line in found if json.loads(line)["customer_id"] == "a"] == [1, 2]
    assert len(await _lines(settings, OutputKind.CHANGES, from_beginning=True, limit=2)) == 2
    lines = await _lines(settings, OutputKind.CHANGES, from_beginning=True)
    assert (
        "2011-03-03 14:20:05  a  Loyal -> At Risk  silence, move 2  "
        "recency 41.2 days, frequency 12, monetary 1234.50  next: Lost 2011-06-01 00:00:00"
    ) in lines
    # Without --from-beginning only new records.
    assert await _lines(settings, OutputKind.CHANGES) == []
    printed = await asyncio.to_thread(
        run, settings, "tail", "changes", "--from-beginning", "--until-idle", "0.2", "--json"
    )
    assert sorted(printed.stdout.splitlines()) == sorted(found)


async def test_a_record_that_is_no_event_is_shown_on_its_line(settings: Settings) -> None:
    sent: list[Any] = [(t, 0, b"k", b"{not\njson", []) for t in (settings.changes_topic, settings.actions_topic)]
    await _committed(settings, sent)
    for what in (OutputKind.CHANGES, OutputKind.ACTIONS):
        assert (await _lines(settings, what, from_beginning=True))[0].startswith("unreadable: ")
        line = (await _lines(settings, what, from_beginning=True, as_json=True))[0]
        assert json.loads(line)["value"] == "{not\njson"


async def test_actions_are_followed(settings: Settings) -> None:
    action = CampaignAction(
        id="1",
        customer_id="a",
        campaign="win-back",
        segment="At Risk",
        action="Win-back with 20 % off",
        channel="email",
        reason="silence",
        change_id="2",
        occurred_at="2011-03-03T14:20:05.123Z",
    )
    common = {name: getattr(action, name) for name in CampaignEvent.__struct_fields__}
    withheld = CampaignWithheld(**common, reason=Withheld.CAP, detail="2 actions within 7 days, at most 2 allowed")
    scheduled = CampaignScheduled(**common, until="2011-03-04T08:00:00.000Z", why="quiet_hours")
    converted = CampaignConverted(
        **common, action_id="1", held_out=True, order_id="o", amount=Money("19.90", "EUR"),
        ordered_at="2011-03-05T08:00:00.000Z", acted_at="2011-03-04T08:00:00.000Z",
    )  # fmt: skip
    events = [action, withheld, scheduled, converted]
    await _committed(settings, [(settings.actions_topic, 3, b"a", encode(event), []) for event in events])
    head = "2011-03-03 14:20:05  a  At Risk  win-back: Win-back with 20 % off  by email  "
    assert await _lines(settings, OutputKind.ACTIONS, from_beginning=True) == [
        f"{head}(silence)",
        f"{head}not sent, cap: 2 actions within 7 days, at most 2 allowed",
        f"{head}held back until 2011-03-04 08:00:00: quiet hours",
        f"{head}converted (held out): order o of 19.90 EUR",
    ]
    assert await _lines(settings, OutputKind.ACTIONS, from_beginning=True, as_json=True) == [
        encode(event).decode() for event in events
    ]


class _Consumed(msgspec.Struct):
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


async def test_dead_letters_are_shown_with_their_record(settings: Settings) -> None:
    sent: list[Any] = []
    for offset, (key, value) in enumerate([(b"k", b'{"type":\n"x"}'), (b"\xff", b"\xfe"), (b"k", None), (None, None)]):
        letter = DeadLetter(0, Reason.WRONG_FIELD.value, "type", "type: x.")
        dead = dead_record(
            _Consumed(offset, key, value, []), letter, settings.orders_topic, 3, now_ms=START, max_bytes=1 << 20
        )
        sent.append((settings.orders_dead_letters_topic, 3, dead.key, dead.value, dead.headers))
    await _committed(settings, sent)
    found = [
        json.loads(line) for line in await _lines(settings, OutputKind.DEAD_LETTERS, from_beginning=True, as_json=True)
    ]
    assert [(f["topic"], f["partition"], f["offset"]) for f in found] == [
        (settings.orders_topic, 3, n) for n in range(4)
    ]
    assert {(f["reason"], f["field"], f["message"]) for f in found} == {("wrong_field", "type", "type: x.")}
    assert (found[0]["key"], found[0]["value"]) == ("k", '{"type":\n"x"}')
    assert (found[1]["key_base64"], found[1]["value_base64"]) == ("/w==", "/g==")
    assert "value" not in found[2]
    lines = await _lines(settings, OutputKind.DEAD_LETTERS, from_beginning=True)
    assert (
        lines[0]
        == f'2011-03-01 10:00:00  wrong_field (type)  {settings.orders_topic}-3@0  key k  type: x.  {{"type": "x"}}'
    )
    assert len(lines) == 4
    for reason, number in ((Reason.WRONG_FIELD, 4), (Reason.NOT_JSON, 0)):
        assert len(await _lines(settings, OutputKind.DEAD_LETTERS, from_beginning=True, reasons=[reason])) == number
