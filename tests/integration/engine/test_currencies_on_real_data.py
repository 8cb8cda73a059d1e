"""A copy of Online Retail in two currencies, against sums in decimal of each order by its own day's rate."""

from __future__ import annotations

import asyncio
import csv
import random
from collections import Counter, defaultdict
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from segmentation.entries import DAY_MS
from segmentation.rates import day_text
from segmentation.rfm import advance_bytes
from stream.clock import now_ms
from stream.customers.export import export
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.models.topic import PublishedModels
from stream.orders.files import read_orders
from stream.orders.rows import OrderRow, parse_at, refunded
from stream.orders.sorting import in_time_order
from stream.rates.files import RateRequest, read_rates_file
from stream.rates.load import RateLoader
from stream.replay.publisher import replay
from stream.worker.steps import scoring_step
from tests.support.engine.real_worker import settled, states
from tests.support.engine.toy_engine import engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stream.settings import Settings

END = parse_at("2011-12-10")
LARGEST = 3_650  # days
CHOSEN = {"time": "event", "currency": "GBP", "other_currencies": "USD", "window_days": LARGEST, "grace_days": LARGEST}


def rate_of(at_ms: int) -> str:
    """Return the pounds for a dollar on the day of an instant: as odd as real ones."""
    return f"0.6{at_ms // DAY_MS * 7_919 % 99_991_009:08}"


def in_two_currencies(folder: Path) -> list[OrderRow]:
    """Return the shop's orders, half of them in dollars; some of those are returned in full three days later."""
    with in_time_order(read_orders(folder / "orders.csv.gz", currency="GBP")) as ordered:
        rows = list(ordered)
    rows = [msgspec.structs.replace(row, currency="USD") if int(row.event_id[-1], 36) % 2 else row for row in rows]
    paid = [row for row in rows if row.kind == "placed" and row.currency == "USD" and row.at_ms < END - 4 * DAY_MS]
    back = [
        refunded(row.order_id or "", row.customer_id, row.at_ms + 3 * DAY_MS, row.amount_units, "USD", names_order=True)
        for row in paid[::20]
    ]
    return sorted([*rows, *back], key=lambda row: row.at_ms)


def by_decimal(rows: list[OrderRow]) -> dict[str, tuple[int, Decimal]]:
    """Return (orders, net pounds) of each customer, each document converted by itself; full returns leave nothing."""
    returned = {row.order_id for row in rows if row.kind == "refunded" and row.order_id}
    orders: Counter[str] = Counter()
    net: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        orders[row.customer_id] += row.kind == "placed"
        if row.order_id in returned:
            continue
        amount = Decimal(row.amount_units) / 10_000
        if row.currency == "USD":
            amount = (amount * Decimal(rate_of(row.at_ms))).quantize(Decimal("0.0001"), ROUND_HALF_EVEN)
        net[row.customer_id] += amount if row.kind == "placed" else -amount
    return {name: (count, net[name]) for name, count in orders.items()}


async def with_rates(settings: Settings, folder: Path) -> None:
    """Make a deployment's topics, and load the year's rates."""
    await topics.create(settings)
    path = folder / "rates.csv"
    days = range(parse_at("2010-12-01"), END + DAY_MS, DAY_MS)
    path.write_text("\n".join(["day,currency,rate", *(f"{day_text(at // DAY_MS)},USD,{rate_of(at)}" for at in days)]))
    loaded = await RateLoader(settings).load(read_rates_file(path, RateRequest("GBP", ("USD",))))
    assert loaded.loaded == len(days)
    await asyncio.sleep(loaded.holds_in_s or 0)  # orders of before would be refused, which is tested elsewhere


async def score(settings: Settings) -> dict[bytes, bytes]:
    """Let a worker score all orders. Return the states at the end."""
    async with engine(settings, scoring_step(settings)):
        await settled(settings)
    assert await read_topic(settings, settings.orders_dead_letters_topic) == []
    return {name: advance_bytes(value, END, settings.rules) for name, value in states(settings).items()}


@pytest.mark.slow
async def test_online_retail_in_two_currencies_agrees_to_a_ten_thousandth(
    settings_for: Callable[..., Settings], test_data: Path, tmp_path: Path
) -> None:
    rows = in_two_currencies(test_data / "online_retail")
    assert Counter(row.currency for row in rows)["USD"] > 8_000
    first, other = (settings_for(**CHOSEN, max_clock_jump_days=LARGEST) for _ in range(2))
    await with_rates(first, tmp_path)
    await replay(first, rows, until_ms=END)
    found = await score(first)

    out = tmp_path / "customers.csv"
    await asyncio.to_thread(export, first, PublishedModels(names={}), out, now_ms=now_ms(), as_of_ms=END)
    with out.open(newline="") as file:
        exported = {r["customer_id"]: (int(r["frequency"]), Decimal(r["monetary"])) for r in csv.DictReader(file)}
    assert exported == by_decimal(rows)
    assert len(exported) > 4_300

    # In any order, each twice, under the same rates: the same bytes.
    await with_rates(other, tmp_path)
    rng = random.Random(1)
    async with AIOKafkaProducer(**other.kafka_client()) as producer:
        records = sorted(await read_topic(first, first.orders_topic), key=lambda r: (r.partition, r.offset))
        sent = [
            await producer.send(other.orders_topic, record.value, key=record.key, partition=record.partition)
            for record in rng.sample([*records, *records], 2 * len(records))
        ]
        await asyncio.gather(*sent)
    assert await score(other) == found
