"""Where a restart begins to read outcomes: never behind one that its window doesn't know."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from stream.delivery.outbox import Outbox
from stream.delivery.outcomes import DeliverySucceeded
from stream.settings import Settings
from tests.unit.stream.delivery.test_positions import outcome


class SlowBroker:
    """A producer that acknowledges when the test says so, in the order of the sends."""

    def __init__(self) -> None:
        self.sent: list[asyncio.Future[Any]] = []

    async def send_and_wait(self, *_: Any, **__: Any) -> Any:
        self.sent.append(asyncio.get_running_loop().create_future())
        return await self.sent[-1]

    async def acknowledge(self, number: int) -> None:
        self.sent[number].set_result(SimpleNamespace(offset=100 + number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_an_outcome_under_way_is_read_again_whatever_is_acknowledged_after_its_send() -> None:
    broker = SlowBroker()
    outbox = Outbox(Settings(), broker)
    outbox.seen(0, 100)
    tasks = [asyncio.create_task(outbox.outcome(outcome(DeliverySucceeded, n, 1))) for n in range(3)]
    await asyncio.sleep(0)
    assert outbox.outcomes_from("crm", 0) == 100
    await broker.acknowledge(0)
    assert outbox.outcomes_from("crm", 0) == 100, "the second one may be at 101"
    await broker.acknowledge(1)
    await broker.acknowledge(2)
    assert outbox.outcomes_from("crm", 0) == 103
    assert outbox.outcomes_from("other", 0) == 103
    await asyncio.gather(*tasks)


async def test_an_outcome_sent_later_needs_no_earlier_ones() -> None:
    broker = SlowBroker()
    outbox = Outbox(Settings(), broker)
    first = asyncio.create_task(outbox.outcome(outcome(DeliverySucceeded, 1, 1)))
    await asyncio.sleep(0)
    await broker.acknowledge(0)
    second = asyncio.create_task(outbox.outcome(outcome(DeliverySucceeded, 2, 1)))
    await asyncio.sleep(0)
    assert outbox.outcomes_from("crm", 0) == 101
    await broker.acknowledge(1)
    await asyncio.gather(first, second)
