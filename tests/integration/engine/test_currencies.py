"""Orders in several currencies on real servers: rates, orders that wait for one, full refunds, and a rebuild."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from segmentation.events import Amount, OrderPlaced, OrderRefunded
from segmentation.rfm import advance_bytes, unpack
from stream.dead_letters.redrive import redrive
from stream.dead_letters.routing import Selection
from stream.kafka import topics
from tests.support.command_line import run
from tests.support.engine.real_worker import activate, processes, settled, states, store_heads
from tests.support.engine.toy_engine import eventually
from tests.support.orders import send_events
from trainer.run import Job, conversion_of
from trainer.snapshot.orders import take_from_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stream.settings import Settings

NOW = datetime.now(UTC)
TODAY, EARLIER = NOW.date(), NOW.date() - timedelta(days=3)


def bank_file(folder: Path, first: int, days: int) -> Path:
    """Write the bank's file of `days` days up to `first` days ago, the newest line first, as it has them."""
    lines = ["Date,USD,JPY,GBP,ISK,"]
    lines += [
        f"{TODAY - timedelta(days=ago)},1.{16 + ago:02},160.{ago},0.87{ago},N/A," for ago in range(first, first + days)
    ]
    path = folder / f"rates-{first}.csv"
    path.write_text("\n".join(lines))
    return path


def in_pounds(paid: str, ago: int) -> Decimal:
    """Convert dollars by the file's line of a day, as a shop would: to a ten-thousandth, from twelve decimals."""
    rate = (Decimal(f"0.87{ago}") / Decimal(f"1.{16 + ago:02}")).quantize(Decimal("1e-12"))
    return (Decimal(paid) * rate).quantize(Decimal("0.0001"))


def order(customer: str, paid: str, currency: str, *, ago: int = 0) -> OrderPlaced:
    name = f"{customer}-{ago}"
    at = NOW - timedelta(days=ago, seconds=60 if ago == 0 else 0)
    return OrderPlaced(
        id=name, order_id=name, customer_id=customer, occurred_at=at, amount=Amount(value=paid, currency=currency)
    )


def refund(of: OrderPlaced, paid: str, currency: str = "USD") -> OrderRefunded:
    return OrderRefunded(
        id=f"{of.id}-back-{paid}", order_id=of.order_id, customer_id=of.customer_id, occurred_at=NOW,
        amount=Amount(value=paid, currency=currency),
    )  # fmt: skip


def known(settings: Settings, customer: str) -> Any:
    return json.loads(run(settings, "customer", customer, "--json").stdout)


async def sent_back(settings: Settings, *, dry_run: bool = False) -> int:
    selection = Selection(frozenset({"no_rate"}))
    report = await redrive(settings, settings.orders_dead_letters_topic, selection, dry_run=dry_run)
    return sum(report.sent.values())


@pytest.mark.slow
async def test_orders_in_two_currencies(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(partitions=2, currency="GBP", other_currencies="USD")
    await topics.create(settings)
    bare = settings.model_copy(update={"other_currencies": ""})
    nothing = await asyncio.to_thread(partial(run, bare, "rates", "load", str(bank_file(tmp_path, 0, 1)), code=1))
    assert "no other currency is set" in str(nothing.exception)
    loaded = await asyncio.to_thread(run, settings, "rates", "load", str(bank_file(tmp_path, 0, 2)), "--json")
    assert json.loads(loaded.stdout) | {"holds_in_s": 0} == {
        "loaded": 2, "known": 0, "kept": 0, "holds_in_s": 0, "late": False, "waiting": 0,
    }  # fmt: skip
    # A training from a file converts by the same rates.
    path = tmp_path / "orders.csv"
    path.write_text(f"order_id,customer_id,ordered_at,amount,currency\n1,a,{TODAY},120.35,USD\n", "utf-8")
    conversion = await asyncio.to_thread(conversion_of, settings, Job(file=path))
    trained_on = take_from_file(path, None, settings.rules, "GBP", conversion)
    assert trained_on.monetary.tolist() == [pytest.approx(float(in_pounds("120.35", 0)))]
    first, whole = order("paid-in-dollars", "120.35", "USD"), order("all-back", "99.99", "USD", ago=1)
    with processes(settings, tmp_path, "worker"):
        activation = await asyncio.to_thread(activate, settings)
        await send_events(
            settings, first, order("paid-in-pounds", "10.00", "GBP"), order("unknown", "5", "EUR"),
            order("waits", "64.07", "USD", ago=3), whole,
            *(refund(whole, part) for part in ("33.32", "33.33", "33.34")), refund(first, "0.01", "GBP"),
        )  # fmt: skip
        await settled(settings, activation=activation)
        assert await sent_back(settings, dry_run=True) == 1
        found = await asyncio.to_thread(known, settings, "paid-in-dollars")
        assert Decimal(found["monetary"]) == in_pounds("120.35", 0) - Decimal("0.01")
        assert {(e["paid"], e["kind"]) for e in found["entries"]} == {("120.35 USD", "placed"), (None, "refunded")}
        shown = await asyncio.to_thread(run, settings, "customer", "paid-in-dollars")
        assert "120.35 USD" in shown.stdout
        back = await asyncio.to_thread(known, settings, "all-back")
        assert (back["frequency"], back["monetary"], back["life"]["monetary"]) == (1, "0.00", "0.00")
        assert (await asyncio.to_thread(known, settings, "paid-in-pounds"))["monetary"] == "10.00"
        assert set(states(settings)) == {b"paid-in-dollars", b"paid-in-pounds", b"all-back"}

        # A later load: what is there is skipped, and the order that waited is converted at its own day's rate.
        later = await asyncio.to_thread(run, settings, "rates", "load", str(bank_file(tmp_path, 0, 5)))
        assert "loaded 3 rates in GBP" in later.stdout
        assert "2 were there already" in later.stdout
        assert "1 orders and refunds wait" in later.stdout
        assert await sent_back(settings) == 1
        await settled(settings)
        waited = await asyncio.to_thread(known, settings, "waits")
        assert Decimal(waited["monetary"]) == in_pounds("64.07", 3)
        before = at_the_clock(settings)

    # From the logs alone, in a worker that knows all rates from its start, come the same bytes.
    await asyncio.to_thread(run, settings, "rebuild", "--yes")
    with processes(settings, tmp_path, "worker"):
        await settled(settings)
        await eventually(lambda: set(at_the_clock(settings)) == set(before), 60, "the customers")
        assert at_the_clock(settings) == before
        assert await sent_back(settings, dry_run=True) == 0

    other = tmp_path / "other.csv"
    other.write_text(f"day,currency,rate\n{TODAY},USD,0.5\n{TODAY + timedelta(days=1)},USD,0.75\n")
    refused = await asyncio.to_thread(partial(run, settings, "rates", "load", str(other), code=1))
    assert f"USD on {TODAY} is 0.7" in str(refused.exception)
    assert "the file has 0.5" in str(refused.exception)
    kept = await asyncio.to_thread(run, settings, "rates", "load", str(other), "--keep")
    assert "kept 1 for which" in kept.stdout
    listed = await asyncio.to_thread(run, settings, "rates", "list", "--json")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(r["currency"], r["days"], r["last_rate"], r["holes"]) for r in rows] == [("USD", 6, "0.75", [])]


def at_the_clock(settings: Settings) -> dict[bytes, bytes]:
    at = max(head.clock for head in store_heads(settings, settings.orders_topic) if head) + 1_000_000
    return {key: advance_bytes(value, at, settings.rules) for key, value in states(settings).items()}


@pytest.mark.slow
async def test_a_currency_is_added_later_and_the_shards_become_more(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    before = settings_for(partitions=2, currency="GBP")
    settings = before.model_copy(update={"other_currencies": "EUR,USD"})
    await topics.create(settings)
    names = [f"c{i}" for i in range(8)]
    with processes(before, tmp_path, "worker"):
        activation = await asyncio.to_thread(activate, before)
        await send_events(before, *(order(name, "10.00", "USD") for name in names), order("p", "3.00", "GBP"))
        await settled(before, activation=activation)
        assert set(states(before)) == {b"p"}
    load = ("rates", "load", str(bank_file(tmp_path, 0, 2)), "--currency", "USD")
    await asyncio.to_thread(run, before, *load)
    changed = await asyncio.to_thread(run, settings, "reconfigure", "--yes")
    assert "SEGSTREAM_OTHER_CURRENCIES: (none) -> EUR,USD (2 of 2 shards)" in changed.stdout
    assert "--reason unknown_currency" in changed.stdout
    with processes(settings, tmp_path, "worker"):
        await settled(settings)
        # What was refused under the former settings stays so, until it is sent back.
        assert set(states(settings)) == {b"p"}
        selection = Selection(frozenset({"unknown_currency"}))
        report = await redrive(settings, settings.orders_dead_letters_topic, selection)
        assert report.sent == {"unknown_currency": len(names)}
        await settled(settings)
        found = at_the_clock(settings)
        assert set(found) == {b"p", *map(str.encode, names)}
        assert {unpack(found[name.encode()]).monetary for name in names} == {int(in_pounds("10.00", 0) * 10_000)}

    grown = settings.model_copy(update={"partitions": 3})
    await asyncio.to_thread(run, settings, "reshard", "--partitions", "3", "--yes")
    await asyncio.to_thread(run, grown, "rebuild", "--yes")
    with processes(grown, tmp_path, "worker"):
        await settled(grown)
        assert at_the_clock(grown) == found
