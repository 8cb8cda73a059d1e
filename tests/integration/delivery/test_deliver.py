"""Deliveries to endpoints of the suite, by a real Kafka: each action at least once, in order per customer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from segmentation.events import Reason
from segmentation.partitioners import murmur2
from stream.clock import now_ms
from stream.dead_letters.redrive import redrive
from stream.dead_letters.routing import Selection
from stream.delivery.app import run_deliveries
from stream.delivery.control import EndpointRefused, disable_endpoint, enable_endpoint, endpoint_statuses
from stream.kafka.clients import read_topic
from stream.settings import Settings
from stream.webhooks.endpoints import BreakerOptions, Endpoint, SecretSource
from tests.support.delivery.endpoint import DROP, SECRET, Reply, WebhookReceiver, action, encoded, webhook_endpoint
from tests.support.engine.toy_engine import eventually

WAIT_S = 60


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)


def endpoint(receiver: WebhookReceiver | str, name: str = "crm", **options: Any) -> Endpoint:
    """Return an endpoint on this machine that reads from the beginning and tries again after a second."""
    url = receiver if isinstance(receiver, str) else receiver.url
    chosen: dict[str, Any] = {
        "start": "beginning",
        "allow_http": True,
        "allow_private": True,
        "retries": ("1s",) * 5,
        "breaker": BreakerOptions(failures=1_000),
        **options,
    }
    return Endpoint(name=name, url=url, secrets=(SecretSource(env="HOOK_SECRET"),), **chosen)


async def publish(settings: Settings, events: list[dict[str, Any]]) -> None:
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for event in events:
            key = event["customer_id"].encode()
            await producer.send(
                settings.actions_topic, encoded(event), key=key, partition=murmur2(key, settings.partitions)
            )


@asynccontextmanager
async def delivering(settings: Settings, *endpoints: Endpoint) -> AsyncIterator[None]:
    """Deliver while the block runs, then stop in good order."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_deliveries(settings, endpoints, stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def outcomes(settings: Settings, name: str = "crm") -> list[dict[str, Any]]:
    events = [msgspec.json.decode(record.value) for record in await read_topic(settings, settings.deliveries_topic)]
    return [event for event in events if event["endpoint"] == name]


async def test_each_action_arrives_signed_and_in_order_per_customer(settings: Settings) -> None:
    events = [action(n, f"c{n % 7}") for n in range(70)]
    await publish(settings, events)
    async with webhook_endpoint() as receiver:
        # Every fifth fails at first, each in its own way.
        replies = [Reply(500), Reply(429, {"retry-after": "1"}), Reply(DROP), Reply(301, {"location": "/else"})]
        receiver.behave = lambda event, before: (
            replies[int(event["id"][-2:]) // 5 % 4] if int(event["id"][-2:]) % 5 == 0 and not before else Reply()
        )
        async with delivering(settings, endpoint(receiver)):
            await eventually(lambda: len(set(receiver.taken())) == 70, WAIT_S, "all actions")
        for customer in {event["customer_id"] for event in events}:
            wanted = [event["id"] for event in events if event["customer_id"] == customer]
            assert receiver.order_of(customer) == wanted
    counted = Counter(event["type"] for event in await outcomes(settings))
    assert counted == {"campaign.delivered": 70, "campaign.retrying": 14}


async def test_nothing_is_sent_after_410_until_the_endpoint_is_enabled(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(settings, [action(n, f"c{n}") for n in range(40)])
    async with webhook_endpoint() as receiver:
        receiver.behave = lambda _event, _before: Reply(410) if len(receiver.received) == 9 else Reply(delay_s=0.02)
        crm = endpoint(receiver, concurrency=4)
        async with delivering(settings, crm):
            await eventually(lambda: disabled(settings), WAIT_S, "a disabled endpoint")
            known = len(receiver.received)
            assert 10 <= known <= 13, "more than what was under way at the answer"
            await publish(settings, [action(40, "c1")])
        caplog.clear()
        async with webhook_endpoint() as other, delivering(settings, crm, endpoint(other, "other")):
            await eventually(lambda: len(other.taken()) == 41, WAIT_S, "all actions at another endpoint")
            assert len(receiver.received) == known, "sent to an endpoint that is gone"
            said = [record for record in caplog.records if "crm: disabled since" in record.getMessage()]
            assert len(said) == 1, "each outcome of another endpoint says again what is known"
            assert await enable_endpoint(settings, "crm") == 0
            await eventually(lambda: len(receiver.taken()) == 41, WAIT_S, "all actions, once enabled")
        assert Counter(receiver.taken()).most_common(1)[0][1] == 1


async def disabled(settings: Settings) -> bool:
    [status] = await endpoint_statuses(settings, ["crm"])
    return status.disabled_at is not None and status.processes == 0


@pytest.mark.slow
async def test_a_clock_that_is_set_back_holds_up_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with webhook_endpoint() as receiver:
        # Within the tolerance of the signature's time, and for longer than this test waits.
        monkeypatch.setattr("stream.delivery.app.now_ms", lambda: now_ms() - (200_000 if receiver.received else 0))
        await publish(settings, [action(n, f"c{n}") for n in range(10)])
        async with delivering(settings, endpoint(receiver, rate=10)):
            await eventually(lambda: len(receiver.taken()) == 10, WAIT_S, "all actions")


@pytest.mark.slow
async def test_an_endpoint_can_be_enabled_behind_all_that_waits(settings: Settings) -> None:
    async with webhook_endpoint() as receiver:
        crm = endpoint(receiver)
        async with delivering(settings, crm):
            await publish(settings, [action(0, "c")])
            await eventually(lambda: len(receiver.taken()) == 1, WAIT_S, "the first action")
            await disable_endpoint(settings, "crm", "moves house", now_ms())
            await eventually(lambda: disabled(settings), WAIT_S, "a disabled endpoint")
            await publish(settings, [action(n, "c") for n in range(1, 5)])
            assert await enable_endpoint(settings, "crm", skip=True) == 4
            await publish(settings, [action(5, "c")])
            await eventually(lambda: len(receiver.taken()) == 2, WAIT_S, "the last action")
    assert receiver.order_of("c") == [action(0, "c")["id"], action(5, "c")["id"]]


async def test_an_endpoint_that_nobody_knows_is_not_disabled(settings: Settings) -> None:
    with pytest.raises(EndpointRefused, match=r"no endpoint has the name 'nosuch'\. None is known\."):
        await disable_endpoint(settings, "nosuch", "by an operator", now_ms())
    assert await endpoint_statuses(settings, []) == []


async def test_a_dead_and_a_slow_endpoint_hold_up_no_other(settings: Settings) -> None:
    events = [action(n, f"c{n % 50}") for n in range(300)]
    async with webhook_endpoint() as well, webhook_endpoint() as slow:
        slow.behave = lambda _event, _before: Reply(delay_s=60)
        dead = endpoint("http://127.0.0.1:9/hook", "dead", breaker=BreakerOptions(failures=3))
        async with delivering(settings, endpoint(well), endpoint(slow, "slow", timeout="1s"), dead):
            await publish(settings, events[:1])
            await eventually(lambda: len(well.taken()) == 1, WAIT_S, "the first action")
            begun = time.monotonic()
            await publish(settings, events[1:])
            await eventually(lambda: len(set(well.taken())) == 300, WAIT_S, "all actions")
            took_s = time.monotonic() - begun
            await eventually(lambda: retried(settings, "dead", 3), WAIT_S, "the dead endpoint's attempts")
        alive, failing, _slow = await endpoint_statuses(settings, ["crm", "dead"])
    assert (alive.recent.failures, alive.recent.failed_at) == (0, None)
    assert alive.recent.delivered_at is not None
    assert (failing.recent.delivered_at, failing.recent.failures >= 3) == (None, True)
    assert failing.recent.failure == (await outcomes(settings, "dead"))[-1]["detail"]
    assert took_s < 30, "the slow endpoint alone would need 75 s"
    assert {event["status"] for event in await outcomes(settings, "dead")} == {None}
    assert len(await outcomes(settings, "dead")) < 10, "the breaker hasn't opened"


async def retried(settings: Settings, name: str, most: int) -> bool:
    return len(await outcomes(settings, name)) >= most


async def test_an_action_that_is_given_up_is_redriven_to_its_endpoint_alone(settings: Settings) -> None:
    withheld = action(1, "c1", type="campaign.withheld")
    await publish(settings, [action(0, "c1"), withheld, action(2, "c2")])
    async with webhook_endpoint() as receiver, webhook_endpoint() as other:
        # The address of this machine isn't allowed, and the name that leads to it isn't either.
        inside = endpoint(receiver.url.replace("127.0.0.1", "localhost"), allow_private=False, retries=("1s",))
        async with delivering(settings, inside, endpoint(other, "other")):
            await eventually(lambda: given_up(settings, 2), WAIT_S, "two actions given up")
        assert receiver.received == [], "connected to a private address"
        found = await outcomes(settings)
        assert [event["type"] for event in found if event["action_id"] == action(0, "c1")["id"]] == [
            "campaign.retrying",
            "campaign.undelivered",
        ]
        assert "this machine" in found[-1]["detail"]
        selection = Selection(frozenset({Reason.UNDELIVERED.value}), endpoint="crm")
        for sent in (2, 0):  # each once
            report = await redrive(settings, settings.actions_dead_letters_topic, selection, rate_per_s=100)
            assert sum(report.sent.values()) == sent
        async with delivering(settings, endpoint(receiver), endpoint(other, "other")):
            await eventually(lambda: len(receiver.taken()) == 2, WAIT_S, "the redriven actions")
        assert len(other.taken()) == 2
        again = Selection(frozenset({Reason.UNDELIVERED.value}), endpoint="crm", since_ms=0)
        report = await redrive(settings, settings.actions_dead_letters_topic, again, dry_run=True)
        assert sum(report.sent.values()) == 2


async def given_up(settings: Settings, count: int) -> bool:
    return [event["type"] for event in await outcomes(settings)].count("campaign.undelivered") == count


@pytest.mark.slow
async def test_attempts_and_their_times_survive_a_restart(settings: Settings) -> None:
    events = [action(n, "c") for n in range(3)]
    await publish(settings, events)
    async with webhook_endpoint() as receiver:
        receiver.behave = lambda _event, before: Reply(500 if before < 3 else 204)
        for attempts in (1, 2, 3):
            async with delivering(settings, endpoint(receiver)):
                await eventually(lambda: len(receiver.received) >= attempts, WAIT_S, f"attempt {attempts}")  # noqa: B023
        async with delivering(settings, endpoint(receiver)):
            await eventually(lambda: len(receiver.taken()) == 3, WAIT_S, "all actions")
    of_first = [event for event in await outcomes(settings) if event["action_id"] == events[0]["id"]]
    assert [event["attempt"] for event in of_first] == [1, 2, 3, 4]
    for failed, next_one in pairwise(of_first):
        assert next_one["at"] >= failed["next_attempt_at"], "tried before its time"
    assert receiver.order_of("c") == [event["id"] for event in events]


@pytest.mark.slow
async def test_a_second_process_takes_partitions_over(settings: Settings) -> None:
    events = [action(n, f"c{n % 40}") for n in range(400)]
    await publish(settings, events)
    async with webhook_endpoint() as receiver:
        receiver.behave = lambda _event, _before: Reply(delay_s=0.02)
        crm = endpoint(receiver, concurrency=8)
        async with delivering(settings, crm):
            await eventually(lambda: len(receiver.taken()) > 50, WAIT_S, "the first actions")
            async with delivering(settings, crm):
                await eventually(lambda: len(receiver.taken()) > 150, WAIT_S, "more actions")
            await eventually(lambda: len(set(receiver.taken())) == 400, WAIT_S, "all actions")
    for customer in {event["customer_id"] for event in events}:
        assert receiver.order_of(customer) == [e["id"] for e in events if e["customer_id"] == customer]
    assert len(receiver.taken()) == 400, "sent twice"


@pytest.mark.slow
async def test_a_full_window_stops_the_reading_of_its_endpoint_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.delivery.courier.MOST_RECORDS", 50)
    events = [action(n, f"c{n}") for n in range(1_500)]  # more than a batch, in each partition
    async with webhook_endpoint() as well, webhook_endpoint() as stuck:
        stuck.behave = lambda _event, _before: Reply(500)
        late = endpoint(stuck, "late", retries=("1h",), concurrency=50)
        await publish(settings, events)
        async with delivering(settings, endpoint(well, concurrency=50), late):
            await eventually(lambda: len(set(well.taken())) == len(events), WAIT_S, "all actions at the other endpoint")
            tried = len({hook.id for hook in stuck.received})
            assert 50 <= tried < len(events), "its window has no limit"
            status = (await endpoint_statuses(settings, ["late"]))[0]
            assert status.behind + status.waiting == len(events)
