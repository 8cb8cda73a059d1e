"""`segstream campaigns uplift` and `segstream campaigns holdout`, on decisions and orders in a real Kafka."""

from __future__ import annotations

import asyncio
import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer

from segmentation.entries import DAY_MS
from segmentation.event_text import instant, iso
from segmentation.events import CONTROL_KEY, Amount, CustomerMerged, EventForwarded, OrderPlaced, encode
from segmentation.output_events import CampaignAction, CampaignWithheld, Withheld
from segmentation.partitioners import murmur2
from stream.clock import now_ms
from stream.uplift.collect import NoContacts
from tests.support.command_line import run

if TYPE_CHECKING:
    from pathlib import Path

    from stream.settings import Settings

RULES = """
version: 2
holdouts: {global: 0.5, rotate: year}
rules:
  - {name: win-back, when: {to: [Lost]}, then: {action: Voucher, channel: email}, holdout: 0.1}
  - {name: receipt, when: {to: "*"}, then: {action: Receipt, channel: email}, transactional: true}
"""


def decision(customer: str, at_ms: int, *, held_out: bool, campaign: str = "win-back") -> bytes:
    fields: dict[str, Any] = {
        "id": f"{customer}:{campaign}:{at_ms}",
        "customer_id": customer,
        "campaign": campaign,
        "segment": "Lost",
        "action": "Voucher",
        "channel": "email",
        "change_id": f"{customer}:1",
        "occurred_at": iso(at_ms - DAY_MS),
        "decided_at": iso(at_ms),
    }
    if held_out:
        return encode(CampaignWithheld(**fields, reason=Withheld.HELD_OUT, detail="in the control group (global)"))
    return encode(CampaignAction(**fields, reason="At Risk → Lost (silence)"))


def order(name: str, customer: str, at_ms: int, amount: str) -> OrderPlaced:
    return OrderPlaced(
        id=name, order_id=name, customer_id=customer, occurred_at=instant(at_ms), amount=Amount(amount, "USD")
    )


class Records:
    """The records of a test's deployment, sent in their order."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sent: list[tuple[str, bytes, bytes, int, str]] = []

    def add(self, topic: str, key: bytes, value: bytes, at_ms: int, customer: str) -> None:
        self.sent.append((topic, key, value, at_ms, customer))

    def decide(self, customer: str, at_ms: int, *, held_out: bool, campaign: str = "win-back") -> None:
        value = decision(customer, at_ms, held_out=held_out, campaign=campaign)
        self.add(self.settings.actions_topic, customer.encode(), value, at_ms, customer)

    def order(self, event: OrderPlaced, at_ms: int) -> None:
        self.add(self.settings.orders_topic, event.customer_id.encode(), encode(event), at_ms, event.customer_id)

    async def send(self) -> None:
        async with AIOKafkaProducer(**self.settings.kafka_client()) as producer:
            for topic, key, value, at_ms, customer in sorted(self.sent, key=lambda sent: sent[3]):
                partition = murmur2(customer.encode(), self.settings.partitions)
                await producer.send(topic, value, key=key, partition=partition, timestamp_ms=at_ms)


def shop(settings: Settings, now: int) -> tuple[Records, list[float]]:
    """Return a win-back that helps: 600 treated and 200 held out 60 days ago, with what each group spent on average."""
    rng, records = np.random.default_rng(1), Records(settings)
    spent, begin = [0.0, 0.0], now - 60 * DAY_MS
    for number in range(800):
        customer, held_out = f"c{number}", number % 4 == 0
        records.decide(customer, begin, held_out=held_out)
        for place in range(int(rng.poisson(0.4 if held_out else 1.2))):
            amount = int(rng.integers(20, 40))
            at = begin + int(rng.uniform(0.1, 29) * DAY_MS)
            records.order(order(f"{customer}-{place}", customer, at, f"{amount}.00"), at)
            spent[held_out] += amount
        for place, day in enumerate((-200.0, 31.0)):
            at = begin + int(day * DAY_MS)
            records.order(order(f"{customer}-outside-{place}", customer, at, "500.00"), at)
    return records, [spent[False] / 600, spent[True] / 200]


async def command(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = await asyncio.to_thread(run, settings, "campaigns", *arguments, "--json", code=code)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_a_campaign_that_helps(settings: Settings, tmp_path: Path) -> None:
    now = now_ms()
    records, spent = shop(settings, now)
    begin = now - 60 * DAY_MS
    # left out: merged, contaminated, still open
    for customer in ("merged", "twice", "open"):
        records.decide(customer, begin if customer != "open" else now - DAY_MS, held_out=False)
    records.decide("twice", begin - DAY_MS, held_out=True, campaign="thanks")
    merge = CustomerMerged(id="m", from_="else", into="merged", occurred_at=instant(begin + DAY_MS))
    records.add(settings.orders_topic, b"else", encode(merge), begin + DAY_MS, "else")
    # An order under an id that was merged long ago is handed on to c1, by two groups; it counts once.
    late = order("handed", "old-c1", begin + 5 * DAY_MS, "60.00")
    for group in ("a", "b"):
        handed = EventForwarded(id=f"f{group}", customer_id="c1", event=late, arrived=begin)
        records.add(settings.orders_topic, CONTROL_KEY, encode(handed), begin + 5 * DAY_MS, "c1")
    await records.send()

    report = await command(settings, "uplift")
    assert [found["campaign"] for found in report["campaigns"]] == ["thanks", "win-back"]
    found = report["campaigns"][1]
    assert found["left_out"] == {"open": 1, "contaminated": 1, "merged": 1, "erased": 0}
    assert (found["treated"]["customers"], found["held_out"]["customers"]) == (600, 200)
    assert found["treated"]["spend"] == pytest.approx(spent[0] + 60 / 600, abs=1e-3)
    assert found["held_out"]["spend"] == pytest.approx(spent[1], abs=1e-3)
    assert found["verdict"] == "gain"
    assert found["orders"]["low"] > 0.2
    assert not found["shifting"]

    # From a file: nothing is known of the order that was handed on.
    path = tmp_path / "orders.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["order_id", "customer_id", "ordered_at", "amount", "currency"])
        for topic, key, value, *_ in records.sent:
            if topic == settings.orders_topic and b'"order.placed"' in value and key != CONTROL_KEY:
                event = json.loads(value)
                row = (event["order_id"], event["customer_id"], event["occurred_at"], event["amount"]["value"], "USD")
                writer.writerow(row)
    filed = await command(settings, "uplift", "--from", str(path), "--campaign", "win-back")
    assert [one["campaign"] for one in filed["campaigns"]] == ["win-back"]
    assert filed["campaigns"][0]["treated"]["spend"] == pytest.approx(spent[0], rel=0.01)
    assert filed["campaigns"][0]["left_out"]["open"] == 1
    assert filed["known_until"] == iso(begin + 31 * DAY_MS)

    path.write_text("order_id,customer_id,ordered_at,amount,currency\n")
    with pytest.raises(NoContacts, match="no usable row"):
        await asyncio.to_thread(run, settings, "campaigns", "uplift", "--from", str(path))
    event_time = settings.model_copy(update={"time": "event"})
    assert (await command(event_time, "uplift"))["known_until"] == iso(now - DAY_MS)  # of the latest decision

    text = (await asyncio.to_thread(run, settings, "campaigns", "uplift")).output
    assert "helps" in text
    assert "win-back: left out 1 still in the time after, 1 reached by another campaign in the time before" in text


async def test_a_campaign_that_harms_ends_with_one(settings: Settings) -> None:
    now = now_ms()
    records = Records(settings)
    for number in range(600):
        customer, held_out = f"c{number}", number % 2 == 0
        records.decide(customer, now - 40 * DAY_MS, held_out=held_out)
        if held_out and number % 6:
            records.order(order(customer, customer, now - 30 * DAY_MS, "25.00"), now - 30 * DAY_MS)
    await records.send()
    done = await asyncio.to_thread(run, settings, "campaigns", "uplift", code=1)
    assert "HARMS" in done.stdout
    assert "win-back harms: treated customers spend less" in done.stderr
    assert "win-back harms: treated customers order less" in done.stderr
    with pytest.raises(NoContacts, match="no campaign has acted"):
        await asyncio.to_thread(run, settings, "campaigns", "uplift", "--since", iso(now + 40 * DAY_MS))
    with pytest.raises(NoContacts, match="campaign 'thanks'"):
        await asyncio.to_thread(run, settings, "campaigns", "uplift", "--campaign", "thanks")
