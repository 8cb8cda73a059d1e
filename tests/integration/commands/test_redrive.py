"""Dead letters are sent back once each, unchanged and only if selected, even if a redrive is stopped or runs twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner

import stream.dead_letters.redrive
from segmentation.events import CONTROL_KEY, Reason
from segmentation.partitioners import murmur2
from segmentation.step import DeadLetter
from stream.clock import now_ms
from stream.commands import dead_letters
from stream.dead_letters.reasons import FIXABLE
from stream.dead_letters.records import REDRIVES_HEADER, dead_record
from stream.dead_letters.redrive import RedriveError, RedriveReport, redrive
from stream.dead_letters.routing import MAX_REDRIVES, Selection
from stream.kafka import topics
from stream.kafka.clients import TopicUnusable, end_offsets
from stream.kafka.streams import streams_of
from stream.repair.reconfigure import Reconfigurer
from stream.settings import Settings
from stream.storage.heads import MARK_HEADER, NOTE_HEADER
from stream.worker.steps import scoring_step
from tests.contract.ugly_inputs import amount
from tests.support.engine.toy_engine import engine, eventually, produce, read_all
from tests.support.paths import ROOT

DEFAULT = Selection(frozenset(FIXABLE))


class Source(msgspec.Struct):
    """A record as a shard consumed it."""

    key: bytes | None
    value: bytes | None
    offset: int = 0
    headers: list[tuple[str, bytes | None]] = []


async def write_dead_letters(
    settings: Settings,
    records: list[tuple[Reason, Source, int]],
    *,
    source: str | None = None,
    topic: str | None = None,
    max_bytes: int = 1 << 20,
) -> None:
    """Write dead letters as the shards do; the last number is the partition of each."""
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        waiting = []
        for reason, record, p in records:
            why = DeadLetter(0, reason, None, "because.")
            dead = dead_record(record, why, source or settings.orders_topic, p, now_ms=0, max_bytes=max_bytes)
            waiting.append(
                await producer.send(
                    topic or settings.orders_dead_letters_topic,
                    dead.value,
                    key=dead.key,
                    partition=p,
                    headers=dead.headers,
                )
            )
        await asyncio.gather(*waiting)


async def redrive_orders(settings: Settings, *reasons: Reason, **options: Any) -> RedriveReport:
    """Redrive the orders' dead letters of these reasons, or of those sent back by default."""
    selection = Selection(frozenset(reasons or FIXABLE), options.pop("controls", False))
    return await redrive(settings, settings.orders_dead_letters_topic, selection, **options)


async def values(settings: Settings, topic: str | None = None) -> list[bytes]:
    return [r.value for r in await read_all(settings, topic or settings.orders_topic)]


def many(number: int, partitions: int) -> list[tuple[Reason, Source, int]]:
    return [(Reason.STEP_FAILED, Source(b"k%d" % n, b"v%d" % n), n % partitions) for n in range(number)]


async def test_a_dead_letter_goes_back_unchanged_and_once(settings: Settings) -> None:
    headers = [("trace", b"1"), ("trace", b"\xff"), ("absent", None), ("__connect.errors.topic", b"elsewhere")]
    await write_dead_letters(settings, [(Reason.STEP_FAILED, Source(b"k", b'{"a": 1}', 7, headers), 2)])
    report = await redrive_orders(settings)
    assert (report.sent, report.to, report.left) == ({"step_failed": 1}, {settings.orders_topic: 1}, {})
    assert (await redrive_orders(settings)).sent == {}
    (back,) = await read_all(settings, settings.orders_topic)
    assert (back.partition, back.key, back.value) == (2, b"k", b'{"a": 1}')
    assert list(back.headers) == [*headers, (REDRIVES_HEADER, b"1")]
    # Later dead letters are sent back by a later redrive.
    await write_dead_letters(settings, [(Reason.STEP_FAILED, Source(b"k", b"later"), 2)])
    assert (await redrive_orders(settings)).sent == {"step_failed": 1}
    assert await values(settings) == [b'{"a": 1}', b"later"]


async def test_each_reason_goes_to_its_topic_and_partition(settings: Settings) -> None:
    right = murmur2(b"someone", settings.partitions)
    wrong = (right + 1) % settings.partitions
    await write_dead_letters(
        settings,
        [
            (Reason.KEY_NOT_CUSTOMER, Source(b"wrong", b"unkeyed"), 1),
            (Reason.WRONG_PARTITION, Source(b"someone", b"astray"), wrong),
            (Reason.NOT_JSON, Source(b"k", b"garbage"), 0),
            (Reason.CLOCK_JUMP, Source(CONTROL_KEY, b"a clock"), 3),
        ],
    )
    await write_dead_letters(
        settings, [(Reason.ADAPTER_FAILED, Source(None, b"mapped"), 0)], source=settings.actions_topic
    )
    await write_dead_letters(
        settings, [(Reason.ADAPTER_FAILED, Source(None, b"deleted"), 0)], source="a-topic-that-does-not-exist"
    )
    report = await redrive_orders(settings)
    assert report.sent == {"key_not_customer": 1, "wrong_partition": 1, "adapter_failed": 1}
    assert report.left == {"no_way_back": 1}
    (unkeyed,) = await read_all(settings, settings.unkeyed_topic)
    assert (unkeyed.partition, unkeyed.key, unkeyed.value) == (1, b"wrong", b"unkeyed")
    (astray,) = await read_all(settings, settings.orders_topic)
    assert (astray.partition, astray.value) == (right, b"astray")
    assert await values(settings, settings.actions_topic) == [b"mapped"]
    # The reasons that weren't selected have stayed, and so have the controls.
    assert (await redrive_orders(settings, Reason.NOT_JSON)).sent == {"not_json": 1}
    assert (await redrive_orders(settings, Reason.CLOCK_JUMP)).sent == {}
    assert (await redrive_orders(settings, Reason.CLOCK_JUMP, controls=True)).sent == {"clock_jump": 1}
    assert (await redrive_orders(settings, *Reason, controls=True)).sent == {}
    assert sorted(await values(settings)) == [b"a clock", b"astray", b"garbage"]


async def test_dead_letters_that_cannot_go_back_are_counted_and_left(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(max_event_bytes=100_000)
    await topics.create(settings)
    often: list[tuple[str, bytes | None]] = [(REDRIVES_HEADER, b"%d" % MAX_REDRIVES)]
    await write_dead_letters(
        settings,
        [
            (Reason.STEP_FAILED, Source(b"k", b"x" * 150_000), 0),
            (Reason.STEP_FAILED, Source(b"k", b"v", headers=[("h", b"x" * 120_000)]), 0),
            (Reason.STEP_FAILED, Source(b"k", b"around", headers=often), 0),
            (Reason.STEP_FAILED, Source(None, None), 0),
            (Reason.STEP_FAILED, Source(b"k", b"elsewhere"), 1),
        ],
        max_bytes=110_000,
    )
    await write_dead_letters(settings, [(Reason.STEP_FAILED, Source(b"k", b"x" * 100_000), 1)], max_bytes=110_000)
    # A record that segstream didn't write.
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        await producer.send_and_wait(settings.orders_dead_letters_topic, b"?", headers=[("segstream_reason", b"x")])
    report = await redrive_orders(settings)
    assert report.left == {"cut": 2, "too_often": 1, "empty": 1, "too_large": 1}
    assert await values(settings) == [b"elsewhere"]


async def test_a_dry_run_sends_nothing_and_a_limit_is_kept(settings: Settings) -> None:
    await write_dead_letters(settings, many(60, settings.partitions))
    report = await redrive_orders(settings, dry_run=True)
    assert (report.sent, report.limited, report.dry_run) == ({"step_failed": 60}, False, True)
    assert await values(settings) == []
    reports: list[tuple[int, int, int]] = []
    for expected in (25, 25, 10):
        report = await redrive_orders(settings, limit=25, progress=lambda *at: reports.append(at))
        assert (report.sent, report.limited) == ({"step_failed": expected}, expected == 25)
    assert reports[-1][0] == reports[-1][1]
    assert reports[-1][2] == 10
    assert sorted(await values(settings)) == sorted(b"v%d" % n for n in range(60))
    stop = asyncio.Event()
    stop.set()
    await write_dead_letters(settings, many(5, settings.partitions))
    report = await redrive_orders(settings, stop=stop)
    assert (report.sent, report.interrupted) == ({}, True)


async def test_a_redrive_that_is_aborted_and_repeated_sends_each_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream.dead_letters.redrive, "_PAGE", 10)
    await write_dead_letters(settings, many(90, settings.partitions))
    real = stream.dead_letters.redrive._Redrive._commit
    calls = Counter[str]()

    async def torn(run: Any, producer: Any, *rest: Any) -> None:
        calls["all"] += 1
        if calls["all"] % 3 == 0:
            # All records are sent, and none is committed.
            async def dies() -> None:
                raise ConnectionError("the process has died")

            producer.commit_transaction = dies
        await real(run, producer, *rest)

    monkeypatch.setattr(stream.dead_letters.redrive._Redrive, "_commit", torn)
    aborted = 0
    while True:
        try:
            report = await redrive_orders(settings)
        except ConnectionError:
            aborted += 1
            continue
        if not report.sent:
            break
    assert aborted >= 3
    assert sorted(await values(settings)) == sorted(b"v%d" % n for n in range(90))


async def test_a_second_redrive_ends_the_first(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.dead_letters.redrive, "_PAGE", 5)
    await write_dead_letters(settings, many(1_500, settings.partitions))
    under_way = asyncio.Event()
    first = asyncio.create_task(redrive_orders(settings, progress=lambda *_: under_way.set()))
    await under_way.wait()
    monkeypatch.setattr(stream.dead_letters.redrive, "_PAGE", 500)
    second = await redrive_orders(settings)
    with pytest.raises(RedriveError, match="send the rest"):
        await first
    assert second.sent["step_failed"] > 0
    assert (await redrive_orders(settings)).sent == {}
    assert Counter(await values(settings)) == Counter(b"v%d" % n for n in range(1_500))


def command(settings: Settings) -> subprocess.Popen[bytes]:
    names = [name for name in Settings.model_fields if name.endswith("_topic")]
    values_ = {name: str(getattr(settings, name)) for name in ("kafka_bootstrap_servers", "group", *names)}
    environment = os.environ | {f"SEGSTREAM_{k.upper()}": v for k, v in values_.items()}
    program = (
        "import stream.dead_letters.redrive as redrive, stream.commands.dead_letters as command\n"
        "redrive._PAGE = 5; command.app()"
    )
    argv = [sys.executable, "-c", program, "redrive", "--json"]
    return subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


async def test_a_redrive_that_is_killed_sends_each_once(settings: Settings) -> None:
    letters = 4_000  # enough to be still at it when the second kill comes
    await write_dead_letters(settings, many(letters, settings.partitions))
    killed = 0
    for target in (100, 600):
        process = command(settings)

        async def so_far(wanted: int = target) -> bool:
            return sum((await end_offsets(settings, settings.orders_topic)).values()) >= wanted

        await eventually(so_far)
        process.send_signal(signal.SIGKILL)
        killed += await asyncio.to_thread(process.wait) == -signal.SIGKILL
        assert process.stdout
        process.stdout.close()
    assert killed == 2
    last = command(settings)
    out, _ = await asyncio.to_thread(last.communicate)
    assert last.returncode == 0
    assert 0 < msgspec.json.decode(out)["sent"]["step_failed"] < letters - 100
    assert Counter(await values(settings)) == Counter(b"v%d" % n for n in range(letters))


async def test_records_count_after_a_fix_and_return_with_a_count_without_one(settings: Settings) -> None:
    euros = [(b"c1", amount(currency="EUR")), (b"c1", amount("1.00001"))]
    await produce(settings, euros)

    async def worked(under: Settings, number: int) -> None:
        async with engine(under, scoring_step(under)) as running:
            await eventually(lambda: running.taken() >= number)

    await worked(settings, 2)
    # Without a fix they become dead letters again, and their headers count that.
    for turn in range(1, 3):
        assert (await redrive_orders(settings)).sent == {"unknown_currency": 1}
        await eventually_taken(settings, worked)
        found = await read_all(settings, settings.orders_dead_letters_topic)
        assert [dict(r.headers).get(REDRIVES_HEADER) for r in found if REDRIVES_HEADER in dict(r.headers)] == [
            b"%d" % (n + 1) for n in range(turn)
        ]
    fixed = settings.model_copy(update={"currency": "EUR"})
    await reconfigure(fixed)
    assert (await redrive_orders(fixed)).sent == {"unknown_currency": 1}
    await eventually_taken(fixed, worked)
    assert len(await read_all(settings, settings.orders_dead_letters_topic)) == 4


async def reconfigure(settings: Settings) -> None:
    reconfigurer = Reconfigurer(settings, streams_of(settings, "scoring"), scoring_step(settings))
    try:
        async for _ in reconfigurer.change(await reconfigurer.look(), now_ms()):
            pass
    finally:
        await reconfigurer.close()


async def eventually_taken(settings: Settings, worked: Callable[[Settings, int], Any]) -> None:
    # The end of a transaction takes an offset, too.
    records = await read_all(settings, settings.orders_topic)
    await worked(settings, max(r.offset for r in records) + 1)


async def test_moves_go_back_without_the_marks_of_a_shard(settings: Settings) -> None:
    marked: list[tuple[str, bytes | None]] = [(MARK_HEADER, b"1:1:1:1:v"), ("ce_id", b"1"), (NOTE_HEADER, b"n")]
    move = (Reason.STEP_FAILED, Source(b"c", b"a move", headers=marked), 1)
    dead = settings.changes_dead_letters_topic
    await write_dead_letters(settings, [move], source=settings.changes_topic, topic=dead)
    report = await redrive(settings, dead, DEFAULT)
    assert report.to == {settings.changes_topic: 1}
    (back,) = await read_all(settings, settings.changes_topic)
    assert list(back.headers) == [("ce_id", b"1"), (REDRIVES_HEADER, b"1")]


async def test_the_error_without_topics_says_what_to_do(settings_for: Callable[..., Settings]) -> None:
    with pytest.raises(TopicUnusable, match="topics create"):
        await redrive_orders(settings_for())


def test_the_command_reports_what_it_did(
    settings_for: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for()
    asyncio.run(topics.create(settings))
    asyncio.run(
        write_dead_letters(
            settings, [(Reason.STEP_FAILED, Source(b"k", b"v"), 0), (Reason.NOT_JSON, Source(b"", b""), 0)]
        )
    )
    asyncio.run(write_dead_letters(settings, [(Reason.NOT_JSON, Source(b"k", b"x" * 200_000), 0)], max_bytes=1_000))
    monkeypatch.setattr("stream.settings.load_settings", lambda: settings)
    runner = CliRunner()
    result = runner.invoke(dead_letters.app, ["redrive", "--dry-run"])
    assert (result.exit_code, result.stdout) == (0, f"would send back 1: 1 step_failed; to {settings.orders_topic}\n")
    result = runner.invoke(dead_letters.app, ["redrive", "--reason", "not_json", "--json"])
    assert result.exit_code == 0
    assert msgspec.json.decode(result.stdout)["left"] == {"cut": 1}
    assert "1 left: only their beginnings are here" in result.stderr
    result = runner.invoke(dead_letters.app, ["redrive", "--limit", "0"])
    assert result.exit_code == 2
