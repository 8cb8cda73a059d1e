from __future__ import annotations

import asyncio
import csv
import json
import re
import stat
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import redis
from aiokafka import AIOKafkaProducer

from segmentation.definitions import definition
from segmentation.entries import DAY_MS
from segmentation.event_text import instant, iso
from segmentation.model import Feature, Segment, SegmentModel, Training
from segmentation.outlook_figures import outlook_figures
from segmentation.output_events import LifeFigures
from segmentation.rfm import EMPTY, Kind, absorb_bytes, advance_bytes, entry, headers, with_announcement
from stream.clock import now_ms
from stream.customers.export import ExportError, export
from stream.customers.lookup import CustomerUnknown, CustomerUnreadable, report_lines
from stream.customers.lookup import customer as look_up
from stream.kafka import topics
from stream.models.scores import GivenFigures, score
from stream.models.topic import NoActiveModel, PublishedModels, published, read_active, read_published
from stream.orders.rows import parse_at
from stream.storage.heads import Stored, StoreHead, encode_head, first_head, with_stored
from stream.storage.keys import ShardKeys
from stream.storage.reads import ShardLostInPart, ShardMissing, customers_stored
from tests.support.command_line import run
from tests.support.data.clock_models import clock_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream.settings import Settings

    SettingsFor = Callable[..., Settings]

START = parse_at("2011-03-01T10:00:00Z")


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


def _model(names: dict[int, str]) -> SegmentModel:
    recency, frequency, monetary = (
        Feature(name=name, transform="log1p", mean=1.0, scale=1.0) for name in ("recency_days", "frequency", "monetary")
    )
    segments = tuple(
        Segment(id=number, name=name, action=f"to {name}", centroid=(2.0 * place, 1.0 - 2 * place, 2.0 - 3 * place))
        for place, (number, name) in enumerate(names.items())
    )
    training = Training(
        as_of=instant(START), customers=1, k=2, silhouette=None, inertia=None, shares={}, feature_means={}, seed=1
    )
    return SegmentModel(parent=None, features=(recency, frequency, monetary), segments=segments, training=training)


async def test_models_are_read_from_their_topic(settings: Settings) -> None:
    with pytest.raises(NoActiveModel, match="segtrainer run"):
        await read_active(settings)
    old, new = _model({1: "Champions", 2: "Lost"}), _model({1: "Champions", 2: "Gone", 3: "New"})

    def records(model: SegmentModel) -> list[Any]:
        return [
            (settings.models_topic, 0, model.version.encode(), model.to_json(), []),
            (settings.models_topic, 0, b"active", json.dumps({"version": model.version, "by": "x"}).encode(), []),
        ]

    broken: Any = (settings.models_topic, 0, b"broken", b"{}", [])
    await _committed(settings, [*records(old), *records(new), broken, records(old)[1]])
    assert (await read_active(settings)).version == old.version
    assert (await read_published(settings)).names == {1: "Champions", 2: "Gone", 3: "New"}
    figures = ["--recency-days", "0.5", "--frequency", "25", "--monetary", "1200"]
    result = json.loads((await asyncio.to_thread(run, settings, "score", *figures, "--json")).stdout)
    assert (result["segment"], result["action"]) == ("Champions", "to Champions")
    assert (await asyncio.to_thread(run, settings, "score", *figures)).stdout.startswith(
        "0.5 days, 25 orders, 1200.00: Champions. to Champions\n"
    )
    assert score(old, GivenFigures(300, 0, 0), "USD").segment == "Lost"


@pytest.fixture
def stored(settings_for: SettingsFor) -> Settings:
    """Three customers in two shards at the clock of day 10, in event time."""
    settings: Settings = settings_for(time="event")
    client = redis.Redis.from_url(settings.redis_url.get_secret_value())
    head = StoreHead("t", 1, 1, 0, 0, START + 10 * DAY_MS, START, 0, "", None, None, "c", (4, 4))
    events = {
        (0, "a"): [
            (Kind.PLACED, "1", 0, 125_000),
            (Kind.PLACED, "2", 5 * DAY_MS, 1),
            (Kind.REFUNDED, "1", DAY_MS, 5_000),
        ],
        (0, "cancelled"): [(Kind.PLACED, "3", 0, 10_000), (Kind.CANCELLED, "3", DAY_MS, 0)],
        (2, "ü,1"): [(Kind.PLACED, "4", 10 * DAY_MS - 1, 99_990_000)],
    }
    with client:
        for partition in (1, 3):
            keys = ShardKeys(settings.group, settings.orders_topic, partition)
            client.set(keys.head, encode_head(first_head("c", (4, 4), 0)))
        for (partition, name), given in events.items():
            value = EMPTY
            for kind, order, after_ms, amount in given:
                e = entry(kind, order, START + after_ms, order=order, amount=amount)
                value, _ = absorb_bytes(value, e, START + after_ms, settings.rules)
            if name == "a":
                value = with_announcement(value, 1, 4, START + 5 * DAY_MS)
            keys = ShardKeys(settings.group, settings.orders_topic, partition)
            client.set(keys.head, encode_head(head))
            client.hset(keys.states, name, value)
            client.zadd(keys.customers, {name: 0})
    return settings


MODELS = PublishedModels(names={1: "Champions"})
NO_OUTLOOK = [""] * 5


def test_every_customer_is_exported_exactly(stored: Settings, tmp_path: Path) -> None:
    report = export(stored, MODELS, tmp_path / "out.csv", now_ms=now_ms())
    assert (report.customers, report.incomplete, report.as_of) == (3, 0, "2011-03-11T10:00:00.000Z")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {row["customer_id"]: row for row in csv.DictReader(file)}
    begun = "2011-03-01T10:00:00.000Z"
    assert list(rows["a"].values()) == [
        *("a", "5.0", "2", "12.0001", "Champions", "4", "false"),
        *(begun, "2011-03-06T10:00:00.000Z", "2", "2", "12.0001", "6.0001", "5.0", "5.0", "false"),
        *NO_OUTLOOK,
    ]
    assert list(rows["cancelled"].values()) == [
        *("cancelled", "", "0", "0.00", "", "0", "false"),
        *("", "", "0", "0", "0.00", "", "", "", "false"),
        *NO_OUTLOOK,
    ]
    assert float(rows["ü,1"]["recency_days"]) == 1 / 86_400_000
    assert rows["ü,1"]["monetary"] == "9999.00"
    export(stored, MODELS, tmp_path / "out.parquet", now_ms=now_ms())
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    first, last, only = (instant(at) for at in (START, START + 5 * DAY_MS, START + 10 * DAY_MS - 1))
    assert [[*row.values()][:-5] for row in table] == [
        [
            *("a", 5.0, 2, Decimal("12.0001"), "Champions", 4, False),
            *(first, last, 2, 2, Decimal("12.0001"), Decimal("6.0001"), 5.0, 5.0, False),
        ],
        ["cancelled", None, 0, Decimal(0), None, 0, False, None, None, 0, 0, Decimal(0), None, None, None, False],
        [
            *("ü,1", 1 / 86_400_000, 1, Decimal(9999), None, 0, False),
            *(only, only, 1, 1, Decimal(9999), Decimal(9999), None, None, False),
        ],
    ]
    assert [[*row.values()][-5:] for row in table] == [[None] * 5] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.parquet"]


def test_the_outlook_is_exported_as_a_move_would_have_it(stored: Settings, tmp_path: Path) -> None:
    model = clock_model()
    names = {segment.id: segment.name for segment in model.segments}
    export(stored, PublishedModels(model, names), tmp_path / "out.csv", now_ms=now_ms())
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {row["customer_id"]: [*row.values()][-5:] for row in csv.DictReader(file)}
    assert rows["cancelled"] == NO_OUTLOOK
    at = START + 10 * DAY_MS
    with redis.Redis.from_url(stored.redis_url.get_secret_value()) as client:
        for partition, name in ((0, "a"), (2, "ü,1")):
            value = client.hget(ShardKeys(stored.group, stored.orders_topic, partition).states, name)
            assert isinstance(value, bytes)
            head = headers([advance_bytes(value, at, stored.rules)])
            (expected,) = outlook_figures(model.outlook, head, np.array([at]))
            assert expected is not None
            assert rows[name] == [str(figure) for figure in msgspec.structs.astuple(expected)]
    export(stored, PublishedModels(model, names), tmp_path / "out.parquet", now_ms=now_ms())
    table = {row["customer_id"]: [*row.values()][-5:] for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    assert [float(one) for one in rows["a"]] == [float(one) for one in table["a"]]


def test_a_customer_is_shown_with_the_reasons_of_a_model_by_own_clock(stored: Settings) -> None:
    model = clock_model()
    names = {segment.id: segment.name for segment in model.segments}
    found = look_up(stored, PublishedModels(model, names), "a", now_ms())
    assert found.definition == definition(model, model.segments[0], "USD")
    assert found.why is not None
    assert found.why.startswith("silent for 5 days, ")
    assert found.outlook is not None
    assert found.next is not None
    assert found.next.segment == "Potential Loyalists"
    lines = "\n".join(report_lines(found, stored))
    assert "chance of an order in the next 90 days" in lines
    assert f"who this is: {found.definition}" in lines
    nobody = look_up(stored, PublishedModels(model, names), "cancelled", now_ms())
    assert (nobody.outlook, nobody.why, nobody.definition) == (None, None, None)


def test_no_file_is_written_of_a_shard_that_has_lost_a_part(stored: Settings, tmp_path: Path) -> None:
    keys, out = ShardKeys(stored.group, stored.orders_topic, 0), tmp_path / "out.csv"
    with redis.Redis.from_url(stored.redis_url.get_secret_value()) as client:
        raw = client.get(keys.head)
        assert isinstance(raw, bytes)
        client.set(keys.head, with_stored(raw, Stored(2, 2, 0, 0)))
        export(stored, MODELS, out, now_ms=now_ms())
        out.unlink()
        client.delete(keys.states)
        with pytest.raises(ShardLostInPart, match="0 states instead of 2"):
            export(stored, MODELS, out, now_ms=now_ms())
        with pytest.raises(ShardLostInPart):
            look_up(stored, MODELS, "a", now_ms())
        client.delete(*keys.all())
        with pytest.raises(ShardMissing):
            export(stored, MODELS, out, now_ms=now_ms())
        with pytest.raises(ShardMissing):
            look_up(stored, MODELS, "a", now_ms())
    assert list(tmp_path.iterdir()) == []


def test_a_text_is_no_formula_and_the_file_is_its_owners(stored: Settings, tmp_path: Path) -> None:
    asyncio.run(topics.create(stored))
    formula, marked, out = '=HYPERLINK("https://evil.example")', "\u202e-1+1", tmp_path / "out.csv"
    for partition, name in enumerate((formula, marked, "-5", "+49 30 1")):
        _put_state(stored, partition, name, START + 10 * DAY_MS)
    out.symlink_to(tmp_path / "elsewhere.csv")
    run(stored, "export", "--out", str(out))
    with out.open(newline="", encoding="utf-8") as file:
        rows = {row["customer_id"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"a", "cancelled", "ü,1", f"'{formula}", marked, "'-5", "'+49 30 1"}
    assert all(not row["monetary"].startswith("'") for row in rows.values())
    assert not out.is_symlink()
    assert not (tmp_path / "elsewhere.csv").exists()
    run(stored, "export", "--out", str(out), "--raw")
    with out.open(newline="", encoding="utf-8") as file:
        assert {formula, marked, "-5", "+49 30 1"} < {row["customer_id"] for row in csv.DictReader(file)}
    run(stored, "export", "--out", str(tmp_path / "out.parquet"))
    assert formula in pq.read_table(tmp_path / "out.parquet").column("customer_id").to_pylist()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    # Nothing that a terminal would follow, neither as text nor as JSON.
    assert "\\u202e-1+1" in run(stored, "customer", marked).stdout
    assert json.loads(run(stored, "customer", marked, "--json").stdout)["customer_id"] == marked
    assert "\u202e" not in run(stored, "customer", marked, "--json").stdout


def test_an_instant_may_be_as_early_as_the_grace_and_no_earlier(stored: Settings, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert export(stored, MODELS, out, now_ms=now_ms(), as_of_ms=START + 4 * DAY_MS).customers == 2
    with out.open(newline="") as file:
        assert [row["monetary"] for row in csv.DictReader(file)] == ["12.00", "0.00"]
    before = out.read_bytes()
    with pytest.raises(ExportError, match=r"replay FILE --until 2011-03-04T09:59:59\.999Z"):
        export(stored, MODELS, out, now_ms=now_ms(), as_of_ms=START + 3 * DAY_MS - 1)
    assert export(stored, MODELS, out, now_ms=now_ms(), as_of_ms=START + 3 * DAY_MS).customers == 2
    assert export(stored, MODELS, out, now_ms=now_ms(), as_of_ms=START + 500 * DAY_MS).customers == 3
    assert out.read_bytes() != before
    with pytest.raises(ExportError, match=r"neither in \.csv nor in \.parquet"):
        export(stored, MODELS, tmp_path / "out.txt", now_ms=now_ms())
    with pytest.raises(ExportError, match="can be written"):
        export(stored, MODELS, tmp_path / "none" / "out.csv", now_ms=now_ms())


def _put_state(settings: Settings, partition: int, name: str, clock: int) -> None:
    """Store one order, an hour before the clock of its shard. Shards without any get the head that they begin with."""
    keys = ShardKeys(settings.group, settings.orders_topic, partition)
    e = entry(Kind.PLACED, name, clock - 3_600_000, order=name, amount=10_000)
    value, _ = absorb_bytes(EMPTY, e, clock, settings.rules)
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        head = StoreHead("t", 1, 1, 0, 0, clock, clock, 0, "", None, None, "c", (4, 4))
        client.set(keys.head, encode_head(head))
        client.hset(keys.states, name, value)
        client.zadd(keys.customers, {name: 0})
        for other in range(settings.partitions):
            begun = ShardKeys(settings.group, settings.orders_topic, other).head
            client.setnx(begun, encode_head(first_head("c", (4, 4), 0)))


def test_all_shards_are_read_as_of_one_instant_and_their_customers_sorted_by_id(
    settings_for: SettingsFor, tmp_path: Path
) -> None:
    settings = settings_for(time="event")
    hour = 3_600_000
    for partition, names in enumerate([("b", "é"), ("a", "z"), ("\U0001f600", "c10", "c2")]):
        for name in names:
            _put_state(settings, partition, name, START + partition * hour)
    report = export(settings, MODELS, tmp_path / "out.csv", now_ms=now_ms())
    assert (report.as_of, report.behind) == ("2011-03-01T12:00:00.000Z", "2011-03-01T10:00:00.000Z")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["customer_id"]: float(row["recency_days"]) * 24 for row in csv.DictReader(file)}
    assert list(rows) == ["a", "b", "c10", "c2", "z", "é", "\U0001f600"]
    assert {name: round(hours, 6) for name, hours in rows.items()} == {
        **dict.fromkeys(("b", "é"), 3.0),
        **dict.fromkeys(("a", "z"), 2.0),
        **dict.fromkeys(("\U0001f600", "c10", "c2"), 1.0),
    }
    assert customers_stored(settings) == 7
    # Shards that are further apart than the grace can only be read as of a late instant.
    _put_state(settings, 3, "d", START + 8 * DAY_MS)
    assert export(settings, MODELS, tmp_path / "out.csv", now_ms=now_ms()).as_of == "2011-03-09T10:00:00.000Z"


def test_a_customer_in_two_shards_is_an_error(settings_for: SettingsFor, tmp_path: Path) -> None:
    settings = settings_for(time="event")
    for partition in (0, 1):
        _put_state(settings, partition, "c", START)
    with pytest.raises(ExportError, match=r"'c' is in two shards.*SEGSTREAM_PARTITIONER"):
        export(settings, MODELS, tmp_path / "out.csv", now_ms=now_ms())
    assert list(tmp_path.iterdir()) == []


def test_wall_time_exports_as_of_now(stored: Settings, tmp_path: Path) -> None:
    wall = stored.model_copy(update={"time": "wall"})
    export(wall, MODELS, tmp_path / "out.csv", now_ms=now_ms())
    with (tmp_path / "out.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert abs(float(row["recency_days"]) - (time.time() * 1000 - START) / DAY_MS + 5) < 0.01
    assert (row["frequency"], row["monetary"]) == ("0", "0.00")


def test_a_customer_is_shown_with_the_next_move(stored: Settings) -> None:
    model = _model({1: "Champions", 2: "Lost"})
    known = PublishedModels(model, {1: "Champions", 2: "Lost"})
    found = look_up(stored, known, "a", now_ms())
    assert (found.partition, found.segment, found.sequence, found.frequency) == (0, "Champions", 4, 2)
    assert [(e.kind, e.amount, e.counts) for e in found.entries] == [
        ("placed", "0.0001", True),
        ("refunded", "0.50", True),
        ("placed", "12.50", True),
    ]
    assert found.life == LifeFigures(2, 2, "12.0001", "6.0001", iso(START), iso(START + 5 * DAY_MS), 5.0, 5.0)
    assert found.first_order_at == iso(START)
    cancelled = look_up(stored, known, "cancelled", now_ms())
    assert (cancelled.first_order_at, cancelled.life) == (None, None)
    assert [(e.kind, e.counts) for e in cancelled.entries] == [
        ("cancelled", False),
        ("placed", False),
    ]
    assert found.next is not None
    assert found.next.segment == "Lost"
    assert found.next.at > found.as_of == "2011-03-11T10:00:00.000Z"
    assert look_up(stored, MODELS, "a", now_ms()).next is None
    assert look_up(stored, known, "cancelled", now_ms()).recency_days is None
    with pytest.raises(CustomerUnknown, match="'nobody'"):
        look_up(stored, known, "nobody", now_ms())


def test_an_erased_customer_is_shown_as_erased(stored: Settings) -> None:
    keys = ShardKeys(stored.group, stored.orders_topic, 0)
    with redis.Redis.from_url(stored.redis_url.get_secret_value()) as client:
        value = client.hget(keys.states, "a")
        assert isinstance(value, bytes)
        stone = entry(Kind.ERASED, "", START + 6 * DAY_MS)
        client.hset(keys.states, "a", absorb_bytes(value, stone, START + 10 * DAY_MS, stored.rules)[0])
    found = look_up(stored, MODELS, "a", now_ms())
    assert (found.erased_at, found.recency_days, found.frequency) == ("2011-03-07T10:00:00.000Z", None, 0)
    assert look_up(stored, MODELS, "cancelled", now_ms()).erased_at is None


def test_the_error_of_an_unreadable_state_names_its_key(stored: Settings) -> None:
    keys = ShardKeys(stored.group, stored.orders_topic, 0)
    with redis.Redis.from_url(stored.redis_url.get_secret_value()) as client:
        client.hset(keys.states, "a", b"torn")
    with pytest.raises(CustomerUnreadable, match=r"the state of 'a' in .*:states can't be read.*SEGSTREAM_GROUP"):
        look_up(stored, MODELS, "a", now_ms())


async def test_the_commands_show_customers_and_exports(stored: Settings, tmp_path: Path) -> None:
    await topics.create(stored)
    model = _model({1: "Champions", 2: "Lost"})
    await _committed(
        stored,
        [
            (stored.models_topic, 0, model.version.encode(), model.to_json(), []),
            (stored.models_topic, 0, b"active", json.dumps({"version": model.version}).encode(), []),
        ],
    )
    shown = (await asyncio.to_thread(run, stored, "customer", "a")).stdout
    assert "segment Champions since 2011-03-06T10:00:00.000Z, move 4" in shown
    assert "goes to Lost on" in shown
    assert "whole life: 2 orders on 2 days, net 12.0001 USD, 6.0001 USD an order, typically 5 days" in shown
    assert "from 2011-03-01T10:00:00.000Z to 2011-03-06T10:00:00.000Z" in shown
    assert re.search("unless something is bought: (any purchase|a purchase of .* USD) keeps Champions", shown), shown
    report = json.loads((await asyncio.to_thread(run, stored, "customer", "a", "--json")).stdout)
    assert (report["monetary"], report["life"]["monetary"], report["life"]["orders"]) == ("12.0001", "12.0001", 2)
    out = tmp_path / "out.csv"
    shown = (await asyncio.to_thread(run, stored, "export", "--out", str(out), "--as-of", "2011-03-12")).stdout
    behind = "2011-03-11T10:00:00.000Z"
    assert (
        shown
        == f"3 customers as of 2011-03-12T00:00:00.000Z in {out}; the shard furthest behind has reached {behind}\n"
    )
    shown = (await asyncio.to_thread(run, stored, "export", "--out", str(out))).stdout
    assert shown == f"3 customers as of {behind} in {out}\n"


def test_a_candidate_s_record_activates_nothing() -> None:
    model = _model({1: "Champions", 2: "Lost"})
    values = {b"candidate": json.dumps({"version": model.version}).encode(), b"active": b"["}
    records = [SimpleNamespace(offset=offset, key=key, value=values[key]) for offset, key in enumerate(values)]
    assert published(records).active is None
