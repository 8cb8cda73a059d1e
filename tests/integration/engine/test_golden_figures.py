"""Online Retail from file through Kafka and worker to export, against its golden figures: in order, shuffled, twice."""

from __future__ import annotations

import asyncio
import csv
import gzip
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer

from segmentation.life import NO_LIFE, NOTHING_FOLDED
from segmentation.rfm import NONE, advance_bytes, pack, unpack
from stream.clock import now_ms
from stream.customers.export import export
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.models.topic import PublishedModels
from stream.orders.files import read_orders
from stream.orders.rows import OrderRow, parse_at
from stream.orders.sorting import in_time_order
from stream.replay.publisher import replay
from stream.settings import Settings
from stream.worker.steps import scoring_step
from tests.support.engine.real_worker import settled, states
from tests.support.engine.toy_engine import engine

SettingsFor = Callable[..., Settings]

SEED = 1
LARGEST = 3_650  # days
# Within ten years no order leaves the window, and an export can look back on all of them.
NOTHING_LEAVES = {"window_days": LARGEST, "grace_days": LARGEST}
REPEATS_WITHIN = 500  # records
END = parse_at("2011-12-10")  # the last of the golden dates


class ExportedFigures(NamedTuple):
    """A customer's figures in an export. `recency` is in calendar days."""

    recency: int | None
    frequency: int
    monetary: Decimal


class Golden(NamedTuple):
    """The orders and the golden figures, as their README defines them."""

    rows: list[OrderRow]
    customers: list[dict[str, str]]
    dates: list[dict[str, str]]


@pytest.fixture(scope="module")
def golden(test_data: Path) -> Golden:
    folder = test_data / "online_retail"
    with in_time_order(read_orders(folder / "orders.csv.gz", currency="GBP")) as ordered:
        rows = list(ordered)
    with gzip.open(folder / "rfm_customers.csv.gz", "rt") as file:
        customers = list(csv.DictReader(file))
    with (folder / "rfm_asof_monthly.csv").open() as file:
        dates = list(csv.DictReader(file))
    assert (len(rows), len(customers), len(dates)) == (18_536 + 3_654, 4_338, 13)
    return Golden(rows, customers, dates)


def exported(settings: Settings, folder: Path, as_of: str) -> dict[str, ExportedFigures]:
    """Return every customer's figures from an export."""
    out = folder / "customers.csv"
    report = export(settings, PublishedModels(names={}), out, now_ms=now_ms(), as_of_ms=parse_at(as_of))
    assert (report.incomplete, report.behind) == (0, None)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["customer_id"] for row in rows]
    assert names == sorted(set(names))
    return {
        row["customer_id"]: ExportedFigures(
            # The golden figures count calendar days: full days since the midnight after the order.
            math.ceil(float(row["recency_days"])) if row["recency_days"] else None,
            int(row["frequency"]),
            Decimal(row["monetary"]),
        )
        for row in rows
    }


def states_now(settings: Settings) -> dict[bytes, bytes]:
    """Return every state as of END. A state that has changed by time alone may still be stored as it was before."""
    return {name: advance_bytes(value, END, settings.rules) for name, value in states(settings).items()}


async def in_order(
    settings: Settings, golden: Golden, rows: Sequence[OrderRow], folder: Path
) -> list[dict[str, ExportedFigures]]:
    """Send the rows up to each date; return the exports of the dates, each made when it was the present."""
    found = []
    async with engine(settings, scoring_step(settings)):
        since = 0
        for date in golden.dates:
            until = parse_at(date["as_of"])
            await replay(settings, [row for row in rows if since <= row.at_ms < until], until_ms=until)
            await settled(settings)
            found.append(await asyncio.to_thread(exported, settings, folder, date["as_of"]))
            since = until
    return found


async def score_all(settings: Settings) -> None:
    """Let a worker score all orders."""
    async with engine(settings, scoring_step(settings)):
        await settled(settings)


def looked_back(settings: Settings, golden: Golden, folder: Path) -> list[dict[str, ExportedFigures]]:
    """Return the exports of the dates, all made at the end."""
    return [exported(settings, folder, date["as_of"]) for date in golden.dates]


def shuffled(records: Sequence[Any], rng: random.Random) -> Iterator[Any]:
    """Return a partition's records, with those that advance the clock, in random order."""
    return iter(rng.sample(records, len(records)))


def twice(records: Sequence[Any], rng: random.Random) -> Iterator[Any]:
    """Return each record twice, the second one up to 500 places later."""
    positions = [(float(n), n) for n in range(len(records))]
    positions += [(n + rng.random() * REPEATS_WITHIN, n) for n in range(len(records))]
    return (records[n] for _, n in sorted(positions))


async def records_of(settings: Settings) -> list[list[Any]]:
    """Return the records of the orders topic by partition."""
    found: list[list[Any]] = [[] for _ in range(settings.partitions)]
    for record in sorted(await read_topic(settings, settings.orders_topic), key=lambda record: record.offset):
        found[record.partition].append(record)
    return found


async def sent_again(settings: Settings, partitions: list[list[Any]], arranged: Callable[..., Iterator[Any]]) -> None:
    """Send another deployment's records to this one's topic, rearranged within each partition."""
    await topics.create(settings)
    rng = random.Random(SEED)
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for partition, records in enumerate(partitions):
            for record in arranged(records, rng):
                future = await producer.send(settings.orders_topic, record.value, key=record.key, partition=partition)
            await future


async def rearranged(settings_for: SettingsFor, first: Settings, **rules: int) -> list[Settings]:
    """Return the first deployment, one with its orders shuffled, and one with its orders twice."""
    others = [settings_for(time="event", currency="GBP", max_clock_jump_days=LARGEST, **rules) for _ in range(2)]
    partitions = await records_of(first)
    for other, arranged in zip(others, (shuffled, twice), strict=True):
        await sent_again(other, partitions, arranged)
    await asyncio.gather(*map(score_all, others))
    for run in (first, *others):
        assert await read_topic(run, run.orders_dead_letters_topic) == []
    return [first, *others]


def check_bytes(runs: Sequence[Settings], customers: int, *, lives: bool = True) -> None:
    seen = (lambda value: value) if lives else without_life
    want = states_now(runs[0])
    assert len(want) == customers
    for run in runs[1:]:
        assert [name for name, value in states_now(run).items() if seen(value) != seen(want[name])] == []


def without_life(value: bytes) -> bytes:
    return pack(replace(unpack(value), life=NO_LIFE, folded=NOTHING_FOLDED))


def total(figures: dict[str, ExportedFigures]) -> Decimal:
    return sum((f.monetary for f in figures.values()), Decimal(0))


@pytest.mark.slow
async def test_gross_figures_of_every_customer_and_date_agree_to_the_penny(
    settings_for: SettingsFor, golden: Golden, tmp_path: Path
) -> None:
    rows = [row for row in golden.rows if row.kind == "placed" and row.amount_units > 0]
    assert len(rows) == 18_532
    first = settings_for(time="event", currency="GBP", **NOTHING_LEAVES)
    await topics.create(first)
    found = [await in_order(first, golden, rows, tmp_path)]
    runs = await rearranged(settings_for, first, **NOTHING_LEAVES)
    found += [await asyncio.to_thread(looked_back, run, golden, tmp_path) for run in runs[1:]]
    for run in found:
        assert run[-1] == {
            c["customer_id"]: ExportedFigures(int(c["recency_days"]), int(c["frequency"]), Decimal(c["monetary"]))
            for c in golden.customers
        }
        for date, figures in zip(golden.dates, run, strict=True):
            n = len(figures)
            orders = sum(f.frequency for f in figures.values())
            assert (n, orders, total(figures)) == (int(date["customers"]), int(date["orders"]), Decimal(date["gross"]))
            days = sum(f.recency for f in figures.values() if f.recency is not None)
            for value, of in ((days, "recency"), (orders, "frequency"), (total(figures), "monetary")):
                assert float(value) / n == pytest.approx(float(date[f"mean_{of}"]), abs=1e-6)
    check_bytes(runs, 4_338)


@pytest.mark.slow
async def test_net_figures_of_every_customer_and_date_agree_to_the_penny(
    settings_for: SettingsFor, golden: Golden, tmp_path: Path
) -> None:
    first = settings_for(time="event", currency="GBP", **NOTHING_LEAVES)
    await topics.create(first)
    await replay(first, golden.rows, until_ms=END)
    await score_all(first)
    runs = await rearranged(settings_for, first, **NOTHING_LEAVES)
    free = [row for row in golden.rows if row.kind == "placed" and row.amount_units == 0]
    for run in runs:
        figures = await asyncio.to_thread(exported, run, tmp_path, "2011-12-10")
        for customer in golden.customers:
            name = customer["customer_id"]
            assert figures[name].monetary == Decimal(customer["net"])
            # The golden figures leave out orders with an amount of zero; segstream counts them.
            assert figures[name].frequency == int(customer["frequency"]) + sum(row.customer_id == name for row in free)
        others = [figures[name] for name in figures.keys() - {c["customer_id"] for c in golden.customers}]
        # These have cancellations only, and one has a single order with an amount of zero.
        assert Counter((f.frequency, f.recency is None) for f in others) == {(0, True): 33, (1, False): 1}
        assert len([f for f in figures.values() if f.monetary < 0]) == 41
    for date, figures in zip(golden.dates, looked_back(runs[1], golden, tmp_path), strict=True):
        assert total(figures) == Decimal(date["net_incl_cancellations"])
        orders = int(date["orders"]) + sum(row.at_ms < parse_at(date["as_of"]) for row in free)
        assert sum(f.frequency for f in figures.values()) == orders
    check_bytes(runs, 4_372)


@pytest.mark.slow
async def test_states_don_t_depend_on_the_order_of_records_when_orders_leave_the_window(
    settings_for: SettingsFor, golden: Golden
) -> None:
    """Shuffle orders in a short window: the file's cancellations name no order, so only orders and refunds are late.

    They are more than a window late, too: only the whole life doesn't count such orders.
    """
    rules = {"window_days": 90, "grace_days": 7}
    first = settings_for(time="event", currency="GBP", **rules)
    await topics.create(first)
    await replay(first, golden.rows, until_ms=END)
    await score_all(first)
    runs = await rearranged(settings_for, first, **rules)
    assert sum(unpack(value).cut > NONE for value in states(first).values()) > 1_000
    check_bytes(runs, 4_372, lives=False)
